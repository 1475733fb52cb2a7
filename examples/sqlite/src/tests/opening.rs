//! What is opened, what is refused, and what an opening leaves behind.

use storage_plugin_api::ErrorKind;

use super::*;
use crate::schema::VERSION;

fn refusal(directory: &Path, read_only: bool) -> String {
    let error = try_open(directory, read_only).expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
    assert!(error.message.contains("a.db"), "{error}");
    error.message
}

#[test]
fn a_database_of_a_newer_version_is_refused_with_both_numbers() {
    let store = filled();
    let connection = raw(store.directory.path());
    connection.pragma_update(None, "user_version", 7).expect("changed");

    for read_only in [false, true] {
        let refusal = refusal(store.directory.path(), read_only);
        assert!(refusal.contains("version 7") && refusal.contains(&format!("up to {VERSION};")), "{refusal}");
    }
}

#[test]
fn a_database_of_another_program_is_left_as_it_is() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let theirs = "CREATE TABLE theirs (x); PRAGMA user_version = 1";
    raw(directory.path()).execute_batch(theirs).expect("made");
    let before = std::fs::read(directory.path().join("a.db")).expect("read");

    let refusal = refusal(directory.path(), false);

    assert!(refusal.contains("another program"), "{refusal}");
    assert_eq!(std::fs::read(directory.path().join("a.db")).expect("read"), before);
    assert_eq!(files(directory.path()), ["a.db"]);
}

#[test]
fn what_is_no_database_is_refused() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    std::fs::write(directory.path().join("a.db"), "not a database, but a text of some length".repeat(100))
        .expect("written");

    let refusal = refusal(directory.path(), false);

    assert!(refusal.contains("no SQLite database"), "{refusal}");
}

#[test]
fn a_directory_that_is_not_there_is_made() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let deeper = directory.path().join("not/there");

    refusal(&deeper, true);
    assert_eq!(files(directory.path()), [""; 0]);

    merge(&open(&deeper), "a", &event("q", 1, Status::Queued));
    assert!(get(&open(&deeper), "a").is_some());
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    std::fs::write(directory.path().join("file"), "").expect("written");

    let refusal = refusal(&directory.path().join("file/below"), false);

    assert!(refusal.contains("cannot make the directory"), "{refusal}");
}

#[test]
fn reading_makes_nothing() {
    let directory = tempfile::tempdir().expect("make a temporary directory");

    let missing = refusal(directory.path(), true);
    assert!(missing.contains("nothing is stored in"), "{missing}");
    assert_eq!(files(directory.path()), [""; 0]);

    std::fs::write(directory.path().join("a.db"), "").expect("written");
    let empty = refusal(directory.path(), true);
    assert!(empty.contains("it is empty"), "{empty}");
    assert_eq!(std::fs::read(directory.path().join("a.db")).expect("read"), b"");
    assert_eq!(files(directory.path()), ["a.db"]);
}

#[test]
fn reading_what_was_closed_leaves_it_as_it_was() {
    let Store { backend, directory } = filled();
    backend.close(&call()).expect("closed");
    drop(backend);
    assert_eq!(files(directory.path()), ["a.db"]);
    let before = std::fs::read(directory.path().join("a.db")).expect("read");

    let reading = try_open(directory.path(), true).expect("opened");

    assert_eq!(ids(&reading, &Query { limit: 100, ..Query::default() }).len(), 30);
    let error = try_merge(&reading, &call(), &[("x", &event("q", 1, Status::Queued))]).expect_err("refused");
    assert_eq!(error.kind, ErrorKind::Configuration);
    reading.close(&call()).expect("closed");
    drop(reading);
    assert_eq!(files(directory.path()), ["a.db"]);
    assert_eq!(std::fs::read(directory.path().join("a.db")).expect("read"), before);
}

/// What a process left that was killed is read, and left to the next that writes.
#[test]
fn reading_after_a_crash_sees_all_and_changes_nothing() {
    let store = filled();
    let crashed = tempfile::tempdir().expect("make a temporary directory");
    for name in ["a.db", "a.db-wal"] {
        std::fs::copy(store.directory.path().join(name), crashed.path().join(name)).expect("copied");
    }
    let bytes = |name: &str| std::fs::read(crashed.path().join(name)).expect("read");
    let before = (bytes("a.db"), bytes("a.db-wal"));
    assert!(!before.1.is_empty());

    let reading = try_open(crashed.path(), true).expect("opened");

    assert_eq!(ids(&reading, &Query { limit: 100, ..Query::default() }).len(), 30);
    reading.close(&call()).expect("closed");
    drop(reading);
    assert_eq!((bytes("a.db"), bytes("a.db-wal")), before);
    let writing = open(crashed.path());
    assert_eq!(ids(&writing, &Query { limit: 100, ..Query::default() }).len(), 30);
    writing.close(&call()).expect("closed");
    assert_eq!(files(crashed.path()), ["a.db"]);
}

#[test]
fn two_that_open_a_new_database_at_once_both_get_it() {
    for _ in 0..10 {
        let directory = tempfile::tempdir().expect("make a temporary directory");

        std::thread::scope(|scope| {
            for id in ["a", "b"] {
                let path = directory.path();
                scope.spawn(move || merge(&open(path), id, &event("q", 1, Status::Queued)));
            }
        });

        assert_eq!(ids(&open(directory.path()), &Query { limit: 10, ..Query::default() }), ["a", "b"]);
    }
}

#[test]
fn the_database_is_written_as_promised() {
    let store = filled();
    let lease = store.writer_session();
    let pragma = |name| lease.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).expect("read");

    assert_eq!(pragma("synchronous"), 2, "full");
    assert_eq!(pragma("fullfsync"), 1);
    assert_eq!(pragma("page_size"), 8192);
    let check: String =
        raw(store.directory.path()).query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(check, "ok");
}
