//! PostgreSQL goes away in every way that it can, under load: nothing is lost, nothing becomes a dead letter, the worker
//! goes on by itself, and its health says how it is.

use std::time::Duration;

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::postgres_server::{Database, PostgresServer};
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Worker;

use super::setup;
use crate::SOON;
use crate::models::compare;

/// Sets of events that are published before, during and after an outage.
const SETS: usize = 200;

/// A worker under load, whose server is taken away and given back.
fn survives<T>(
    mut server: PostgresServer,
    take_away: impl FnOnce(&mut PostgresServer) -> T,
    give_back: impl FnOnce(&mut PostgresServer, T),
) {
    let redis = RedisServer::start();
    let setup = setup(&redis, &server)
        .set("storage.call_timeout", "2s")
        .set("storage.breaker.max_open_for", "500ms")
        .set("worker.retry_max", "500ms");
    let worker = setup.start();
    let id = worker.id();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let mut generator = Generator::new(7);
    let events: Vec<Sent> = (0..3 * SETS).flat_map(|_| generator.any_set()).collect();
    let mixed = generator.shuffle_and_repeat(&events);
    let phases: Vec<&[Sent]> = mixed.chunks(mixed.len().div_ceil(3)).collect();

    publisher.publish(phases[0]);
    let taken = take_away(&mut server);
    publisher.publish(phases[1]);
    eventually(SOON, "the worker's health to be red", || health(&worker) == 503);
    publisher.publish(phases[2]);
    give_back(&mut server, taken);

    confirmations.wait_for(mixed.len(), Duration::from_secs(120));
    eventually(SOON, "the worker's health to be green", || health(&worker) == 200);
    for (id, expected) in &expected(&events, 0) {
        compare(&worker, id, expected);
    }
    assert!(setup.dead_letters().is_empty());
    assert_eq!(worker.id(), id);
}

fn health(worker: &Worker) -> u16 {
    worker.http().get("/health").status
}

#[test]
fn a_server_that_is_stopped_at_once_and_started_again() {
    // Synced, as what was confirmed must be there afterwards.
    survives(PostgresServer::start_with(&[]), PostgresServer::stop_immediately, |server, ()| server.restart());
}

#[test]
fn connections_that_are_terminated() {
    // Those that follow are refused for a while, so that there is something to see.
    survives(
        PostgresServer::start(),
        |server| {
            let database = Database::connect(&server.url_of("template1")).expect("the other database is there");
            database.run("ALTER DATABASE postgres ALLOW_CONNECTIONS false");
            database.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'");
            database
        },
        |_, database| database.run("ALTER DATABASE postgres ALLOW_CONNECTIONS true"),
    );
}

#[test]
fn a_table_that_is_locked_for_ten_seconds() {
    survives(
        PostgresServer::start(),
        |server| {
            let database = server.connect();
            database.run("BEGIN; LOCK TABLE evaluations IN ACCESS EXCLUSIVE MODE");
            database
        },
        |_, database| {
            std::thread::sleep(Duration::from_secs(10));
            database.run("COMMIT");
        },
    );
}

#[test]
fn no_connection_that_is_left() {
    survives(
        PostgresServer::start_with(&["fsync=off", "max_connections=20"]),
        |server| {
            let database = server.connect();
            database.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = 'storage-worker'");
            let mut taken = vec![database];
            // Until the worker comes too late.
            for _ in 0..200 {
                match server.try_connect() {
                    Ok(database) => taken.push(database),
                    Err(_) => taken[0].run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'storage-worker'"),
                }
                if taken.len() >= 20 {
                    break;
                }
            }
            taken
        },
        |_, taken| drop(taken),
    );
}

#[test]
fn a_server_that_can_only_be_read() {
    survives(
        PostgresServer::start(),
        |server| {
            let database = server.connect();
            database.run("SET default_transaction_read_only = off");
            database.run("ALTER SYSTEM SET default_transaction_read_only = on");
            database.run("SELECT pg_reload_conf()");
            database
        },
        |_, database| {
            database.run("ALTER SYSTEM RESET default_transaction_read_only");
            database.run("SELECT pg_reload_conf()");
        },
    );
}
