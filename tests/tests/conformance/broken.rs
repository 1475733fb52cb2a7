//! The proof that the kit can fail: a backend of which one rule is broken is caught by exactly one behavior.

use serde_json::{Value, json};
use storage_plugin_api::conformance::behaviors;
use storage_worker_tests::outside::repository;

use crate::{Kit, with_verdict};

/// A test for each broken rule and the one behavior that must catch it.
macro_rules! broken {
    ($($rule:ident => $behavior:literal,)*) => {
        /// Every rule and who catches it.
        const RULES: &[(&str, &str)] = &[$((stringify!($rule), $behavior)),*];
        $(
            #[test]
            fn $rule() {
                assert_caught(stringify!($rule), $behavior);
            }
        )*
    };
}

broken! {
    last_arrival => "merge.order",
    ties_by_arrival => "merge.ties",
    one_stamp_per_item => "merge.grouping",
    batch_dedup => "merge.id_twice_in_a_batch",
    bad_item_fails_batch => "merge.bad_item",
    empty_batch => "merge.empty_batch",
    stores_nothing => "merge.empty_state",
    batch_cap => "merge.many_items",
    truncates => "merge.large_body",
    strips_nul => "merge.odd_text",
    ignores_case => "merge.ids_at_the_limits",
    known_names => "merge.unknown_registers",
    history_by_arrival => "merge.history_limit",
    empty_references => "merge.references",
    status_of_item => "merge.tells_what_happened",
    sorted_answers => "read.get_in_order",
    always_incomplete => "read.get_in_order",
    cache_per_thread => "read.sees_what_was_answered",
    bodies_always => "read.without_bodies",
    until_inclusive => "list.filters",
    pages_of_one => "list.by_id",
    one_read => "list.by_id",
    friendly_order => "list.by_id",
    one_cursor => "list.by_id",
    stale_index => "list.filters",
    skipping_cursor => "list.while_rows_are_added",
    deleted_cursor => "list.while_rows_are_deleted",
    cursor_is_internal => "list.foreign_cursor",
    ids_ascending => "list.newest_first",
    deleted_twice => "delete.removes",
    tombstones => "delete.leaves_no_trace",
    ignores_digest => "delete.by_digest",
    any_option => "life_cycle.wrong_options",
    check_writes => "life_cycle.check_touches_nothing",
    shared_states => "life_cycle.two_instances",
    third_opening => "life_cycle.opens_again",
    flush_fails => "life_cycle.closes_twice",
    no_lock => "life_cycle.one_at_a_time",
    created_twice => "concurrency.creates_once",
    lost_update => "concurrency.same_ids",
    lost_insert => "concurrency.different_ids",
    digest_race => "concurrency.delete_by_digest",
    slow_health => "health.does_not_wait",
    leaks_threads => "resources.are_given_back",
    capacity => "panics.never",
    says_volatile => "durability.is_answered",
    forgets_deletes => "durability.kept_when_reopened",
    never_syncs => "durability.synced_before_answered",
    loses_last_batch => "durability.survives_kill",
    counts_once => "counts.by_status",
    prunes_open => "prune.old_and_terminal",
    claims_shared => "shared.four_processes",
    offers_more => "errors.not_offered",
    away_is_internal => "errors.far_side_away",
    away_hangs => "errors.far_side_away",
    blobs_unordered => "blobs.kept_and_listed",
    blobs_forgotten => "blobs.kept_when_reopened",
    blobs_any_age => "blobs.delete_if_untouched",
    aborts => "delete.by_digest",
    hangs => "prune.old_and_terminal",
}

fn card_of(rule: Option<&str>) -> (i32, Value) {
    let options = |away: bool| {
        let mut options = json!({ "path": "{dir}", "away": away });
        if let Some(rule) = rule {
            options["break"] = rule.into();
        }
        options.to_string()
    };
    let (options, away) = (options(false), options(true));
    let arguments = ["broken", "--options", &options, "--away-options", &away, "--timeout", "30", "--output", "json"];
    let answer = Kit::new().run(&arguments);
    (answer.code, answer.json())
}

#[track_caller]
fn assert_caught(rule: &str, behavior: &str) {
    let (code, card) = card_of(Some(rule));

    let failed = with_verdict(&card, "failed");
    assert_eq!(failed, [behavior], "of `{rule}`: {}", card["behaviors"]);
    assert_eq!(with_verdict(&card, "not_run"), [""; 0], "{}", card["behaviors"]);
    assert_eq!(code, 1);
}

#[test]
fn with_no_rule_broken_it_passes() {
    let (code, card) = card_of(None);

    assert_eq!(with_verdict(&card, "failed"), [""; 0], "{}", card["behaviors"]);
    assert_eq!(card["levels"]["complete"]["reached"], true, "{}", card["levels"]);
    assert_eq!(code, 0);
}

#[test]
fn every_rule_that_can_be_broken_is_caught() {
    let text = std::fs::read_to_string(repository().join("tests/broken/src/rules.rs")).expect("read the rules");
    let names = text.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(','));
    let snake = |name: &str| {
        let words = name.char_indices().map(|(index, char)| match char.is_uppercase() && index > 0 {
            true => format!("_{}", char.to_lowercase()),
            false => char.to_lowercase().to_string(),
        });
        words.collect::<String>()
    };
    // That one is about a plugin which cannot be tested at all; see `bad_input.rs`.
    let rules: Vec<String> = names.map(snake).filter(|name| name != "hangs_in_open").collect();

    assert_eq!(rules.len(), RULES.len());
    assert!(rules.iter().all(|rule| RULES.iter().any(|(name, _)| name == rule)), "{rules:?}");
}

/// What no plugin can get wrong, and where the behavior is shown to fail all the same.
const OUT_OF_REACH: [(&str, &str); 1] =
    [("life_cycle.called_after_close", "plugin-api answers in the plugin's place; see `bare.rs`")];

#[test]
fn every_behavior_is_shown_to_fail() {
    let has_rule = |name: &str| RULES.iter().any(|(_, behavior)| *behavior == name);
    let is_out_of_reach = |name: &str| OUT_OF_REACH.iter().any(|(behavior, _)| *behavior == name);

    let names: Vec<&str> = behaviors().map(|behavior| behavior.name).collect();

    let unproven: Vec<&&str> = names.iter().filter(|name| !has_rule(name) && !is_out_of_reach(name)).collect();
    assert!(unproven.is_empty(), "give `tests/broken` a rule for {unproven:?}");
    assert!(OUT_OF_REACH.iter().all(|(name, _)| !has_rule(name)), "take it out of `OUT_OF_REACH`");
}
