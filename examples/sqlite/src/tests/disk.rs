//! What goes wrong with the disk and the files, and that it goes on afterwards.

use rusqlite::limits::Limit;
use storage_plugin_api::{ErrorKind, Outcome};

use super::*;

#[test]
fn on_a_full_disk_nothing_is_lost_and_it_goes_on_by_itself() {
    let store = filled();
    let set_most = |pages: i64| {
        let lease = store.writer_session();
        let set = lease.connection.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0));
        set.expect("set")
    };
    let pages = set_most(1);
    let mut large = event("c", 1, Status::Completed);
    large.set_text(&EventStamp::new(1, "c"), "completed/error", "x".repeat(1 << 20));

    let small = event("q", 1, Status::Queued);
    let error = try_merge(&store, &call(), &[("small", &small), ("large", &large)]).expect_err("full");

    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("make room"), "{error}");
    assert!(!store.health().healthy);
    assert_eq!(store.health().reason, error.message);
    assert!(get(&store, "small").is_none(), "a call that failed has stored nothing");
    assert_eq!(ids(&store, &Query { limit: 100, ..Query::default() }).len(), 30);

    set_most(pages + 1000);

    let answers = try_merge(&store, &call(), &[("small", &small), ("large", &large)]).expect("room");
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Created));
    assert!(store.health().healthy);
}

#[test]
fn a_state_too_large_for_sqlite_is_refused_alone() {
    let store = store();
    store.writer_session().connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, 100_000).expect("set");
    let mut large = event("c", 1, Status::Completed);
    large.set_text(&EventStamp::new(1, "c"), "completed/error", "x".repeat(100_000));
    let small = event("q", 1, Status::Queued);

    let answers = try_merge(&store, &call(), &[("a", &small), ("b", &large), ("c", &small)]).expect("merged");

    assert_eq!((&answers[0].outcome, &answers[2].outcome), (&Outcome::Created, &Outcome::Created));
    let Outcome::Rejected(error) = &answers[1].outcome else { panic!("{:?}", answers[1]) };
    assert_eq!(error.kind, ErrorKind::InvalidItem);
    assert_eq!(ids(&store, &Query { limit: 10, ..Query::default() }), ["a", "c"]);
    assert!(store.health().healthy);
}

#[test]
fn a_call_ends_at_its_deadline() {
    let store = store();
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    let in_a_hurry = Call::with_budget(Duration::from_millis(50));

    let read = store.read(&in_a_hurry, |connection| connection.query_row(endless, [], |row| row.get::<_, i64>(0)));
    let written = store.write(&Call::with_budget(Duration::from_millis(50)), |connection| {
        connection.query_row(endless, [], |row| row.get::<_, i64>(0))
    });

    assert_eq!(read.expect_err("endless").kind, ErrorKind::Unavailable);
    assert_eq!(written.expect_err("endless").kind, ErrorKind::Unavailable);
    assert_eq!(merge(&store, "a", &event("q", 1, Status::Queued)).outcome, Outcome::Created);
}

/// A panic in the midst of a transaction leaves nothing of it, and the connection can be used.
#[test]
fn a_panic_rolls_back() {
    let store = filled();

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.write(&call(), |connection| -> rusqlite::Result<()> {
            connection.execute("DELETE FROM evaluations", [])?;
            panic!("a defect")
        })
    }));

    assert!(panicked.is_err());
    assert_eq!(counts(&store).iter().map(|(_, count)| count).sum::<u64>(), 30);
    assert_eq!(merge(&store, "a", &event("q", 1, Status::Queued)).outcome, Outcome::Created);
}

/// SQLite would go on writing to a file that has no name any more.
#[test]
fn a_database_that_was_moved_away_is_noticed_and_taken_again_when_it_is_back() {
    let store = filled();
    let path = store.directory.path();
    let away = path.join("away");
    std::fs::create_dir(&away).expect("made");
    let names: Vec<String> = files(path).into_iter().filter(|name| name.starts_with("a.db")).collect();
    let queued = event("q", 1, Status::Queued);
    let move_all = |from: &Path, to: &Path| {
        names.iter().filter(|name| from.join(name).exists()).for_each(|name| {
            std::fs::rename(from.join(name), to.join(name)).expect("moved");
        });
    };

    move_all(path, &away);

    let error = try_merge(&store, &call(), &[("new", &queued)]).expect_err("gone");
    assert_eq!(error.kind, ErrorKind::Configuration, "{error}");
    assert!(!store.health().healthy);
    assert_eq!(files(path), ["away"], "no other database takes its place");

    move_all(&away, path);

    assert_eq!(merge(&store, "new", &queued).outcome, Outcome::Created);
    assert!(store.health().healthy);
    assert_eq!(ids(&store, &Query { limit: 100, ..Query::default() }).len(), 31);
}

#[test]
fn flush_is_a_sync_where_commits_are_not() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let options = Options { path: directory.path().join("a.db"), synchronous: Synchronous::Normal };
    let deadline = Instant::now() + Duration::from_secs(10);
    let (instance, host) = ("db".to_owned(), Host::detached("db"));
    let opening = Opening { instance, children: Vec::new(), deadline, read_only: false, host };
    let backend = Sqlite::open(options, opening).expect("opened");

    let answer = merge(&backend, "a", &event("q", 1, Status::Queued));

    assert_eq!(answer.durability, storage_plugin_api::Durability::Volatile);
    backend.flush(&call()).expect("flushed");
    std::fs::remove_file(directory.path().join("a.db-wal")).expect("removed");
    backend.flush(&call()).expect("nothing to sync");
}
