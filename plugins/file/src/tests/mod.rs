//! Tests of the whole backend over real directories. This file has what they share.

mod adoption;
mod calls;
mod crash;
mod damage;
mod disk_full;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, Call, EventStamp, Fields, Found, OpenBackend, Opening, Outcome, Query, State, Status, names,
    with_items,
};
use tempfile::TempDir;

use crate::backend::{FileBackend, open_store};
use crate::options::{Options, Sync};
use crate::store::{Limits, Store};

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const START: i64 = 1_735_689_600 * SECOND;

const LIMITS: Limits = Limits { max_unwritten_bytes: 1 << 20, max_cached_bytes: 1 << 18 };

pub(super) fn call() -> Call {
    Call::with_budget(Duration::from_secs(10))
}

pub(super) fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

pub(super) fn options(path: &Path) -> Options {
    Options { path: path.to_owned(), sync: Sync::Batch }
}

pub(super) fn try_open(path: &Path) -> storage_plugin_api::Result<FileBackend> {
    try_open_as(path, false)
}

pub(super) fn try_open_as(path: &Path, read_only: bool) -> storage_plugin_api::Result<FileBackend> {
    let opening = Opening {
        instance: "disk".to_owned(),
        children: Vec::new(),
        deadline: Instant::now() + Duration::from_secs(10),
        read_only,
        host: Host::detached("disk"),
    };
    FileBackend::open(options(path), opening)
}

pub(super) fn open(path: &Path) -> FileBackend {
    try_open(path).expect("the directory opens")
}

/// A store without the thread, so that a test runs each step itself.
pub(super) fn open_still(path: &Path) -> (Store, std::fs::File) {
    open_store(&options(path), Instant::now() + Duration::from_secs(10), LIMITS).expect("the directory opens")
}

/// A queued event.
pub(super) fn queued(event_id: &str, time: i64) -> State {
    let mut state = State::new();
    let stamp = EventStamp::new(time, event_id);
    state.set_open(&stamp, Status::Queued);
    state.set_stage_at(&stamp, Status::Queued);
    state.set_created(&stamp);
    state.set_text(&stamp, names::CODE, format!("print('{event_id} ü')"));
    state.set_string(&stamp, names::LANGUAGE, "python");
    state.set_metadata(&stamp, "priority", "1");
    state.set_history(&stamp, "queued", Status::Queued, "Evaluation queued");
    state
}

/// An event that ends an evaluation.
pub(super) fn ended(event_id: &str, time: i64, status: Status) -> State {
    let mut state = State::new();
    let stamp = EventStamp::new(time, event_id);
    state.set_end(&stamp, status);
    state.set_created(&stamp);
    state.set_text(&stamp, &names::outcome(status, "output"), format!("output of {event_id}\n"));
    state.set_history(&stamp, status.as_str(), status, "Evaluation ended");
    state
}

pub(super) fn merge_into(store: &Store, id: &str, state: &State) -> Answer {
    with_items(&[(id, state)], |batch| store.merge(&call(), batch)).expect("merged").remove(0)
}

pub(super) fn merge(backend: &FileBackend, id: &str, state: &State) -> Answer {
    with_items(&[(id, state)], |batch| backend.merge(&call(), batch)).expect("merged").remove(0)
}

pub(super) fn outcome(backend: &FileBackend, id: &str, state: &State) -> Outcome {
    merge(backend, id, state).outcome
}

pub(super) fn get(backend: &FileBackend, id: &str) -> Option<Found> {
    backend.get(&call(), &[id], Fields::Whole).expect("read").remove(0)
}

pub(super) fn canonical(backend: &FileBackend, id: &str) -> Option<String> {
    get(backend, id).map(|found| found.state.to_canonical_json())
}

pub(super) fn joined(states: &[&State]) -> String {
    let mut whole = State::new();
    for state in states {
        whole.merge(state);
    }
    whole.to_canonical_json()
}

/// The ids of all pages of a query.
pub(super) fn ids(backend: &FileBackend, query: &Query) -> Vec<String> {
    let mut query = query.clone();
    let mut ids = Vec::new();
    loop {
        let page = backend.list(&call(), &query).expect("listed");
        ids.extend(page.entries.into_iter().map(|(id, _)| id));
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            return ids;
        }
    }
}

pub(super) fn record(path: &Path, id: &str) -> serde_json::Value {
    let bytes = std::fs::read(path.join(format!("evaluations/{id}.json"))).expect("a record file");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The directory as a crash at this moment would leave it, but for what the disk does not have yet.
pub(super) fn copy(path: &Path) -> TempDir {
    let target = directory();
    copy_into(path, target.path());
    target
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir_all(&target).expect("a directory");
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

/// The segments of the log, oldest first.
pub(super) fn log_files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(path.join("log")).expect("a log").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Waits for a state of things, with a limit.
pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < limit, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
