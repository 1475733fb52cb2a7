//! Behind a PgBouncer that hands out connections by the transaction.

use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{Call, ErrorKind, EventStamp, State, Status, with_items};
use storage_worker_tests::pgbouncer::PgBouncer;
use storage_worker_tests::postgres_server::{Database, PostgresServer};
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;

use super::{open, setup};
use crate::SOON;
use crate::models::{SETS_AT_ONCE, store_sets};

/// Connections of the pooler to the server; fewer than the worker has to the pooler.
const CONNECTIONS: usize = 5;

#[test]
fn behind_a_pooler_the_worker_agrees_with_the_second_model() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let pooler = PgBouncer::start(&server, CONNECTIONS);
    let setup = setup(&redis, &server)
        .set("backends.main.options.url", pooler.url())
        .set("backends.main.options.prepared_statements", false);

    let (worker, model) = store_sets(&redis, &setup, 6, SETS_AT_ONCE);

    assert_eq!(server.connect().number("SELECT count(*) FROM evaluations"), model.len() as i64);
    assert_eq!(worker.http().get("/statistics").status, 200);
    assert_eq!(worker.http().get("/evaluations?status=completed&limit=5").status, 200);
    assert!(setup.dead_letters().is_empty());
    worker.terminate(Duration::from_secs(30));
}

/// What was set for a build of indexes used to stay with the connection, which the pooler gave to others then.
#[test]
fn a_pooled_connection_keeps_no_setting_of_an_index_build() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let pooler = PgBouncer::start(&server, CONNECTIONS);
    let options = json!({"url": pooler.url(), "prepared_statements": false});

    let backend = open(&server, cache.path(), &options).expect("the tables are made");

    let database = server.connect();
    let built = "SELECT count(*) FROM pg_indexes WHERE indexname = 'evaluations_adopted'";
    eventually(SOON, "the last index to be built", || database.number(built) == 1);
    drop(backend);
    // Each holds another connection of the pooler.
    let holders: Vec<Database> = (0..CONNECTIONS)
        .map(|_| {
            let holder = Database::connect(&pooler.url()).expect("it answers");
            holder.run("BEGIN");
            holder
        })
        .collect();
    let set = "SELECT count(*) FROM pg_settings WHERE name LIKE '%\\_timeout' AND source = 'session'";
    for holder in &holders {
        assert_eq!(holder.number(set), 0);
    }
}

#[test]
fn prepared_statements_behind_a_pooler_are_said_to_be_the_reason() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let pooler = PgBouncer::start(&server, 2);
    // Past the pooler, as a build of indexes would need both of its connections.
    drop(open(&server, cache.path(), &json!({})).expect("the tables are made"));

    let options = json!({"url": pooler.url(), "migrate": "check", "connections": 1});
    let said = match open(&server, cache.path(), &options) {
        Err(error) => error,
        Ok(backend) => {
            let mut state = State::new();
            state.set_end(&EventStamp::new(1, "e"), Status::Completed);
            let merge = || {
                let call = Call::with_budget(Duration::from_secs(20));
                with_items(&[("e", &state)], |items| backend.merge(&call, items)).err()
            };
            let [first, second] = [(); 2].map(|()| Database::connect(&pooler.url()).expect("it answers"));
            // Who merges gets the one of the two connections that is free, then the other one.
            let merge_on_both = || {
                first.run("BEGIN");
                let error = merge();
                second.run("BEGIN");
                first.run("ROLLBACK");
                let error = error.or_else(merge);
                second.run("ROLLBACK");
                error
            };
            (0..10).find_map(|_| merge_on_both()).expect("a statement is prepared on another connection")
        }
    };

    assert_eq!(said.kind, ErrorKind::Configuration, "{said}");
    assert!(said.message.contains("`prepared_statements = false`"), "{said}");
}
