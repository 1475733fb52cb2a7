//! The laws of the merge, over sets of events in which ties, reused event ids and losing outcomes are common.
//!
//! All of them are stated over bytes: two states are equal if their canonical JSON is.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use storage_plugin_api::body::sha256;
use storage_plugin_api::names::{self, MAX_HISTORY};
use storage_plugin_api::{Body, EventStamp, Record, Reference, Register, Rule, State, Status, Value, with_items};

const CASES: u32 = 10_000;

/// A stamp out of few, so that two events often share the time, the id or both.
fn stamp() -> impl Strategy<Value = EventStamp> {
    let id = prop::sample::select(vec!["a", "b", "c", "d"]);
    (0..3_i64, id).prop_map(|(time, id)| EventStamp::new(time, id))
}

/// How a body is kept: as its text, or as a reference with or without a place and a preview.
type Form = Option<(Option<&'static str>, &'static str)>;

fn form() -> impl Strategy<Value = Form> {
    let location = prop::option::of(prop::sample::select(vec!["blob:1", "blob:2"]));
    prop::option::of((location, prop::sample::select(vec!["", "o"])))
}

fn body_of(text: &str, form: Form) -> Body {
    let Some((location, preview)) = form else { return Body::text(text) };
    Body::reference(Reference {
        characters: text.chars().count() as u64,
        lines: text.lines().count() as u64,
        location: location.map(str::to_owned),
        preview: preview.to_owned(),
        sha256: sha256(text.as_bytes()),
    })
}

/// A body out of few.
fn body() -> impl Strategy<Value = Body> {
    let text = prop::sample::select(vec!["one", "two\n", "\0é\u{10ffff}\"\\"]);
    (text, form()).prop_map(|(text, form)| body_of(text, form))
}

fn json() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["1", "1.50", "\"x\"", "[]", "{\"$serde_json::private::Number\":\"1\"}"])
}

/// What one event says, as the worker decodes it.
fn event() -> impl Strategy<Value = State> {
    let status = prop::sample::select(Status::ALL.to_vec());
    let texts = prop::collection::vec((prop::sample::select(vec!["code", "output", "error"]), body()), 0..3);
    let metadata = prop::collection::vec((prop::sample::select(vec!["k", "l", ""]), json()), 0..3);
    let exit_code = prop::option::of(0..2_i64);
    (stamp(), status, texts, metadata, exit_code).prop_map(|(stamp, status, texts, metadata, exit_code)| {
        let mut state = State::new();
        state.set_created(&stamp);
        state.set_history(&stamp, "status_changed", status, &format!("Status changed to {status}"));
        for (key, value) in metadata {
            state.set_metadata(&stamp, key, value);
        }
        if status.is_terminal() {
            state.set_end(&stamp, status);
            if let Some(exit_code) = exit_code {
                state.set_number(&stamp, &names::outcome(status, "exit_code"), exit_code);
            }
        } else {
            state.set_open(&stamp, status);
            state.set_stage_at(&stamp, status);
        }
        for (name, body) in texts {
            let name = if name == "code" { names::CODE.into() } else { names::outcome(status, name) };
            state.set(Register { name, rule: Rule::First, stage: 0, stamp: stamp.clone(), value: Value::Body(body) });
        }
        state
    })
}

/// Registers that this version would not write: of unknown names, and of known ones under another rule or type.
fn foreign() -> impl Strategy<Value = State> {
    let name = prop::sample::select(vec!["new", "code", "open", "history/a", "metadata/k", "end/completed"]);
    let rule = prop::sample::select(vec![Rule::First, Rule::Last]);
    let value = prop_oneof![json().prop_map(|json| Value::Json(json.into())), body().prop_map(Value::Body)];
    let register = (name, rule, 0..3_u8, stamp(), value).prop_map(|(name, rule, stage, stamp, value)| Register {
        name: name.into(),
        rule,
        stage,
        stamp,
        value,
    });
    prop::collection::vec(register, 1..4).prop_map(|registers| {
        let mut state = State::new();
        registers.into_iter().for_each(|register| state.set(register));
        state
    })
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![4 => event(), 1 => foreign()]
}

/// Some states, some of them a second time with their bodies in another form, as a layer makes it.
fn sets() -> impl Strategy<Value = Vec<State>> {
    let twins = prop::collection::vec((any_state(), prop::option::weighted(0.3, form())), 1..7);
    twins.prop_map(|states| {
        let twin = |(state, form): (State, Option<Form>)| {
            let other = form.map(|form| {
                let mut other = state.clone();
                other.map_bodies(|_, body| body.as_text().map(|text| body_of(text, form)));
                other
            });
            std::iter::once(state).chain(other)
        };
        states.into_iter().flat_map(twin).collect()
    })
}

/// What several events say together.
fn joined_state() -> impl Strategy<Value = State> {
    prop::collection::vec(any_state(), 0..5).prop_map(|events| join(&events))
}

/// Merges, and checks that the answer says the truth.
fn merge(state: &mut State, other: &State) {
    let before = state.to_canonical_json();
    let changed = state.merge(other);
    assert_eq!(changed, before != state.to_canonical_json(), "`merge` answers whether the state changed");
}

fn join<'a>(states: impl IntoIterator<Item = &'a State>) -> State {
    let mut all = State::new();
    states.into_iter().for_each(|state| merge(&mut all, state));
    all
}

/// Repeats some states, puts all into some order, and joins them in some grouping.
fn join_in_some_way(states: &[State], seed: u64) -> State {
    let mut random = seed;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("31 bits fit") % bound
    };
    let mut groups = states.to_vec();
    for _ in 0..below(states.len() + 1) {
        groups.push(states[below(states.len())].clone());
    }
    while groups.len() > 1 {
        let other = groups.swap_remove(below(groups.len()));
        let chosen = below(groups.len());
        merge(&mut groups[chosen], &other);
    }
    groups.pop().unwrap_or_default()
}

/// How often the generated sets have what makes a merge hard.
#[derive(Default)]
struct Shares {
    sets: Cell<u32>,
    ties: Cell<u32>,
    reused_ids: Cell<u32>,
    losing_outcomes: Cell<u32>,
    two_forms: Cell<u32>,
}

impl Shares {
    fn count(&self, states: &[State]) {
        let add = |cell: &Cell<u32>, found: bool| cell.set(cell.get() + u32::from(found));
        let registers = || states.iter().flat_map(State::registers);
        let pairs = |matches: &dyn Fn(&Register, &Register) -> bool| {
            registers().any(|a| registers().any(|b| a.name == b.name && matches(a, b)))
        };
        let ends: BTreeSet<_> =
            registers().filter(|register| register.name.starts_with("end/")).map(|r| &r.name).collect();
        let hash = |register: &Register| register.as_ref().hash();
        let form = |register: &Register| register.value.as_body().map(|body| body.reference_json().map(str::to_owned));
        add(&self.sets, true);
        add(&self.ties, pairs(&|a, b| a.stamp == b.stamp && hash(a) != hash(b)));
        add(&self.reused_ids, pairs(&|a, b| a.stamp.event_id == b.stamp.event_id && a.stamp.time != b.stamp.time));
        add(&self.losing_outcomes, ends.len() > 1);
        add(&self.two_forms, pairs(&|a, b| a.stamp == b.stamp && hash(a) == hash(b) && form(a) != form(b)));
    }

    fn assert_common(&self) {
        for (what, found, at_least) in [
            ("ties", &self.ties, 20),
            ("reused event ids", &self.reused_ids, 20),
            ("losing outcomes", &self.losing_outcomes, 20),
            ("bodies in two forms", &self.two_forms, 5),
        ] {
            let percent = found.get() * 100 / self.sets.get();
            assert!(percent >= at_least, "{what} are in {percent} % of the sets, must be in {at_least} %");
        }
    }
}

#[test]
fn any_permutation_duplication_and_grouping_gives_the_same_bytes() {
    let shares = Shares::default();
    let sets = (sets(), any::<[u64; 3]>());

    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(CASES) };
    let outcome = TestRunner::new(config).run(&sets, |(states, seeds)| {
        shares.count(&states);
        let expected = join(&states).to_canonical_json();
        for seed in seeds {
            prop_assert_eq!(join_in_some_way(&states, seed).to_canonical_json(), expected.clone());
        }
        Ok(())
    });

    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    shares.assert_common();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn merging_is_commutative(a in joined_state(), b in joined_state()) {
        prop_assert_eq!(join([&a, &b]).to_canonical_json(), join([&b, &a]).to_canonical_json());
    }

    #[test]
    fn merging_is_associative(a in joined_state(), b in joined_state(), c in joined_state()) {
        let left = join([&join([&a, &b]), &c]);
        let right = join([&a, &join([&b, &c])]);

        prop_assert_eq!(left.to_canonical_json(), right.to_canonical_json());
    }

    #[test]
    fn merging_is_idempotent(a in joined_state(), b in joined_state()) {
        let mut both = join([&a, &b]);

        prop_assert!(!both.clone().merge(&both));
        prop_assert!(!both.merge(&a));
        prop_assert!(!both.merge(&State::new()));
    }

    #[test]
    fn the_stored_form_reads_back_to_the_same_bytes_and_merges_alike(a in joined_state(), b in joined_state()) {
        let reread = |state: &State| State::from_json(&state.to_canonical_json()).expect("it was just written");

        prop_assert_eq!(reread(&a).to_canonical_json(), a.to_canonical_json());
        prop_assert_eq!(join([&reread(&a), &reread(&b)]).to_canonical_json(), join([&a, &b]).to_canonical_json());
        prop_assert!(!a.clone().merge(&reread(&a)));
    }

    #[test]
    fn a_state_crosses_the_plugin_boundary_unchanged(a in joined_state()) {
        let crossed = with_items(&[("id", &a)], |items| items[0].to_state());

        prop_assert_eq!(crossed.to_canonical_json(), a.to_canonical_json());
    }

    #[test]
    fn a_state_without_its_bodies_adds_nothing(a in joined_state()) {
        prop_assert!(!a.clone().merge(&a.without_bodies()));
    }

    #[test]
    fn a_finished_evaluation_never_opens_again(a in joined_state(), b in joined_state()) {
        let is_finished = |state: &State| Record::status_of(state).is_some_and(Status::is_terminal);

        prop_assert!(!is_finished(&a) || is_finished(&join([&a, &b])));
    }
}

/// A state of many history entries, at times that depend on the id and a salt.
fn long_history(ids: impl Iterator<Item = usize>, salt: usize, rule: Rule) -> State {
    let mut state = State::new();
    for id in ids {
        let time = i64::try_from((id * 7919 + salt) % 1000).expect("it is below 1000");
        let stamp = EventStamp::new(time, format!("e{id:05}"));
        let name = format!("{}{}", names::HISTORY_PREFIX, stamp.event_id).into();
        let stage = u8::from(id % 5 == 0) * u8::try_from(salt % 3).expect("it is below 3");
        state.set(Register { name, rule, stage, stamp, value: Value::Json("1".into()) });
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// With a limit that kept other entries than the smallest ranks, the grouping decided which entries were left.
    #[test]
    fn the_longest_history_obeys_the_laws(salts in any::<[u8; 4]>(), seed: u64, last in 0..5_usize) {
        let rule = |index| if index == last { Rule::Last } else { Rule::First };
        let ids = |index| (0..MAX_HISTORY + 2000).filter(move |id| id % 4 != index);
        let part = |index: usize| long_history(ids(index), usize::from(salts[index]), rule(index));
        let mut parts: Vec<State> = (0..4).map(part).collect();
        parts.push(event_at_the_end());

        let all = join(&parts);
        prop_assert_eq!(all.with_prefix(names::HISTORY_PREFIX).len(), MAX_HISTORY);
        prop_assert_eq!(join_in_some_way(&parts, seed).digest(), all.digest());
    }
}

/// An event that comes after all others: it changes the state, but finds no place in a full history.
fn event_at_the_end() -> State {
    let stamp = EventStamp::new(5000, "last");
    let mut state = State::new();
    state.set_history(&stamp, "status_changed", Status::Running, "Status changed to running");
    state
}

#[test]
fn a_full_history_keeps_the_smallest_ranks() {
    let mut state = long_history(0..MAX_HISTORY, 0, Rule::First);

    assert!(!state.merge(&event_at_the_end()));
    let stamp = EventStamp::new(-1, "first");
    let mut first = State::new();
    first.set_history(&stamp, "submitted", Status::Submitted, "Evaluation submitted");
    assert!(state.merge(&first));

    assert_eq!(state.with_prefix(names::HISTORY_PREFIX).len(), MAX_HISTORY);
    assert!(state.get("history/first").is_some());
    assert!(state.get("history/last").is_none());
}

/// Each new name used to move all later ones, so that two states of many names took minutes to merge.
#[test]
fn many_names_merge_in_time_that_grows_with_their_number() {
    let state = |remainder: usize| {
        let mut state = State::new();
        let stamp = EventStamp::new(0, "e");
        (0..200_000).for_each(|key| state.set_metadata(&stamp, &format!("{:06}", key * 2 + remainder), "1"));
        state
    };
    let (mut even, odd) = (state(0), state(1));

    let began = std::time::Instant::now();
    assert!(even.merge(&odd));
    assert_eq!(even.registers().len(), 400_000);
    assert!(even.registers().is_sorted_by(|a, b| a.name < b.name));
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "it took {:?}", began.elapsed());
}

proptest! {
    /// Names are compared by their first eight bytes, and as a whole where these are equal or a name is shorter.
    #[test]
    fn registers_are_sorted_by_any_names_and_found(names in prop::collection::btree_set("[ab\0\u{ff}]{0,11}", 0..40)) {
        let mut state = State::new();
        let stamp = EventStamp::new(0, "e");
        let names: Vec<&String> = names.iter().rev().collect();
        for name in &names {
            state.set_number(&stamp, name, 1);
        }

        prop_assert!(state.registers().is_sorted_by(|a, b| a.name < b.name));
        prop_assert_eq!(state.registers().len(), names.len());
        prop_assert!(names.iter().all(|name| state.get(name).is_some()));
    }
}
