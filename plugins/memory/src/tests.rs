//! Tests of the whole backend.

use std::time::Duration;

use proptest::prelude::*;
use storage_plugin_api::{
    Answer, Backend, Call, Delete, Deleted, ErrorKind, EventStamp, Fields, Order, Outcome, Prune, Query, State, Status,
    names, with_items,
};

use crate::{Memory, Options};

const SECOND: i64 = 1_000_000;

fn call() -> Call {
    Call::with_budget(Duration::from_secs(1))
}

fn memory(max_bytes: usize, evict: bool) -> Memory {
    Memory::new(Options { max_bytes, evict })
}

fn event(event_id: &str, time: i64, status: Status) -> State {
    let mut state = State::new();
    let stamp = EventStamp::new(time, event_id);
    state.set_created(&stamp);
    if status.is_terminal() {
        state.set_end(&stamp, status);
        state.set_text(&stamp, &names::outcome(status, "output"), format!("output of {event_id}"));
    } else {
        state.set_open(&stamp, status);
        state.set_text(&stamp, names::CODE, format!("code of {event_id}"));
        state.set_string(&stamp, names::LANGUAGE, if time % 2 == 0 { "python" } else { "ruby" });
    }
    state
}

fn merge(memory: &Memory, id: &str, state: &State) -> Answer {
    with_items(&[(id, state)], |batch| memory.merge(&call(), batch)).expect("merged").remove(0)
}

fn is_overloaded(answer: &Answer) -> bool {
    matches!(&answer.outcome, Outcome::Rejected(error) if error.kind == ErrorKind::Overloaded)
}

fn canonical(memory: &Memory, id: &str) -> Option<String> {
    let found = memory.get(&call(), &[id], Fields::Whole).expect("read").remove(0)?;
    Some(found.state.to_canonical_json())
}

fn ids(memory: &Memory, query: &Query) -> Vec<String> {
    let mut query = query.clone();
    let mut ids = Vec::new();
    loop {
        let page = memory.list(&call(), &query).expect("listed");
        assert!(page.entries.len() <= query.limit);
        ids.extend(page.entries.into_iter().map(|(id, _)| id));
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return ids;
        }
    }
}

fn bytes(memory: &Memory) -> u64 {
    memory.health().details["bytes"].as_u64().expect("a number")
}

fn counts(memory: &Memory) -> Vec<(String, u64)> {
    memory.counts(&call()).expect("counted").by_status.into_iter().collect()
}

/// Evaluations `e-00` to `e-29`, each created a second after the one before; every third completed.
fn filled() -> Memory {
    let memory = memory(1 << 20, false);
    for number in 0..30 {
        let id = format!("e-{:02}", number * 7 % 30);
        merge(&memory, &id, &event("q", i64::from(number) * SECOND + i64::from(number), Status::Queued));
        if number % 3 == 0 {
            merge(&memory, &id, &event("c", 100 * SECOND + i64::from(number), Status::Completed));
        }
    }
    memory
}

#[test]
fn a_merge_answers_what_it_did() {
    let memory = memory(1 << 20, false);
    let queued = event("q", 1, Status::Queued);

    assert_eq!(merge(&memory, "a", &queued).outcome, Outcome::Created);
    assert_eq!(merge(&memory, "a", &queued).outcome, Outcome::Unchanged);
    let completed = merge(&memory, "a", &event("c", 2, Status::Completed));
    assert_eq!((completed.outcome, completed.status), (Outcome::Updated, Some(Status::Completed)));
    assert_eq!(merge(&memory, "b", &State::new()).outcome, Outcome::Unchanged);
    assert!(canonical(&memory, "b").is_none());
}

#[test]
fn at_the_limit_what_is_new_is_refused_and_what_does_not_grow_is_merged() {
    let memory = memory(64 * 1024, false);
    let mut stored = 0;
    while !is_overloaded(&merge(&memory, &format!("e-{stored}"), &event("q", 2, Status::Queued))) {
        stored += 1;
    }

    assert!(stored > 20, "{stored}");
    assert!(bytes(&memory) <= 64 * 1024);
    assert!(!memory.health().healthy);
    assert_eq!(merge(&memory, "e-0", &event("q", 2, Status::Queued)).outcome, Outcome::Unchanged);
    let mut earlier = State::new();
    earlier.set_created(&EventStamp::new(1, "q"));
    assert_eq!(merge(&memory, "e-0", &earlier).outcome, Outcome::Updated);
    let mut larger = State::new();
    larger.set_text(&EventStamp::new(1, "c"), "completed/output", "x".repeat(60 * 1024));
    assert!(is_overloaded(&merge(&memory, "e-0", &larger)));

    // With room again it goes on.
    memory.delete(&call(), &[Delete { id: "e-1", digest: None }]).expect("deleted");
    assert_eq!(merge(&memory, "new", &event("q", 2, Status::Queued)).outcome, Outcome::Created);
    assert!(memory.health().healthy);
}

#[test]
fn what_never_fits_is_invalid() {
    let mut huge = State::new();
    huge.set_text(&EventStamp::new(1, "c"), "completed/output", "x".repeat(128 * 1024));

    for evict in [false, true] {
        let answer = merge(&memory(64 * 1024, evict), "a", &huge);
        assert!(matches!(answer.outcome, Outcome::Rejected(error) if error.kind == ErrorKind::InvalidItem));
    }
}

#[test]
fn an_evicting_memory_forgets_what_was_not_used_for_long() {
    // Enough for each part to hold several: one with a single entry has no other to forget.
    let memory = memory(2 * 1024 * 1024, true);

    for number in 0..20_000 {
        let answer = merge(&memory, &format!("e-{number:05}"), &event("q", number, Status::Queued));
        assert_eq!(answer.outcome, Outcome::Created);
        assert!(bytes(&memory) <= 2 * 1024 * 1024);
        // Asked for all the time.
        if number % 4 == 0 {
            memory.get(&call(), &["e-00000"], Fields::Whole).expect("read");
        }
    }

    let left = ids(&memory, &Query { limit: 30_000, ..Query::default() });
    assert!(left.len() > 50, "{}", left.len());
    assert_eq!(left[0], "e-00000", "what is used stays");
    let recent = left.iter().filter(|id| id.as_str() >= "e-15000").count();
    assert!(recent * 10 > left.len() * 8, "{recent} of {} are recent", left.len());
    assert_eq!(counts(&memory), [("queued".to_owned(), left.len() as u64)]);
}

#[test]
fn lists_go_in_both_orders_and_filter() {
    let memory = filled();

    for limit in [1, 4, 30, 100] {
        let by_id = ids(&memory, &Query { limit, ..Query::default() });
        assert_eq!(by_id, (0..30).map(|number| format!("e-{number:02}")).collect::<Vec<_>>());
        let newest = ids(&memory, &Query { limit, order: Order::NewestFirst, ..Query::default() });
        assert_eq!(newest, (0..30).rev().map(|number| format!("e-{:02}", number * 7 % 30)).collect::<Vec<_>>());
    }
    for order in [Order::Id, Order::NewestFirst] {
        let count = |query: Query| ids(&memory, &Query { limit: 4, order, ..query }).len();
        assert_eq!(count(Query { status: Some("completed".into()), ..Query::default() }), 10);
        assert_eq!(count(Query { language: Some("ruby".into()), ..Query::default() }), 15);
        let (since, until) = (Some(10 * SECOND), Some(20 * SECOND));
        assert_eq!(count(Query { since, until, ..Query::default() }), 10);
    }
}

#[test]
fn a_list_by_id_sees_each_once_while_others_merge() {
    let memory = filled();
    let query = Query { limit: 3, ..Query::default() };
    let mut seen = Vec::new();
    let mut cursor = None;

    for round in 0.. {
        let page = memory.list(&call(), &Query { cursor: cursor.clone(), ..query.clone() }).expect("listed");
        seen.extend(page.entries.into_iter().map(|(id, _)| id));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
        merge(&memory, &format!("a-{round}"), &event("q", 1, Status::Queued));
        merge(&memory, &format!("e-{:02}", 29 - round), &event("c", -round, Status::Failed));
    }

    assert_eq!(seen, (0..30).map(|number| format!("e-{number:02}")).collect::<Vec<_>>());
}

#[test]
fn a_cursor_of_another_list_is_refused() {
    let query = Query { cursor: Some("id:a".into()), order: Order::NewestFirst, limit: 1, ..Query::default() };

    let error = filled().list(&call(), &query).expect_err("refused");

    assert_eq!(error.kind, ErrorKind::Configuration);
}

#[test]
fn without_bodies_there_are_references() {
    let memory = filled();

    let found = memory.get(&call(), &["e-00"], Fields::WithoutBodies).expect("read").remove(0).expect("stored");

    let code = found.state.get(names::CODE).and_then(|code| code.value.as_body().cloned()).expect("code");
    assert_eq!(code.as_text(), None);
    assert_eq!(code.characters(), "code of q".len() as u64);
}

#[test]
fn a_delete_takes_only_what_its_digest_fits() {
    let memory = filled();
    let state = memory.get(&call(), &["e-00"], Fields::Whole).expect("read").remove(0).expect("stored").state;
    let digest = state.digest();
    let delete = |id, digest| memory.delete(&call(), &[Delete { id, digest }]).expect("deleted").remove(0);

    assert_eq!(delete("e-01", Some(&digest)), Deleted::Differs);
    assert_eq!(delete("e-00", Some(&digest)), Deleted::Deleted);
    assert_eq!(delete("e-00", None), Deleted::Absent);
    assert_eq!(delete("e-01", None), Deleted::Deleted);
    assert_eq!(ids(&memory, &Query { limit: 100, ..Query::default() }).len(), 28);
}

#[test]
fn prune_removes_what_ended_before_a_time_in_parts() {
    let memory = filled();
    let prune = |limit, dry_run| {
        let prune = Prune { ended_before: 100 * SECOND + 15, limit, dry_run };
        let pruned = memory.prune(&call(), &prune).expect("pruned");
        (pruned.removed, pruned.more)
    };

    assert_eq!(prune(100, true), (5, false));
    assert_eq!(prune(3, false), (3, true));
    assert_eq!(prune(3, false), (2, false));
    assert_eq!(counts(&memory), [("completed".to_owned(), 5), ("queued".to_owned(), 20)]);
}

#[test]
fn deleted_evaluations_give_all_their_bytes_back() {
    let memory = filled();

    for id in ids(&memory, &Query { limit: 100, ..Query::default() }) {
        memory.delete(&call(), &[Delete { id: &id, digest: None }]).expect("deleted");
    }

    assert_eq!(bytes(&memory), 0);
    assert_eq!(counts(&memory), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Any order, repetition and split over threads gives the state that joining them one by one gives.
    #[test]
    fn the_laws_hold(events in prop::collection::vec((0..3_usize, 0..4_i64, 0..7_usize), 1..24), split in 1..24_usize) {
        let events: Vec<State> =
            events.iter().map(|(id, time, status)| event(&format!("ev-{id}"), *time, Status::ALL[*status])).collect();
        let mut expected = State::new();
        for event in &events {
            expected.merge(event);
        }
        let memory = memory(1 << 20, false);
        let (some, others) = events.split_at(split.min(events.len()));

        std::thread::scope(|scope| {
            for part in [some, others, others] {
                let memory = &memory;
                scope.spawn(move || part.iter().rev().for_each(|event| drop(merge(memory, "a", event))));
            }
        });

        prop_assert_eq!(canonical(&memory, "a"), Some(expected.to_canonical_json()));
        prop_assert_eq!(counts(&memory).iter().map(|(_, count)| count).sum::<u64>(), 1);
    }
}
