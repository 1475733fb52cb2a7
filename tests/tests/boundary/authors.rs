//! Every kind of author is served: the plugins of `examples/`, built outside of this workspace as a stranger would, run
//! in the real worker. `shelf` only keeps documents, `c-log` does so in C, `asynchronous` is written with `async fn`; the
//! synchronous [`Backend`](storage_plugin_api::Backend) is what all the other tests run on.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use storage_worker_tests::confirmations::{Confirmation, Confirmations};
use storage_worker_tests::generate::Generator;
use storage_worker_tests::outside::{build_example, c_example_setup, make_c_example};
use storage_worker_tests::process::library_name;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Expected, Sent, expected};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};
use tempfile::TempDir;

use crate::{SOON, check};

const EVALUATIONS: usize = 40;

/// A worker's configuration for a plugin of `examples/`, the Redis it listens to, and where the plugin lies.
struct Author {
    redis: RedisServer,
    setup: Setup,
    _built: Option<TempDir>,
}

impl Author {
    fn of(example: &str) -> Self {
        let built = tempfile::tempdir().expect("make a temporary directory");
        let plugin = build_example(example, built.path());
        let redis = RedisServer::start();
        let setup = Setup::new(&redis.url(), plugin.to_str().expect("temporary paths are Unicode"));
        Self { redis, setup, _built: Some(built) }
    }

    fn shelf() -> Self {
        Self::of("shelf").set("backends.main.options.max_documents", 1000)
    }

    fn asynchronous(latency: &str) -> Self {
        Self::of("asynchronous").set("backends.main.options.latency", latency)
    }

    fn in_c() -> Self {
        let redis = RedisServer::start();
        let setup = c_example_setup(&redis.url());
        Self { redis, setup, _built: None }
    }

    fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        self.setup = self.setup.set(path, value);
        self
    }

    fn publish(&self, events: &[Sent]) {
        Publisher::new(&self.redis).publish(events);
    }
}

fn queued(id: &str) -> Sent {
    Sent::new("evaluation:queued", &json!({"eval_id": id, "code": "1", "timestamp": "2025-01-01T00:00:00Z"}))
}

/// Shuffled and repeated events are confirmed, each once; records, histories, lists and counts are those of the second
/// model.
fn keeps_the_contract(author: &Author, durability: &str) {
    let worker = author.setup.start();
    let confirmations = Confirmations::listen(&author.redis);
    let mut generator = Generator::new(7);
    let events: Vec<Sent> = (0..EVALUATIONS).flat_map(|_| generator.any_set()).collect();
    let mixed = generator.shuffle_and_repeat(&events);

    author.publish(&mixed);

    confirmations.wait_for(mixed.len(), SOON);
    let model = expected(&events, 0);
    assert_eq!(model.len(), EVALUATIONS);
    for (id, expected) in &model {
        assert_eq!(worker.record(id).as_ref(), Some(&expected.record), "record of {id}");
        assert_eq!(worker.history(id), expected.history, "history of {id}");
    }
    assert_eq!(listed(&worker), model.keys().cloned().collect::<Vec<_>>());
    let statistics = worker.http().get("/statistics").json();
    assert_eq!(statistics["by_status"], by_status(&model), "{statistics}");
    assert!(author.setup.dead_letters().is_empty());

    confirmations.take();
    author.publish(&events[..1]);
    let again: Confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((again.text("result"), again.text("durability")), ("repeated", durability), "{}", again.body);
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "the worker ended with {status}:\n{log}");
}

/// The ids of all evaluations, in the order of their pages.
fn listed(worker: &Worker) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = worker.http().get(&format!("/evaluations?limit=7&cursor={cursor}")).json();
        let entries = page["evaluations"].as_array().unwrap_or_else(|| panic!("no list: {page}"));
        ids.extend(entries.iter().map(|entry| entry["id"].as_str().expect("a record has an id").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return ids,
        }
    }
}

fn by_status(model: &BTreeMap<String, Expected>) -> Value {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for expected in model.values() {
        *counts.entry(expected.record["status"].as_str().expect("a record has a status")).or_default() += 1;
    }
    counts.into_iter().map(|(status, count)| (status.to_owned(), count.into())).collect::<Map<_, _>>().into()
}

#[test]
fn a_document_store_is_merged_listed_and_counted_for() {
    keeps_the_contract(&Author::shelf(), "volatile");
}

#[test]
fn an_asynchronous_backend_merges_lists_and_counts_on_its_own_runtime() {
    keeps_the_contract(&Author::asynchronous("2ms"), "volatile");
}

#[test]
fn a_document_store_in_c_is_merged_listed_and_counted_for() {
    keeps_the_contract(&Author::in_c(), "durable");
}

/// The example's own test, in C, with the sanitizers for addresses and undefined behaviour.
#[test]
fn the_plugin_in_c_passes_its_own_test() {
    let built = tempfile::tempdir().expect("make a temporary directory");

    let printed = make_c_example("test", built.path());

    assert!(printed.contains("all is well"), "{printed}");
}

/// What every backend must do, by `plugin test`, with a log that is compacted all the time.
#[test]
fn the_plugin_in_c_keeps_what_a_durable_backend_promises() {
    let author = Author::in_c();
    let plugin = author.setup.path("built").join(library_name("clog"));
    let options = r#"{"path": "{dir}", "compact_min_bytes": 20000}"#;

    let mut command = author.setup.command(&["plugin", "test", "--options", options]);
    let output = command.arg(plugin).output().expect("start the worker");

    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for level in ["basic     yes", "durable   yes"] {
        assert!(text.contains(level), "{text}");
    }
}

#[test]
fn a_plugin_in_c_is_inspected_checked_and_explained_as_any_other() {
    let author = Author::in_c();
    let plugin = author.setup.path("built").join(library_name("clog"));
    let said = |setup: &Setup, arguments: &[&str]| {
        let output = setup.command(arguments).output().expect("start the worker");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };

    let inspected = said(&author.setup, &["plugin", "inspect", plugin.to_str().expect("a path is Unicode")]);
    assert!(inspected.contains("compiler") && inspected.contains("can be run     yes"), "{inspected}");
    let explained = said(&author.setup, &["explain"]);
    assert!(explained.contains("keeps its log in `") && explained.contains("durable"), "{explained}");
    let wrong = author.set("backends.main.options.pfad", "x");
    let (status, text) = check(&wrong.setup);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("unknown option `pfad`; there are `path`, `compact_min_bytes`"), "{text}");
    assert!(!wrong.setup.path("data").exists(), "none of them makes anything");
}

#[test]
fn what_a_document_store_cannot_take_waits_until_it_can() {
    let author = Author::shelf().set("backends.main.options.max_documents", 1);
    let mut worker = author.setup.start();
    let confirmations = Confirmations::listen(&author.redis);

    author.publish(&[queued("first")]);
    confirmations.wait_for(1, SOON);
    author.publish(&[queued("second")]);

    eventually(SOON, "the second event to be tried again", || failures(&worker, "overloaded") >= 2.0);
    assert!(worker.record("second").is_none());
    assert_waits(&author, &mut worker);
}

#[test]
fn an_asynchronous_merge_that_takes_too_long_is_given_up_and_tried_again() {
    let author = Author::asynchronous("2s").set("storage.call_timeout", "100ms");
    let mut worker = author.setup.start();

    author.publish(&[queued("slow")]);

    eventually(SOON, "the merge to be tried again", || failures(&worker, "unavailable") >= 2.0);
    let is_told = || worker.log().lines().iter().any(|line| line.contains("no answer within"));
    eventually(SOON, "the reason to be in the log", is_told);
    assert_eq!(worker.http().get("/evaluations/slow").status, 503);
    assert_waits(&author, &mut worker);
}

#[test]
fn a_panic_in_an_asynchronous_merge_is_answered_as_an_internal_error() {
    let author = Author::asynchronous("2ms").set("backends.main.options.panic", true);
    let mut worker = author.setup.start();

    author.publish(&[queued("a"), queued("b")]);

    eventually(SOON, "the merge to fail again", || failures(&worker, "internal") >= 2.0);
    eventually(SOON, "the panic in the log", || worker.log().find("plugin panicked").is_some());
    // The runtime goes on, and what shares it.
    assert_eq!(worker.http().get("/evaluations/a").status, 404);
    assert_waits(&author, &mut worker);
}

/// How many calls or items failed with this kind of error.
fn failures(worker: &Worker, kind: &str) -> f64 {
    worker.http().metric("storage_worker_storage_failures_total", &[&format!("kind=\"{kind}\"")])
}

/// The worker lives and holds what was not taken, as no dead letter.
#[track_caller]
fn assert_waits(author: &Author, worker: &mut Worker) {
    assert!(worker.is_running());
    assert_eq!(worker.http().get("/livez").status, 200);
    eventually(SOON, "the metrics to tell what waits", || {
        worker.http().metric("storage_worker_queue_events", &[]) >= 1.0
    });
    assert!(author.setup.dead_letters().is_empty());
}
