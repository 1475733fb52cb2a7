//! A worker between a real Redis and a scripted backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::Backend;
use storage_worker::event::row::EventRows;
use storage_worker::letters::Destination;
use storage_worker::secret::Secret;
use storage_worker::source::Source;
use storage_worker::source::config::RedisConfig;
use storage_worker::source::pubsub::PubSub;
use storage_worker::source::redis_client::RedisClient;
use storage_worker::telemetry::metrics::Metrics;
use storage_worker::worker::config::Config;
use storage_worker::worker::{Left, Parts, Served, Worker};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// How long anything may take that is expected to happen.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A worker, with everything around it.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) worker: Worker,
    pub(crate) confirmations: Confirmations,
    pub(crate) redis: RedisServer,
    pub(crate) metrics: Metrics,
    runtime: Runtime,
    directory: TempDir,
}

/// The configuration of most tests: one lane, and short pauses.
pub(crate) fn config() -> Config {
    Config {
        lanes: 1,
        retry_initial: Duration::from_millis(5),
        retry_max: Duration::from_millis(50),
        ..Config::default()
    }
}

impl Fixture {
    /// A worker that has subscribed.
    pub(crate) fn start(config: &Config, backend: Arc<dyn Backend>) -> Self {
        Self::start_prepared(config, backend, |_| ())
    }

    /// A worker that has subscribed, and finds what was prepared at the path of its dead letters.
    pub(crate) fn start_prepared(config: &Config, backend: Arc<dyn Backend>, prepare: impl FnOnce(&Path)) -> Self {
        let redis = RedisServer::start();
        let confirmations = Confirmations::listen(&redis);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let path = directory.path().join("dead.jsonl");
        prepare(&path);
        let dead_letters = Destination::File { path, max_bytes: 1 << 20 };
        let url = Secret::new(redis.url());
        let client = RedisClient::new(&RedisConfig {
            url,
            reconnect_max: Duration::from_millis(200),
            response_timeout: Duration::from_secs(2),
            ..RedisConfig::default()
        });
        let client = client.expect("a Redis URL");
        let rows = EventRows::default();
        let channels = rows.channels().map(ToOwned::to_owned).collect::<Vec<_>>();
        let pubsub = PubSub::new(client.clone(), channels, runtime.handle()).expect("make a source");
        let metrics = Metrics::new();
        let parts = Parts {
            sources: vec![Box::new(pubsub) as Box<dyn Source>],
            rows,
            served: Served { backend, name: "main".into(), generation: 1, call_timeout: Duration::from_millis(100) },
            parallel_calls: 64,
            redis: client,
            dead_letters,
            metrics: metrics.clone(),
        };
        let worker = Worker::start(config, parts, runtime.handle()).expect("start the worker");
        let fixture = Self { worker, confirmations, redis, metrics, runtime, directory };
        fixture.wait_for_subscription();
        fixture
    }

    pub(crate) fn wait_for_subscription(&self) {
        eventually(SOON, "the worker to subscribe", || self.worker.status().sources[0].status.connected);
    }

    /// Publishes `queued` events of these evaluations, each with an event id.
    pub(crate) fn publish(&self, events: &[(&str, &str)]) {
        let sent: Vec<Sent> = events.iter().map(|(id, event)| queued(id, event)).collect();
        Publisher::new(&self.redis).publish(&sent);
    }

    /// Waits for confirmations and gives (event id, result) of each.
    pub(crate) fn confirmed(&self, count: usize) -> Vec<(String, String)> {
        let confirmations = self.confirmations.wait_for(count, SOON);
        confirmations.iter().map(|one| (one.text("event_id").to_owned(), one.text("result").to_owned())).collect()
    }

    pub(crate) fn dead_letters_path(&self) -> PathBuf {
        self.directory.path().join("dead.jsonl")
    }

    /// The lines of the dead-letter file.
    pub(crate) fn dead_letters(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dead_letters_path()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    pub(crate) fn wait_for_dead_letters(&self, count: u64) -> Vec<Value> {
        eventually(SOON, "dead letters", || self.worker.status().dead_letters >= count);
        self.dead_letters()
    }

    pub(crate) fn drain(&self, limit: Duration) -> Left {
        self.runtime.block_on(self.worker.drain(Instant::now() + limit))
    }
}

/// An event that says that an evaluation is queued.
pub(crate) fn queued(id: &str, event_id: &str) -> Sent {
    let payload =
        json!({"eval_id": id, "event_id": event_id, "code": "print(42)", "timestamp": "2025-01-01T00:00:00Z"});
    Sent::new("evaluation:queued", &payload)
}
