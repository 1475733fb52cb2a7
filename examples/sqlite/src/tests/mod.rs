//! Tests of the whole backend, on real files.

mod contract;
mod disk;
mod lists;
mod opening;
mod plans;
mod sharing;

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, Call, EventStamp, Fields, Found, OpenBackend, Opening, Query, Result, State, Status, names,
    with_items,
};
use tempfile::TempDir;

use crate::{Options, Sqlite, Synchronous};

const SECOND: i64 = 1_000_000;

/// A database in a directory of its own.
struct Store {
    backend: Sqlite,
    directory: TempDir,
}

impl std::ops::Deref for Store {
    type Target = Sqlite;

    fn deref(&self) -> &Sqlite {
        &self.backend
    }
}

fn store() -> Store {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let backend = open(directory.path());
    Store { backend, directory }
}

fn open(directory: &Path) -> Sqlite {
    try_open(directory, false).expect("opened")
}

fn try_open(directory: &Path, read_only: bool) -> Result<Sqlite> {
    let options = Options { path: directory.join("a.db"), synchronous: Synchronous::Full };
    let deadline = Instant::now() + Duration::from_secs(10);
    let (instance, host) = ("db".to_owned(), Host::detached("db"));
    Sqlite::open(options, Opening { instance, children: Vec::new(), deadline, read_only, host })
}

/// The database as any other program sees it.
fn raw(directory: &Path) -> Connection {
    Connection::open(directory.join("a.db")).expect("opened")
}

fn call() -> Call {
    Call::with_budget(Duration::from_secs(20))
}

fn event(event_id: &str, time: i64, status: Status) -> State {
    let mut state = State::new();
    let stamp = EventStamp::new(time, event_id);
    state.set_created(&stamp);
    if status.is_terminal() {
        state.set_end(&stamp, status);
        state.set_text(&stamp, &names::outcome(status, "output"), format!("output of {event_id}"));
    } else {
        state.set_open(&stamp, status);
        state.set_text(&stamp, names::CODE, format!("code of {event_id}"));
        state.set_string(&stamp, names::LANGUAGE, if time % 2 == 0 { "python" } else { "ruby" });
    }
    state
}

fn try_merge(backend: &Sqlite, call: &Call, states: &[(&str, &State)]) -> Result<Vec<Answer>> {
    with_items(states, |batch| backend.merge(call, batch))
}

fn merge(backend: &Sqlite, id: &str, state: &State) -> Answer {
    try_merge(backend, &call(), &[(id, state)]).expect("merged").remove(0)
}

fn get(backend: &Sqlite, id: &str) -> Option<Found> {
    backend.get(&call(), &[id], Fields::Whole).expect("read").remove(0)
}

fn canonical(backend: &Sqlite, id: &str) -> Option<String> {
    get(backend, id).map(|found| found.state.to_canonical_json())
}

fn ids(backend: &Sqlite, query: &Query) -> Vec<String> {
    let mut query = query.clone();
    let mut ids = Vec::new();
    loop {
        let page = backend.list(&call(), &query).expect("listed");
        assert!(page.entries.len() <= query.limit);
        ids.extend(page.entries.into_iter().map(|(id, _)| id));
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return ids;
        }
    }
}

fn counts(backend: &Sqlite) -> Vec<(String, u64)> {
    backend.counts(&call()).expect("counted").by_status.into_iter().collect()
}

/// Evaluations `e-00` to `e-29`, each created a second after the one before; every third completed.
fn filled() -> Store {
    let store = store();
    for number in 0..30 {
        let id = format!("e-{:02}", number * 7 % 30);
        merge(&store, &id, &event("q", i64::from(number) * SECOND + i64::from(number), Status::Queued));
        if number % 3 == 0 {
            merge(&store, &id, &event("c", 100 * SECOND + i64::from(number), Status::Completed));
        }
    }
    store
}

/// The names of the files in a directory, sorted.
fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("list the directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("list the directory").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
