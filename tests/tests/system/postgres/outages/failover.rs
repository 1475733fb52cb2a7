//! The primary is lost, and its standby becomes the primary.

use storage_worker_tests::postgres_server::PostgresServer;

use super::survives;

#[test]
fn a_standby_that_takes_over() {
    let primary = PostgresServer::start();
    let standby = primary.start_standby("standby", &["fsync=off"]);
    let database = primary.connect();
    // What was confirmed is with the standby, or else it would not be durable.
    database.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'");
    database.run("SELECT pg_reload_conf()");
    drop(database);
    // In the order in which one would not look for the new primary.
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        primary.port(),
        standby.port()
    );

    survives((primary, standby), &url, |(primary, _)| primary.stop_immediately(), |(_, standby), ()| standby.promote());
}
