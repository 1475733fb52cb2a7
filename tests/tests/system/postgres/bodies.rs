//! Bodies: those that are not shown wait aside, NUL characters survive, and a bad item goes alone.

use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{
    Backend, Call, Delete, Deleted, ErrorKind, EventStamp, Fields, Outcome, Record, State, Status, names, with_items,
};
use storage_worker_tests::postgres_server::PostgresServer;

use super::open;

fn call() -> Call {
    Call::with_budget(Duration::from_secs(20))
}

fn merge(backend: &dyn Backend, states: &[(&str, &State)]) -> Vec<Outcome> {
    let answers = with_items(states, |items| backend.merge(&call(), items)).expect("the batch is taken");
    answers.into_iter().map(|answer| answer.outcome).collect()
}

fn stored(backend: &dyn Backend, id: &str, fields: Fields) -> State {
    let found = backend.get(&call(), &[id], fields).expect("the state is read").remove(0);
    found.expect("it is stored").state
}

/// A state that says how an evaluation ended, with output and error if they are not empty.
fn ended(time: i64, status: Status, output: &str, error: &str) -> State {
    let stamp = EventStamp::new(time, format!("e-{time}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_end(&stamp, status);
    state.set_text(&stamp, &names::outcome(status, "output"), output);
    state.set_text(&stamp, &names::outcome(status, "error"), error);
    state.set_history(&stamp, "status_changed", status, "over");
    state
}

#[test]
fn an_outcome_that_is_not_the_first_any_more_keeps_its_bodies_and_may_get_its_place_back() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    let database = server.connect();
    let outputs = "SELECT coalesce(output, '') || '|' || coalesce(error, '') FROM evaluations";
    let aside =
        "SELECT coalesce(string_agg(name || '=' || body, ',' ORDER BY name COLLATE \"C\"), '') FROM evaluation_bodies";
    let columns = || -> (String, String) { (database.rows(outputs)[0].get(0), database.rows(aside)[0].get(0)) };
    let mut model = State::new();
    let steps = [
        (ended(50, Status::Completed, "done", "warned"), "done|warned", ""),
        // An earlier outcome takes the place: what was shown waits aside.
        (ended(30, Status::Failed, "", "broke"), "|broke", "completed/error=warned,completed/output=done"),
        // Earlier still, and silent: what waited comes back.
        (ended(10, Status::Completed, "", ""), "done|warned", "failed/error=broke"),
        // Too late to be shown at all.
        (ended(40, Status::Cancelled, "", "why"), "done|warned", "cancelled/error=why,failed/error=broke"),
        // The same outcome earlier, with another output.
        (ended(20, Status::Completed, "sooner", ""), "sooner|warned", "cancelled/error=why,failed/error=broke"),
    ];

    for (state, shown, aside) in &steps {
        model.merge(state);
        merge(&*backend, &[("e", state)]);

        assert_eq!(columns(), ((*shown).to_owned(), (*aside).to_owned()));
        let found = stored(&*backend, "e", Fields::Whole);
        assert_eq!(found.to_canonical_json(), model.to_canonical_json());
        let found = stored(&*backend, "e", Fields::WithoutBodies);
        assert_eq!(found.to_canonical_json(), model.without_bodies().to_canonical_json());
    }

    for (state, _, _) in &steps {
        assert_eq!(merge(&*backend, &[("e", state)]), [Outcome::Unchanged]);
    }
    let items = [Delete { id: "e", digest: Some(&[0; 32]) }, Delete { id: "e", digest: Some(&model.digest()) }];
    let deleted: Vec<Deleted> =
        items.iter().flat_map(|item| backend.delete(&call(), &[*item]).expect("it is asked")).collect();
    assert_eq!(deleted, [Deleted::Differs, Deleted::Deleted]);
    assert_eq!(columns_left(&server), 0);
}

/// Merges bring bodies back from aside, and take over rows of another program, while all of them are read.
#[test]
fn a_read_beside_merges_is_never_missing_a_body_and_never_of_two_moments() {
    const COUNT: usize = 3000;
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    server.connect().run(&format!(
        "INSERT INTO evaluations (id, code_hash, status, created_at, metadata) \
         SELECT 'old-' || n, 'x', 'queued', timestamptz '2025-01-01', '{{\"code\": \"print(1)\"}}' \
         FROM generate_series(0, {}) AS n",
        COUNT - 1
    ));
    let ids: Vec<String> = (0..COUNT).flat_map(|number| [format!("e-{number}"), format!("old-{number}")]).collect();
    let failed = ended(30, Status::Failed, "shown", "broke");
    // It comes first and is silent, so what the failure told goes aside, and comes back with the next.
    let (completed, failed_before) = (ended(20, Status::Completed, "", ""), ended(10, Status::Failed, "", ""));
    for chunk in ids.chunks(500) {
        let states: Vec<_> = chunk.iter().filter(|id| id.starts_with("e-")).map(|id| (&**id, &failed)).collect();
        merge(&*backend, &states);
        let states: Vec<_> = states.iter().map(|(id, _)| (*id, &completed)).collect();
        merge(&*backend, &states);
    }

    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for chunk in ids.chunks(50) {
                let states: Vec<_> = chunk.iter().map(|id| (&**id, &failed_before)).collect();
                merge(&*backend, &states);
            }
        });
        while !writer.is_finished() {
            for chunk in ids.chunks(300) {
                let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
                let found = backend.get(&call(), &chunk, Fields::Whole).expect("the states are read");
                for (id, found) in chunk.iter().zip(found) {
                    let found = found.unwrap_or_else(|| panic!("{id} is stored"));
                    assert!(!found.incomplete, "{id}");
                    let text = |name: &str| Some(found.state.get(name)?.value.as_body()?.as_text()?.to_owned());
                    if id.starts_with("e-") {
                        assert_eq!(text("failed/output").as_deref(), Some("shown"), "{id}");
                        assert_eq!(text("failed/error").as_deref(), Some("broke"), "{id}");
                    } else {
                        let ends = found.state.with_prefix(names::END_PREFIX);
                        assert!(ends.iter().all(|end| end.stamp.time == 10), "{id} is of two moments");
                    }
                }
            }
        }
        writer.join().expect("it does not panic");
    });
}

/// A text that somebody took away is missing, and it is said so.
#[test]
fn a_body_without_its_text_is_seen_as_incomplete() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    merge(&*backend, &[("e", &ended(30, Status::Failed, "shown", "broke"))]);

    server.connect().run("UPDATE evaluations SET output = NULL");

    let found = backend.get(&call(), &["e"], Fields::Whole).expect("the state is read").remove(0).expect("stored");
    let body = found.state.get("failed/output").and_then(|register| register.value.as_body()).expect("a body");
    assert!(found.incomplete && body.as_text().is_none());
    assert_eq!(body.as_reference().expect("a reference").location, None);
    let found = backend.get(&call(), &["e"], Fields::WithoutBodies).expect("it is read").remove(0).expect("stored");
    assert!(!found.incomplete);
}

fn columns_left(server: &PostgresServer) -> i64 {
    server.connect().number(
        "SELECT (SELECT count(*) FROM evaluations) + (SELECT count(*) FROM evaluation_bodies) \
         + (SELECT count(*) FROM evaluation_events)",
    )
}

#[test]
fn nul_characters_survive_in_every_text() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    let mut state = ended(1, Status::Completed, "a\0b\u{1a}c", "\u{1a}0");
    let stamp = EventStamp::new(1, "e-1");
    state.set_text(&stamp, names::CODE, "print('\0')");
    state.set_text(&stamp, "failed/output", "\0");
    state.set_string(&stamp, names::LANGUAGE, "py\0thon");
    state.set_metadata(&stamp, "k\0", "\"\\u0000\\\\u0000\"");

    merge(&*backend, &[("e", &state)]);

    assert_eq!(stored(&*backend, "e", Fields::Whole).to_canonical_json(), state.to_canonical_json());
    let database = server.connect();
    // Other programs can look into the JSON, and a text without a NUL stands as it is.
    assert_eq!(database.number("SELECT count(*) FROM evaluations WHERE metadata::jsonb ? 'code'"), 1);
    assert_eq!(database.number("SELECT count(*) FROM evaluations WHERE error = E'\\x1a' || '0'"), 1);
    // What follows takes the code from the JSON that is there.
    let mut later = State::new();
    later.set_history(&EventStamp::new(2, "e-2"), "note", Status::Running, "a\0");
    state.merge(&later);
    assert_eq!(merge(&*backend, &[("e", &later)]), [Outcome::Updated]);
    assert_eq!(stored(&*backend, "e", Fields::Whole).to_canonical_json(), state.to_canonical_json());
}

#[test]
fn an_item_that_cannot_be_stored_does_not_take_its_neighbours_along() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    let state = ended(1, Status::Completed, "out", "");
    let ids: Vec<String> = (0..20)
        .map(|number| match number {
            7 => "x".repeat(65),
            13 => "a\0b".to_owned(),
            number => format!("id-{number:02}"),
        })
        .collect();
    let states: Vec<(&str, &State)> = ids.iter().map(|id| (&**id, &state)).collect();

    let outcomes = merge(&*backend, &states);

    for (number, outcome) in outcomes.iter().enumerate() {
        match (number, outcome) {
            (7 | 13, Outcome::Rejected(error)) => assert_eq!(error.kind, ErrorKind::InvalidItem, "{error}"),
            (7 | 13, other) => panic!("{other:?}"),
            (_, outcome) => assert_eq!(*outcome, Outcome::Created),
        }
    }
    assert_eq!(server.connect().number("SELECT count(*) FROM evaluations"), 18);
    assert_eq!(Record::of("id-01", &stored(&*backend, "id-01", Fields::Whole)).output.as_deref(), Some("out"));
}
