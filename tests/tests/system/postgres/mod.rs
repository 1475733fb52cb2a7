//! The plugin `postgres` with a real server: states, outages, databases that others made, and plans of its statements.

mod adoption;
mod bodies;
mod models;
mod opening;
mod outages;
mod plans;

use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::worker::Setup;

/// A worker that stores in a server.
fn setup(redis: &RedisServer, server: &PostgresServer) -> Setup {
    Setup::new(&redis.url(), "postgres").set("backends.main.options.url", server.url())
}
