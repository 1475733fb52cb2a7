//! What arrived by pub/sub is stored: whatever is killed, however long storage is away, and whatever happens to the files.

mod archive;
mod damage;
mod full;
mod outages;
mod side_by_side;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

/// Files behind a layer that is unavailable while `away` is there.
fn setup(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "switch");
    let [data, away] = ["data", "away"].map(|name| setup.path(name).display().to_string());
    setup
        .set("redis.reconnect_max", "500ms")
        .set("storage.breaker.open_for", "20ms")
        .set("storage.breaker.max_open_for", "200ms")
        .set("worker.retry_max", "200ms")
        .set("backends.main.children.inner", "files")
        .set("backends.main.options.away_while", away)
        .set("backends.files.plugin", "file")
        .set("backends.files.options.path", data)
}

fn take_storage_away(setup: &Setup) {
    std::fs::write(setup.path("away"), []).expect("write a file");
}

fn give_storage_back(setup: &Setup) {
    std::fs::remove_file(setup.path("away")).expect("it was away");
}

/// A part of what health says of the journal.
#[track_caller]
fn journal(worker: &Worker, key: &str) -> Value {
    worker.http().get("/health").json()["journal"][key].clone()
}

#[track_caller]
pub(crate) fn entries(worker: &Worker) -> u64 {
    journal(worker, "entries").as_u64().expect("health counts the entries of the journal")
}

/// Waits until this worker is the one that Redis publishes to.
#[track_caller]
fn wait_until_subscribed(redis: &RedisServer, worker: &Worker) {
    let mut connection = redis.connect();
    eventually(SOON, "the worker, and no other, to be subscribed", || {
        let mut listeners = redis::cmd("PUBSUB");
        listeners.arg("NUMSUB").arg("evaluation:queued");
        let (_, count): (String, u64) = listeners.query(&mut connection).expect("ask Redis");
        count == 1 && worker.http().get("/health").json()["redis"] == "healthy"
    });
}

#[track_caller]
fn assert_no_event_twice(worker: &Worker, events: &BTreeSet<(String, String)>) {
    for id in events.iter().map(|(id, _)| id).collect::<BTreeSet<_>>() {
        let history = worker.history(id);
        let different: BTreeSet<&str> = history.iter().filter_map(|entry| entry["event_id"].as_str()).collect();
        assert_eq!(history.len(), different.len(), "an event of {id} is there twice: {history:?}");
    }
}

/// The segments of a journal, oldest first.
fn segments(setup: &Setup) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(setup.path("journal")).expect("there is a journal");
    let paths = entries.map(|entry| entry.expect("it is readable").path());
    let mut segments: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect();
    segments.sort();
    segments
}
