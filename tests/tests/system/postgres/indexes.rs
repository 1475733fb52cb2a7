//! Indexes are built beside everything else, built anew where they are not whole, and missed where nobody may build them.

use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{Call, EventStamp, Outcome, State, Status, with_items};
use storage_worker_tests::postgres_server::{Database, PostgresServer};
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;

use super::adoption::MIGRATED;
use super::{open, setup};
use crate::SOON;

/// How many indexes are whole: the primary key, and those that lists use.
pub(super) fn whole_indexes(database: &Database) -> i64 {
    database.number(
        "SELECT count(*) FROM pg_index JOIN pg_class ON oid = indexrelid \
         WHERE relname LIKE 'evaluations\\_%' AND indisvalid",
    )
}

#[test]
fn indexes_are_built_beside_the_connections_that_merges_need() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let (database, holder) = (server.connect(), server.connect());
    database.run(MIGRATED);
    database.run("DROP INDEX idx_events_eval_time, idx_events_type");
    database.run("INSERT INTO evaluations (id, code_hash, status, created_at) SELECT n, 'x', 'queued', NULL FROM generate_series(1, 2500) AS n");
    // A build waits for whoever may still see the table as it was, also without a lock on it.
    holder.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class");
    let backend = open(&server, cache.path(), &json!({"connections": 1})).expect("the database is taken over");
    eventually(SOON, "a build to wait", || {
        database.number(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'",
        ) == 1
    });

    let mut state = State::new();
    state.set_end(&EventStamp::new(1, "e"), Status::Completed);
    let call = Call::with_budget(Duration::from_secs(20));
    let merged = with_items(&[("new", &state)], |items| backend.merge(&call, items)).expect("there is a connection");

    assert_eq!(merged[0].outcome, Outcome::Created);
    // Also what somebody took away is not built in the transaction that takes the tables over.
    let taken_away = "SELECT count(*) FROM pg_index JOIN pg_class ON oid = indexrelid \
                      WHERE relname LIKE 'idx\\_events\\_%' AND indisvalid";
    assert_eq!(database.number(taken_away), 0);
    holder.run("COMMIT");
    eventually(SOON, "every row to have a place in lists", || {
        database.number("SELECT count(*) FROM evaluations WHERE created_at IS NULL") == 0
    });
    assert_eq!(database.number(taken_away), 1, "one of them is needed");
}

#[test]
fn an_index_whose_build_was_cut_short_is_built_anew() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let database = server.connect();
    let wait_until_built = || eventually(SOON, "the indexes to be built", || whole_indexes(&database) == 6);
    let backend = open(&server, cache.path(), &json!({})).expect("the tables are made");
    wait_until_built();
    drop(backend);

    database.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'evaluations_newest'::regclass");
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");

    wait_until_built();
    drop(backend);
}

#[test]
fn an_index_that_cannot_be_built_is_missed_in_the_log() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let database = server.connect();
    database.run("CREATE ROLE owner LOGIN CONNECTION LIMIT 2; GRANT CREATE ON SCHEMA public TO owner");
    // One connection for merges, and one of the two that a build needs.
    let with = |migrate: &str| {
        setup(&redis, &server)
            .set("backends.main.options.url", server.url_for("owner", server.port()))
            .set("backends.main.options.connections", 1)
            .set("backends.main.options.migrate", migrate)
    };
    let building = with("auto");
    let worker = building.start();
    eventually(SOON, "the reason to be logged", || {
        let log = worker.log().to_string();
        log.contains("indexes could not be built") && log.contains("too many connections for role")
    });
    drop(worker);

    let checking = with("check");
    let worker = checking.start();
    eventually(SOON, "the indexes to be missed", || {
        let log = worker.log().to_string();
        log.contains("indexes are missing") && log.contains("evaluations_newest, evaluations_status_newest")
    });
    drop(worker);

    database.run("ALTER ROLE owner CONNECTION LIMIT 10");
    let worker = building.start();
    eventually(SOON, "the indexes to be built", || whole_indexes(&database) == 6);
    drop(worker);
    let worker = checking.start();
    assert!(!worker.log().to_string().contains("indexes are missing"));
}
