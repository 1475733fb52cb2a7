//! What every backend must do.

use proptest::prelude::*;
use storage_plugin_api::{Delete, Deleted, Durability, ErrorKind, Outcome, Prune};

use super::*;

#[test]
fn a_merge_answers_what_it_did() {
    let store = store();
    let queued = event("q", 1, Status::Queued);

    let created = merge(&store, "a", &queued);
    assert_eq!((created.outcome, created.durability), (Outcome::Created, Durability::Durable));
    assert_eq!(merge(&store, "a", &queued).outcome, Outcome::Unchanged);
    let completed = merge(&store, "a", &event("c", 2, Status::Completed));
    assert_eq!((completed.outcome, completed.status), (Outcome::Updated, Some(Status::Completed)));
    assert_eq!(merge(&store, "b", &State::new()).outcome, Outcome::Unchanged);
    assert!(canonical(&store, "b").is_none());
}

#[test]
fn an_id_may_occur_twice_in_a_batch() {
    let store = store();
    let (queued, completed) = (event("q", 1, Status::Queued), event("c", 2, Status::Completed));

    let answers = try_merge(&store, &call(), &[("a", &queued), ("a", &completed), ("a", &queued)]).expect("merged");

    let outcomes: Vec<_> = answers.into_iter().map(|answer| answer.outcome).collect();
    assert_eq!(outcomes, [Outcome::Created, Outcome::Updated, Outcome::Unchanged]);
}

#[test]
fn what_is_stored_is_there_after_the_next_opening() {
    let store = filled();
    let before: Vec<_> = (0..30).map(|number| canonical(&store, &format!("e-{number:02}"))).collect();
    store.close(&call()).expect("closed");
    let Store { backend, directory } = store;
    drop(backend);

    let again = open(directory.path());

    let after: Vec<_> = (0..30).map(|number| canonical(&again, &format!("e-{number:02}"))).collect();
    assert!(before.iter().all(Option::is_some));
    assert_eq!(before, after);
    assert_eq!(counts(&again), [("completed".to_owned(), 10), ("queued".to_owned(), 20)]);
}

#[test]
fn any_text_survives() {
    let store = store();
    let all: String = (0..0x0011_0000).step_by(7).filter_map(char::from_u32).collect();
    let large = "\0\u{1}é\u{10FFFF}".repeat(2 << 20);
    let mut state = event("q", 1, Status::Queued);
    let stamp = EventStamp::new(2, "c\u{7f}");
    state.set_text(&stamp, "completed/output", all.clone());
    state.set_text(&stamp, "completed/error", large.clone());
    state.set_metadata(&stamp, "nul\0", "\"\\u0000\"");

    merge(&store, "a", &state);

    let found = get(&store, "a").expect("stored").state;
    assert_eq!(found.to_canonical_json(), state.to_canonical_json());
    let text = |name: &str| found.get(name).and_then(|body| body.value.as_body()?.as_text().map(str::to_owned));
    assert!(text("completed/output") == Some(all));
    assert!(text("completed/error") == Some(large));
}

#[test]
fn a_large_batch_is_one_call() {
    let store = store();
    let states: Vec<(String, State)> =
        (0..10_000).map(|number| (format!("e-{number}"), event("q", number, Status::Queued))).collect();
    let batch: Vec<(&str, &State)> = states.iter().map(|(id, state)| (&**id, state)).collect();

    let answers = try_merge(&store, &call(), &batch).expect("merged");

    assert_eq!(answers.len(), 10_000);
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Created));
    let ids: Vec<&str> = batch.iter().map(|(id, _)| *id).collect();
    let found = store.get(&call(), &ids, Fields::WithoutBodies).expect("read");
    assert!(found.iter().all(Option::is_some));
}

/// A batch that takes longer than its call goes on where it stopped.
#[test]
fn what_is_not_reached_in_time_is_tried_again() {
    let store = store();
    let state = event("q", 1, Status::Queued);
    let in_a_hurry = Call::with_budget(Duration::from_millis(200));
    let mut large = state.clone();
    large.set_text(&EventStamp::new(1, "q"), "completed/output", "x".repeat(16 << 20));
    let ids: Vec<String> = (0..64).map(|number| format!("e-{number}")).collect();
    let batch: Vec<(&str, &State)> = ids.iter().map(|id| (&**id, &large)).collect();

    let Ok(answers) = try_merge(&store, &in_a_hurry, &batch) else {
        // So slow that not even the first was done in time.
        assert!(canonical(&store, "e-0").is_none());
        return;
    };

    for (id, answer) in ids.iter().zip(answers) {
        match answer.outcome {
            Outcome::Created => assert!(get(&store, id).is_some(), "{id}"),
            Outcome::Rejected(error) => {
                assert_eq!(error.kind, ErrorKind::Overloaded);
                assert!(get(&store, id).is_none(), "{id}");
            }
            other => panic!("{id}: {other:?}"),
        }
    }
}

#[test]
fn a_delete_takes_only_what_its_digest_fits() {
    let store = filled();
    let digest = get(&store, "e-00").expect("stored").state.digest();
    let delete = |id, digest| store.delete(&call(), &[Delete { id, digest }]).expect("deleted").remove(0);

    assert_eq!(delete("e-01", Some(&digest)), Deleted::Differs);
    assert_eq!(delete("e-00", Some(&digest)), Deleted::Deleted);
    assert_eq!(delete("e-00", Some(&digest)), Deleted::Absent);
    assert_eq!(delete("e-00", None), Deleted::Absent);
    assert_eq!(delete("e-01", None), Deleted::Deleted);
    assert_eq!(ids(&store, &Query { limit: 100, ..Query::default() }).len(), 28);
    assert_eq!(counts(&store).iter().map(|(_, count)| count).sum::<u64>(), 28);
}

#[test]
fn prune_removes_what_ended_before_a_time_in_parts() {
    let store = filled();
    let prune = |limit, dry_run| {
        let prune = Prune { ended_before: 100 * SECOND + 15, limit, dry_run };
        let pruned = store.prune(&call(), &prune).expect("pruned");
        (pruned.removed, pruned.more)
    };

    assert_eq!(prune(100, true), (5, false));
    assert_eq!(prune(3, true), (3, true));
    assert_eq!(prune(3, false), (3, true));
    assert_eq!(prune(2, false), (2, false));
    assert_eq!(prune(3, false), (0, false));
    assert_eq!(counts(&store), [("completed".to_owned(), 5), ("queued".to_owned(), 20)]);
}

#[test]
fn prune_goes_on_beyond_one_transaction() {
    let store = store();
    let completed = event("c", 5, Status::Completed);
    let states: Vec<String> = (0..1000).map(|number| format!("e-{number}")).collect();
    let batch: Vec<(&str, &State)> = states.iter().map(|id| (&**id, &completed)).collect();
    try_merge(&store, &call(), &batch).expect("merged");

    let pruned = store.prune(&call(), &Prune { ended_before: 6, limit: 900, dry_run: false }).expect("pruned");

    assert_eq!((pruned.removed, pruned.more), (900, true));
    assert_eq!(counts(&store), [("completed".to_owned(), 100)]);
}

#[test]
fn blobs_are_kept_until_nobody_touched_them() {
    let store = store();
    let keys = ["b", "a/é\0", "c"];
    for key in keys {
        store.put_blob(&call(), key, format!("bytes of {key}").as_bytes()).expect("stored");
    }
    store.put_blob(&call(), "large", &vec![7; 16 << 20]).expect("stored");

    assert_eq!(store.get_blob(&call(), "a/é\0").expect("read").as_deref(), Some("bytes of a/é\0".as_bytes()));
    assert_eq!(store.get_blob(&call(), "large").expect("read").map(|bytes| bytes.len()), Some(16 << 20));
    assert_eq!(store.get_blob(&call(), "none").expect("read"), None);
    let first = store.scan_blobs(&call(), "", 3).expect("listed");
    assert_eq!(first.blobs.iter().map(|blob| &*blob.key).collect::<Vec<_>>(), ["a/é\0", "b", "c"]);
    assert!(first.more);
    let rest = store.scan_blobs(&call(), "c", 3).expect("listed");
    assert_eq!((rest.blobs.len(), rest.blobs[0].size, rest.more), (1, 16 << 20, false));

    let touched = first.blobs[1].touched_at;
    store.put_blob(&call(), "b", b"bytes of b").expect("stored");
    assert!(!store.delete_blob(&call(), "b", touched).expect("answered"));
    assert!(store.delete_blob(&call(), "b", i64::MAX).expect("answered"));
    assert!(store.delete_blob(&call(), "b", 0).expect("answered"), "it is gone");
    let error = store.put_blob(&call(), "", b"x").expect_err("no key");
    assert_eq!(error.kind, ErrorKind::InvalidItem);
}

#[test]
fn a_state_that_somebody_damaged_is_left_alone_and_takes_nobody_along() {
    let store = filled();
    let sql = "UPDATE evaluations SET state = '{\"format\":99,\"events\":[],\"registers\":{}}' WHERE id = 'e-00'";
    raw(store.directory.path()).execute(sql, []).expect("changed");
    let running = event("r", 50 * SECOND, Status::Running);

    let answers = try_merge(&store, &call(), &[("e-00", &running), ("e-01", &running)]).expect("merged");

    let Outcome::Rejected(error) = &answers[0].outcome else { panic!("{:?}", answers[0]) };
    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.message.contains("`e-00`") && error.message.contains("99"), "{error}");
    assert_eq!(answers[1].outcome, Outcome::Updated);
    assert!(get(&store, "e-00").expect("there").incomplete);
    let digest = running.digest();
    let deleted = store.delete(&call(), &[Delete { id: "e-00", digest: Some(&digest) }]).expect("answered");
    assert!(matches!(&deleted[..], [Deleted::Failed(_)]), "{deleted:?}");
}

/// People may change the database; the counts are of what is there.
#[test]
fn counts_hold_for_what_is_changed_by_hand() {
    let store = filled();

    let by_hand = raw(store.directory.path());
    by_hand.execute("DELETE FROM evaluations WHERE status = 'completed' AND id < 'e-15'", []).expect("deleted");

    let left: i64 = by_hand
        .query_row("SELECT count(*) FROM evaluations WHERE status = 'completed'", [], |row| row.get(0))
        .expect("counted");
    assert!((1..10).contains(&left), "{left}");
    assert_eq!(counts(&store), [("completed".to_owned(), left as u64), ("queued".to_owned(), 20)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Any order, repetition and split over threads gives the state that joining them one by one gives.
    #[test]
    fn the_laws_hold(events in prop::collection::vec((0..3_usize, 0..4_i64, 0..7_usize), 1..24), split in 1..24_usize) {
        let events: Vec<State> =
            events.iter().map(|(id, time, status)| event(&format!("ev-{id}"), *time, Status::ALL[*status])).collect();
        let mut expected = State::new();
        for event in &events {
            expected.merge(event);
        }
        let store = store();
        let (some, others) = events.split_at(split.min(events.len()));

        std::thread::scope(|scope| {
            for part in [some, others, others] {
                let backend = &store.backend;
                scope.spawn(move || {
                    let batch: Vec<(&str, &State)> = part.iter().rev().map(|event| ("a", event)).collect();
                    try_merge(backend, &call(), &batch).expect("merged");
                });
            }
        });

        prop_assert_eq!(canonical(&store, "a"), Some(expected.to_canonical_json()));
        prop_assert_eq!(counts(&store).iter().map(|(_, count)| count).sum::<u64>(), 1);
        let columns = raw(store.directory.path())
            .query_row("SELECT status, created_at, ended_at FROM evaluations", [], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?))
            })
            .expect("one row");
        let record = storage_plugin_api::Record::of("a", &expected);
        let status = record.status.map_or("unknown", Status::as_str).to_owned();
        prop_assert_eq!(columns, (status, record.created_at.unwrap_or(0), record.completed_at));
    }
}
