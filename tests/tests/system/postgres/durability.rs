//! What is called durable is: after a crash of the server it is there, and a server that cannot promise that is refused.

use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{Backend, Call, Durability, ErrorKind, EventStamp, State, Status, with_items};
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::wait::eventually;

use super::{open, refusal};
use crate::SOON;

fn call() -> Call {
    Call::with_budget(Duration::from_secs(20))
}

/// Merges an evaluation, and says what is promised of it.
fn merge(backend: &dyn Backend, id: &str) -> Durability {
    let mut state = State::new();
    state.set_end(&EventStamp::new(1, "e"), Status::Completed);
    let answers = with_items(&[(id, &state)], |items| backend.merge(&call(), items)).expect("the batch is taken");
    answers[0].durability
}

#[test]
fn a_commit_is_waited_for_even_where_the_server_would_not() {
    let cache = tempfile::tempdir().expect("make a temporary directory");
    // What is not waited for lies in memory for ten seconds.
    let mut server = PostgresServer::start_with(&["synchronous_commit=off", "wal_writer_delay=10s"]);
    let backend = open(&server, cache.path(), &json!({"durability": "check"})).expect("the server syncs");

    let promised = merge(&*backend, "kept");
    server.stop_immediately();
    server.restart();

    assert_eq!(promised, Durability::Durable);
    assert_eq!(server.connect().number("SELECT count(*) FROM evaluations WHERE id = 'kept'"), 1);
}

#[test]
fn a_server_that_does_not_sync_is_refused_or_called_what_it_is() {
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let server = PostgresServer::start();

    let (kind, message) = refusal(&server, cache.path(), &json!({"durability": "check"}));
    let volatile = open(&server, cache.path(), &json!({"durability": "volatile"})).expect("that is what it is");
    let trusted = open(&server, cache.path(), &json!({"durability": "durable"})).expect("somebody knows better");

    assert_eq!(kind, ErrorKind::Configuration);
    assert!(message.contains("`fsync = off`") && message.contains("`durability = \"volatile\"`"), "{message}");
    assert_eq!(merge(&*volatile, "a"), Durability::Volatile);
    assert_eq!(merge(&*trusted, "b"), Durability::Durable);
}

#[test]
fn a_server_that_stops_syncing_is_noticed() {
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let server = PostgresServer::start_with(&[]);
    let backend = open(&server, cache.path(), &json!({"durability": "check"})).expect("the server syncs");
    assert_eq!(merge(&*backend, "a"), Durability::Durable);
    let database = server.connect();

    database.run("ALTER SYSTEM SET fsync = off");
    database.run("SELECT pg_reload_conf()");

    eventually(SOON, "the backend's health to be red", || !backend.health().healthy);
    assert_eq!(merge(&*backend, "b"), Durability::Volatile);
    database.run("ALTER SYSTEM RESET fsync");
    database.run("SELECT pg_reload_conf()");
    eventually(SOON, "what is stored to be durable again", || merge(&*backend, "c") == Durability::Durable);
}

/// Who is ended while a commit waits for a standby has committed all the same, on the primary. What is then merged again is
/// found there, and its locks make of finding it a commit that waits as well.
#[test]
fn what_no_standby_has_yet_is_not_called_durable() {
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let primary = PostgresServer::start();
    let mut standby = primary.start_standby("standby", &["fsync=off"]);
    let database = primary.connect();
    database.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'");
    database.run("SELECT pg_reload_conf()");
    let backend = open(&primary, cache.path(), &json!({})).expect("the standby follows");
    assert_eq!(merge(&*backend, "before"), Durability::Durable);
    let mut state = State::new();
    state.set_end(&EventStamp::new(1, "e"), Status::Completed);
    let try_merge = || {
        let call = Call::with_budget(Duration::from_secs(2));
        with_items(&[("during", &state)], |items| backend.merge(&call, items))
    };

    standby.stop_immediately();
    let first = try_merge();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert!(database.number(end) >= 1);
    eventually(SOON, "the commit to wait no more", || database.number(waiting) == 0);
    assert_eq!(database.number("SELECT count(*) FROM evaluations WHERE id = 'during'"), 1);
    let again = try_merge();

    assert_eq!(first.expect_err("nobody has it").kind, ErrorKind::Unavailable);
    assert_eq!(again.expect_err("only the primary has it").kind, ErrorKind::Unavailable);
    standby.restart();
    primary.wait_for_standby("standby");
    assert_eq!(try_merge().expect("the standby has it")[0].durability, Durability::Durable);
}
