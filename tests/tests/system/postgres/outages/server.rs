//! The server stops, hangs, refuses, is locked, or only reads.

use std::time::Duration;

use storage_worker_tests::postgres_server::{Database, PostgresServer};

use super::survives;

/// Ends every connection of the worker.
const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE pid <> pg_backend_pid() AND application_name = 'storage-worker'";

/// A worker whose server is taken away and given back.
fn survives_with<T>(
    server: PostgresServer,
    take_away: impl FnOnce(&mut PostgresServer) -> T,
    give_back: impl FnOnce(&mut PostgresServer, T),
) {
    let url = server.url();
    survives(server, &url, take_away, give_back);
}

#[test]
fn a_server_that_is_stopped_at_once_and_started_again() {
    // Synced, as what was confirmed must be there afterwards.
    survives_with(PostgresServer::start_with(&[]), PostgresServer::stop_immediately, |server, ()| server.restart());
}

/// Nothing says that it is away: connections stay, and new ones are taken and never answered.
#[test]
fn a_server_that_hangs() {
    survives_with(PostgresServer::start(), |server| server.pause(), |_, paused| drop(paused));
}

#[test]
fn connections_that_are_terminated() {
    survives_with(
        PostgresServer::start(),
        |server| {
            let database = Database::connect(&server.url_of("template1")).expect("the other database is there");
            for _ in 0..20 {
                database.run(TERMINATE);
                std::thread::sleep(Duration::from_millis(50));
            }
            // Those that follow are refused for a while, so that there is something to see.
            database.run("ALTER DATABASE postgres ALLOW_CONNECTIONS false");
            database.run(TERMINATE);
            database
        },
        |_, database| database.run("ALTER DATABASE postgres ALLOW_CONNECTIONS true"),
    );
}

#[test]
fn a_table_that_is_locked_for_ten_seconds() {
    survives_with(
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
    survives_with(
        PostgresServer::start_with(&["fsync=off", "max_connections=20"]),
        |server| {
            let mut taken = vec![server.connect()];
            taken[0].run(TERMINATE);
            // Until the worker comes too late.
            for _ in 0..200 {
                match server.try_connect() {
                    Ok(database) => taken.push(database),
                    Err(_) => taken[0].run(TERMINATE),
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
    survives_with(
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
