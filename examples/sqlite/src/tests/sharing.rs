//! Several that write to one database.

use rusqlite::TransactionBehavior;
use storage_plugin_api::{ErrorKind, Outcome};

use super::*;

#[test]
fn while_another_writes_for_long_merges_are_told_to_come_again_and_reads_go_on() {
    let store = filled();
    let mut other = raw(store.directory.path());
    let writing = other.transaction_with_behavior(TransactionBehavior::Immediate).expect("begun");
    let in_a_hurry = Call::with_budget(Duration::from_millis(50));
    let queued = event("q", 1, Status::Queued);

    let error = try_merge(&store, &in_a_hurry, &[("new", &queued)]).expect_err("busy");

    assert_eq!(error.kind, ErrorKind::Overloaded);
    assert!(error.retry_after.is_some());
    assert!(store.health().healthy, "somebody else's turn is no trouble");
    assert_eq!(ids(&store, &Query { limit: 100, ..Query::default() }).len(), 30);

    writing.commit().expect("committed");

    assert_eq!(merge(&store, "new", &queued).outcome, Outcome::Created);
}

#[test]
fn a_merge_waits_for_its_turn() {
    let store = store();
    let mut other = raw(store.directory.path());
    let writing = other.transaction_with_behavior(TransactionBehavior::Immediate).expect("begun");

    std::thread::scope(|scope| {
        let merging = scope.spawn(|| merge(&store.backend, "a", &event("q", 1, Status::Queued)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(get(&store, "a").is_none());
        writing.commit().expect("committed");
        assert_eq!(merging.join().expect("merged").outcome, Outcome::Created);
    });
}

/// More calls at once than there are connections, by two that know nothing of each other.
#[test]
fn two_backends_of_many_threads_leave_one_truth() {
    let store = store();
    let other = open(store.directory.path());
    let events: Vec<State> =
        (0..40).map(|number| event(&format!("ev-{number}"), number % 13, Status::ALL[number as usize % 7])).collect();
    let ids: Vec<String> = (0..10).map(|number| format!("e-{number}")).collect();

    std::thread::scope(|scope| {
        for thread in 0..12 {
            let backend = if thread % 2 == 0 { &store.backend } else { &other };
            let (events, ids) = (&events, &ids);
            scope.spawn(move || {
                for number in 0..events.len() {
                    let event = &events[(number * 7 + thread) % events.len()];
                    let batch: Vec<(&str, &State)> = ids.iter().map(|id| (&**id, event)).collect();
                    try_merge(backend, &call(), &batch).expect("merged");
                    assert!(get(backend, &ids[thread % ids.len()]).is_some());
                }
            });
        }
    });

    let mut expected = State::new();
    for event in &events {
        expected.merge(event);
    }
    for id in &ids {
        assert_eq!(canonical(&store, id), Some(expected.to_canonical_json()));
        assert_eq!(canonical(&other, id), Some(expected.to_canonical_json()));
    }
    let health = store.health();
    assert!(health.healthy && health.details["database_bytes"].as_u64() > Some(0), "{health:?}");
}
