//! The server's disk is full: of data, which it refuses, or of its log, which ends it.

use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::small_disk::SmallDisk;

use super::survives;

/// The server stays, and refuses to make its tables larger.
#[test]
fn no_room_for_the_tables() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let server = PostgresServer::start();
    let database = server.connect();
    database.run(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
    database.run("ALTER DATABASE postgres SET default_tablespace = small");
    drop(database);
    let url = server.url();

    survives((server, disk), &url, |(_, disk)| disk.fill(), |(_, disk), ()| disk.make_room());
}

/// The server ends with a panic, tries again, and gives up at last.
#[test]
fn no_room_for_the_log_that_is_written_ahead() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let settings = ["fsync=off", "full_page_writes=off", "min_wal_size=2MB", "max_wal_size=8MB"];
    let server = PostgresServer::start_with_wal_in(&disk.path().join("wal"), &settings);
    let url = server.url();

    survives(
        (server, disk),
        &url,
        |(_, disk)| disk.fill(),
        |(server, disk), ()| {
            disk.make_room();
            server.recover();
        },
    );
}
