//! The calls, as a healthy directory answers them.

use storage_plugin_api::{Delete, Deleted, Durability, ErrorKind, Order, Prune};

use super::*;

#[test]
fn merges_answer_what_they_did_and_are_seen_at_once() {
    let directory = directory();
    let backend = open(directory.path());
    let (queued, completed) = (queued("q", START), ended("c", START + SECOND, Status::Completed));

    let first = merge(&backend, "a", &queued);

    assert_eq!((first.outcome, first.status), (Outcome::Created, Some(Status::Queued)));
    assert_eq!(first.durability, Durability::Durable);
    assert_eq!(outcome(&backend, "a", &queued), Outcome::Unchanged);
    let second = merge(&backend, "a", &completed);
    assert_eq!((second.outcome, second.status), (Outcome::Updated, Some(Status::Completed)));
    assert_eq!(canonical(&backend, "a"), Some(joined(&[&queued, &completed])));
    assert_eq!(outcome(&backend, "b", &State::new()), Outcome::Unchanged);
    assert!(get(&backend, "b").is_none());
}

#[test]
fn states_survive_a_restart_however_they_were_merged() {
    let directory = directory();
    let events = [queued("q", START), ended("c", START + 2, Status::Completed), ended("f", START + 1, Status::Failed)];
    let whole = joined(&events.iter().collect::<Vec<_>>());

    for (id, order) in [("a", [0, 1, 2]), ("b", [2, 1, 0]), ("c", [1, 1, 0])] {
        for event in order {
            // Opened anew for every event: from memory, from the log and from the files must be the same.
            let backend = open(directory.path());
            merge(&backend, id, &events[event]);
            if event == 1 {
                backend.close(&call()).expect("closed");
            }
        }
    }
    let backend = open(directory.path());
    merge(&backend, "c", &events[2]);

    for id in ["a", "b", "c"] {
        assert_eq!(canonical(&backend, id).as_deref(), Some(&*whole), "{id}");
    }
}

#[test]
fn the_record_files_follow_within_a_second() {
    let directory = directory();
    let backend = open(directory.path());
    merge(&backend, "a", &queued("q", START));

    eventually("the file is there", || directory.path().join("evaluations/a.json").exists());
    merge(&backend, "a", &ended("c", START + SECOND, Status::Completed));
    backend.flush(&call()).expect("flushed");

    let record = record(directory.path(), "a");
    assert_eq!((&record["status"], &record["output"]), (&"completed".into(), &"output of c\n".into()));
    assert_eq!(record["runtime_ms"], serde_json::Value::Null);
    let events = std::fs::read(directory.path().join("events/a.json")).expect("a history");
    let events: Vec<serde_json::Value> = serde_json::from_slice(&events).expect("JSON");
    assert_eq!(
        events.iter().map(|event| event["type"].as_str()).collect::<Vec<_>>(),
        [Some("queued"), Some("completed")]
    );
}

#[test]
fn after_a_flush_nothing_needs_the_log() {
    let directory = directory();
    let backend = open(directory.path());
    merge(&backend, "a", &queued("q", START));

    backend.close(&call()).expect("closed");
    drop(backend);
    std::fs::remove_dir_all(directory.path().join("log")).expect("removed");

    assert!(get(&open(directory.path()), "a").is_some());
}

#[test]
fn ids_that_are_no_file_names_are_invalid() {
    let directory = directory();
    let backend = open(directory.path());

    for id in ["", "../escape", "a/b", ".a", "a b", &"x".repeat(65)] {
        let answer = merge(&backend, id, &queued("q", START));
        assert!(matches!(&answer.outcome, Outcome::Rejected(error) if error.kind == ErrorKind::InvalidItem), "{id}");
        assert!(get(&backend, id).is_none());
    }

    let good = queued("q", START);
    let answers =
        with_items(&[("../x", &good), ("good", &good)], |batch| backend.merge(&call(), batch)).expect("merged");
    assert_eq!(answers[1].outcome, Outcome::Created);
    assert!(!directory.path().join("x.json").exists());
}

#[test]
fn a_second_process_is_kept_out() {
    let directory = directory();
    let first = open(directory.path());

    let error = try_open(directory.path()).expect_err("the directory is in use");

    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.message.contains(&directory.path().display().to_string()), "{error}");
    assert!(error.message.contains("another process"), "{error}");
    drop(first);
    open(directory.path());
}

fn filled(path: &Path) -> FileBackend {
    let backend = open(path);
    for number in 0..30 {
        let id = format!("e-{:02}", number * 7 % 30);
        merge(&backend, &id, &queued(&id, START + i64::from(number) * SECOND));
        if number % 3 == 0 {
            merge(&backend, &id, &ended("c", START + 100 * SECOND + i64::from(number), Status::Completed));
        }
        if number == 15 {
            backend.flush(&call()).expect("flushed");
        }
    }
    backend
}

#[test]
fn lists_go_through_memory_and_files_in_both_orders() {
    let directory = directory();
    let backend = filled(directory.path());

    for limit in [1, 4, 30, 100] {
        let by_id = ids(&backend, &Query { limit, ..Query::default() });
        assert_eq!(by_id, (0..30).map(|number| format!("e-{number:02}")).collect::<Vec<_>>(), "limit {limit}");
        let newest = ids(&backend, &Query { limit, order: Order::NewestFirst, ..Query::default() });
        let expected: Vec<_> = (0..30).rev().map(|number| format!("e-{:02}", number * 7 % 30)).collect();
        assert_eq!(newest, expected, "limit {limit}");
    }
}

#[test]
fn lists_filter() {
    let directory = directory();
    let backend = filled(directory.path());
    let count = |query: Query| ids(&backend, &Query { limit: 4, ..query }).len();

    for order in [Order::Id, Order::NewestFirst] {
        assert_eq!(count(Query { order, status: Some("completed".into()), ..Query::default() }), 10);
        assert_eq!(count(Query { order, status: Some("queued".into()), ..Query::default() }), 20);
        assert_eq!(count(Query { order, status: Some("running".into()), ..Query::default() }), 0);
        assert_eq!(count(Query { order, language: Some("python".into()), ..Query::default() }), 30);
        assert_eq!(count(Query { order, language: Some("ruby".into()), ..Query::default() }), 0);
        let (since, until) = (Some(START + 10 * SECOND), Some(START + 20 * SECOND));
        assert_eq!(count(Query { order, since, until, ..Query::default() }), 10);
        assert_eq!(count(Query { order, since: until, until: since, ..Query::default() }), 0);
    }
}

#[test]
fn a_cursor_of_another_list_is_refused() {
    let directory = directory();
    let backend = filled(directory.path());
    let query = Query { cursor: Some("id:a".into()), order: Order::NewestFirst, limit: 1, ..Query::default() };

    let error = backend.list(&call(), &query).expect_err("refused");

    assert_eq!(error.kind, ErrorKind::Configuration);
}

#[test]
fn counts_include_what_is_not_in_the_files_yet() {
    let directory = directory();
    let backend = filled(directory.path());
    let expected = [("completed".to_owned(), 10), ("queued".to_owned(), 20)];

    assert_eq!(backend.counts(&call()).expect("counted").by_status, expected.clone().into());
    backend.flush(&call()).expect("flushed");
    assert_eq!(backend.counts(&call()).expect("counted").by_status, expected.into());
}

#[test]
fn without_bodies_there_are_references_of_the_same_hash() {
    let directory = directory();
    let backend = filled(directory.path());

    for id in ["e-00", "e-27"] {
        let whole = get(&backend, id).expect("stored").state;
        let found = backend.get(&call(), &[id], Fields::WithoutBodies).expect("read").remove(0).expect("stored");
        let bodies =
            |state: &State| state.get(names::CODE).and_then(|code| code.value.as_body().cloned()).expect("code");
        assert!(bodies(&found.state).as_text().is_none());
        assert_eq!(bodies(&found.state).hash(), bodies(&whole).hash());
    }
}

#[test]
fn a_delete_takes_what_its_digest_fits_and_survives() {
    let directory = directory();
    let backend = filled(directory.path());
    let digest = get(&backend, "e-00").expect("stored").state.digest();
    let delete = |items: &[Delete<'_>]| backend.delete(&call(), items).expect("deleted");

    let answers = delete(&[
        Delete { id: "e-00", digest: Some(&digest) },
        Delete { id: "e-01", digest: Some(&digest) },
        Delete { id: "e-02", digest: None },
        Delete { id: "e-02", digest: None },
        Delete { id: "none", digest: None },
        Delete { id: "../e-03", digest: None },
    ]);

    let (deleted, differs, absent) = (Deleted::Deleted, Deleted::Differs, Deleted::Absent);
    assert_eq!(answers, [deleted.clone(), differs, deleted, absent.clone(), absent.clone(), absent]);
    assert!(get(&backend, "e-00").is_none());
    // Stored again, nothing of before is back.
    let again = queued("again", START);
    assert_eq!(outcome(&backend, "e-02", &again), Outcome::Created);
    backend.close(&call()).expect("closed");
    drop(backend);
    let backend = open(directory.path());
    assert!(get(&backend, "e-00").is_none());
    assert!(!directory.path().join("evaluations/e-00.json").exists());
    assert_eq!(canonical(&backend, "e-02"), Some(again.to_canonical_json()));
    assert_eq!(ids(&backend, &Query { limit: 100, ..Query::default() }).len(), 29);
}

#[test]
fn prune_removes_what_ended_before_a_time_in_parts() {
    for flush in [false, true] {
        let directory = directory();
        let backend = filled(directory.path());
        if flush {
            backend.flush(&call()).expect("flushed");
        }
        let prune = |limit, dry_run| {
            let prune = Prune { ended_before: START + 100 * SECOND + 15, limit, dry_run };
            let pruned = backend.prune(&call(), &prune).expect("pruned");
            (pruned.removed, pruned.more)
        };

        assert_eq!(prune(100, true), (5, false));
        assert_eq!(prune(3, false), (3, true));
        assert_eq!(prune(3, false), (2, false));
        assert_eq!(prune(3, false), (0, false));

        let counts = backend.counts(&call()).expect("counted").by_status;
        assert_eq!(counts, [("completed".to_owned(), 5), ("queued".to_owned(), 20)].into());
    }
}

#[test]
fn blobs_are_kept_listed_and_removed_unless_stored_again() {
    let directory = directory();
    let backend = open(directory.path());
    for key in ["sha256/b", "sha256/a", "c"] {
        backend.put_blob(&call(), key, key.as_bytes()).expect("stored");
    }

    let page = backend.scan_blobs(&call(), "c", 1).expect("listed");

    assert_eq!((&*page.blobs[0].key, page.blobs[0].size, page.more), ("sha256/a", 8, true));
    let first = page.blobs[0].touched_at;
    backend.put_blob(&call(), "sha256/a", b"sha256/a").expect("stored again");
    assert!(!backend.delete_blob(&call(), "sha256/a", first).expect("kept"));
    assert!(backend.delete_blob(&call(), "c", i64::MAX).expect("removed"));
    assert!(backend.delete_blob(&call(), "c", 0).expect("gone already"));
    drop(backend);
    let backend = open(directory.path());
    assert_eq!(backend.get_blob(&call(), "sha256/b").expect("read").as_deref(), Some(&b"sha256/b"[..]));
    assert_eq!(backend.get_blob(&call(), "c").expect("read"), None);
}

#[test]
fn many_callers_share_the_store() {
    let directory = directory();
    let backend = open(directory.path());

    std::thread::scope(|scope| {
        for thread in 0..4 {
            let backend = &backend;
            scope.spawn(move || {
                for number in 0..100 {
                    let event_id = format!("q-{thread}-{number}");
                    merge(backend, &format!("e-{}", number % 10), &queued(&event_id, START + number));
                }
            });
        }
    });

    let history = |id: &str| get(&backend, id).expect("stored").state.with_prefix(names::HISTORY_PREFIX).len();
    assert!((0..10).all(|number| history(&format!("e-{number}")) == 40));
}

#[test]
fn the_cache_and_what_is_unwritten_stay_bounded() {
    let directory = directory();
    let (store, _lock) = open_still(directory.path());
    let body = "x".repeat(10_000);

    for number in 0..400 {
        let mut state = queued("q", START);
        state.set_text(&EventStamp::new(START, "q"), "completed/output", &*body);
        if !store.pending.wait_for_room(Instant::now()) {
            store.checkpoint(u64::MAX).expect("written");
        }
        merge_into(&store, &format!("e-{number}"), &state);
    }
    store.checkpoint(u64::MAX).expect("written");

    assert_eq!(store.pending.unwritten(), 0);
    let cached = store.pending.cached_bytes();
    assert!(cached > 0 && cached <= LIMITS.max_cached_bytes, "{cached}");
}

#[test]
fn histories_that_wait_under_load_are_caught_up_with_even_after_a_restart() {
    let directory = directory();
    let path = directory.path();
    let history = |number: i32| path.join(format!("events/e-{number}.json"));
    {
        let (store, _lock) = open_still(path);
        let mut large = queued("q", START);
        large.set_text(&EventStamp::new(START, "q"), "completed/output", "x".repeat(10_000));
        for number in 0..40 {
            merge_into(&store, &format!("e-{number}"), &large);
        }
        store.checkpoint(u64::MAX).expect("written");
        assert!(path.join("evaluations/e-0.json").exists());
        assert!(!history(0).exists(), "the history waits");
        // One that is written again when there is time is no longer behind.
        merge_into(&store, "e-1", &ended("c", START, Status::Completed));
        store.checkpoint(u64::MAX).expect("written");
        assert!(history(1).exists() && !history(2).exists());
        store.delete(&call(), &[Delete { id: "e-2", digest: None }]).expect("deleted");
    }

    let backend = open(path);
    backend.flush(&call()).expect("flushed");

    assert!((0..40).all(|number| history(number).exists() == (number != 2)));
    assert_eq!(backend.health().details["histories_behind"], false);
}

#[test]
fn opened_to_be_read_it_makes_no_directory() {
    let directory = directory();
    let path = directory.path().join("not-there");

    let error = try_open_as(&path, true).expect_err("nothing is stored");

    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(error.message.contains("not-there"), "{error}");
    assert!(!path.exists());
    drop(open(&path));
    try_open_as(&path, true).expect("now there is a store").close(&call()).expect("closed");
}
