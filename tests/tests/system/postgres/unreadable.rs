//! A row that cannot be read is one row: it is said, nobody else suffers, and it is never replaced.

use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{
    Backend, Call, Delete, Deleted, ErrorKind, EventStamp, Fields, Outcome, Query, State, Status, names, with_items,
};
use storage_worker_tests::postgres_server::PostgresServer;

use super::open;

fn call() -> Call {
    Call::with_budget(Duration::from_secs(20))
}

fn outcomes(backend: &dyn Backend, states: &[(&str, &State)]) -> Vec<Outcome> {
    let answers = with_items(states, |items| backend.merge(&call(), items)).expect("the batch is taken");
    answers.into_iter().map(|answer| answer.outcome).collect()
}

fn state(time: i64) -> State {
    let stamp = EventStamp::new(time, format!("e-{time}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_end(&stamp, Status::Completed);
    state.set_text(&stamp, names::CODE, "code");
    state
}

#[test]
fn a_row_of_a_newer_or_of_no_format_is_seen_as_incomplete_and_left_alone() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    let ids = ["broken", "fine", "newer"];
    let first = state(5);
    outcomes(&*backend, &ids.map(|id| (id, &first)));
    let database = server.connect();
    database.run("UPDATE evaluations SET state = '\\x09' WHERE id = 'newer'");
    database.run("UPDATE evaluations SET state = '\\x01ff' WHERE id = 'broken'");

    for fields in [Fields::Whole, Fields::WithoutBodies] {
        let found = backend.get(&call(), &ids, fields).expect("the others are read");
        let page = backend.list(&call(), &Query { limit: 10, fields, ..Query::default() }).expect("a page");
        let listed: Vec<_> = page.entries.iter().map(|(id, found)| (&**id, found.incomplete)).collect();

        let seen = found.iter().flatten().map(|found| (found.incomplete, found.state.is_empty()));
        assert_eq!(seen.collect::<Vec<_>>(), [(true, true), (false, false), (true, true)]);
        assert_eq!(listed, [("broken", true), ("fine", false), ("newer", true)]);
    }

    let merged = outcomes(&*backend, &[("broken", &state(4)), ("fine", &state(4)), ("newer", &state(4))]);
    match &merged[..] {
        [Outcome::Rejected(broken), Outcome::Updated, Outcome::Rejected(newer)] => {
            assert_eq!((broken.kind, newer.kind), (ErrorKind::Internal, ErrorKind::Configuration));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(database.number("SELECT count(*) FROM evaluations WHERE state IN ('\\x09', '\\x01ff')"), 2);

    // Nobody knows their digest, so only who wants them gone for sure removes them.
    let with_digest = ids.map(|id| Delete { id, digest: Some(&[0; 32]) });
    let deleted = backend.delete(&call(), &with_digest).expect("it is asked");
    assert!(matches!(&deleted[..], [Deleted::Failed(_), Deleted::Differs, Deleted::Failed(_)]), "{deleted:?}");
    let deleted = backend.delete(&call(), &ids.map(|id| Delete { id, digest: None })).expect("it is asked");
    assert_eq!(deleted, [Deleted::Deleted, Deleted::Deleted, Deleted::Deleted]);
}
