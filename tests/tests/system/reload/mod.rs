//! Storage is changed while the worker runs: nothing is lost, and what is wrong changes nothing.

mod builds;
mod ends;
mod fallback;
mod many;
mod refused;
mod swaps;
mod unasked;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use storage_worker_tests::process::plugin_path;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

/// What the hostile plugin logs when it is opened.
const HOSTILE_OPENS: &str = "hostile plugin opens";

/// What `storage-worker reload` answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) output: Value,
    pub(crate) error: String,
}

/// Writes the configuration of the set-up and has the worker read it.
pub(crate) fn reload(setup: &Setup, worker: &Worker, arguments: &[&str]) -> Answer {
    reload_at(setup, worker.admin_address(), arguments)
}

fn reload_at(setup: &Setup, admin: &str, arguments: &[&str]) -> Answer {
    let listen = format!("admin.listen={admin}");
    let arguments = [&["reload", "--output", "json", "--set", &listen], arguments].concat();
    let output = setup.command(&arguments).output().expect("the command runs");
    Answer {
        code: output.status.code(),
        output: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        error: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A reload that is expected to be done.
#[track_caller]
fn reloaded(setup: &Setup, worker: &Worker) -> Value {
    let answer = reload(setup, worker, &[]);
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.error, worker.log());
    answer.output
}

/// A reload that is expected to be refused; why.
#[track_caller]
fn refused(setup: &Setup, worker: &Worker, code: i32, reason: &str) {
    let before = generation(worker);
    let answer = reload(setup, worker, &[]);
    assert_eq!(answer.code, Some(code), "{}", answer.error);
    assert!(answer.error.contains(reason), "`{reason}` is not in: {}", answer.error);
    assert_eq!(generation(worker), before, "nothing has changed");
}

/// Two stores, of which `main` is in use.
fn two_stores(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "file");
    let second = setup.path("second").display().to_string();
    setup.set("backends.second.plugin", "file").set("backends.second.options.path", second)
}

/// One more, that misbehaves in one call.
fn with_hostile(setup: Setup, call: &str, way: &str) -> Setup {
    let plugin = plugin_path("hostile").display().to_string();
    setup.set("backends.hostile.plugin", plugin).set(&format!("backends.hostile.options.{call}"), way)
}

fn queued(id: &str) -> Sent {
    Sent::new("evaluation:queued", &json!({"eval_id": id, "code": "1", "timestamp": "2025-01-01T00:00:00Z"}))
}

fn generation(worker: &Worker) -> u64 {
    worker.http().get("/health").json()["generation"].as_u64().expect("health says the generation")
}

/// How many times the log has an event.
fn logged(worker: &Worker, event: &str) -> usize {
    worker.log().all(event).len()
}

#[track_caller]
fn wait_for_log(worker: &Worker, event: &str, times: usize) {
    eventually(SOON, event, || logged(worker, event) >= times);
}

fn threads(worker: &Worker) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", worker.id())).expect("the process runs").count()
}

/// Every event, by evaluation and event, is read from the worker.
#[track_caller]
fn assert_stored(worker: &Worker, events: &BTreeSet<(String, String)>) {
    let stored = stored(worker, events);
    let lost: Vec<_> = events.difference(&stored).take(5).collect();
    assert!(lost.is_empty(), "{} of {} are not stored, {lost:?}", events.len() - stored.len(), events.len());
}

/// Those of the events, by evaluation and event, that the worker reads.
fn stored(worker: &Worker, events: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let ids: BTreeSet<&String> = events.iter().map(|(id, _)| id).collect();
    let of = |id: &&String| {
        let answer = worker.http().get(&format!("/evaluations/{id}/events"));
        let entries = if answer.status == 200 { answer.json() } else { json!([]) };
        let entries = entries.as_array().or_else(|| entries["events"].as_array()).expect("a list").clone();
        let event = |entry: &Value| ((*id).clone(), entry["event_id"].as_str().unwrap_or_default().to_owned());
        entries.iter().map(event).collect::<Vec<_>>()
    };
    let there: BTreeSet<_> = ids.iter().flat_map(of).collect();
    events.intersection(&there).cloned().collect()
}
