//! What the first page of the description promises: queued, completed and failed are stored and confirmed.

use serde_json::{Value, json};
use storage_worker_tests::confirmations::{Confirmation, Confirmations};
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

struct Flow {
    publisher: Publisher,
    confirmations: Confirmations,
    worker: Worker,
    _setup: Setup,
    _redis: RedisServer,
}

impl Flow {
    fn start(plugin: &str) -> Self {
        let redis = RedisServer::start();
        let setup = Setup::new(&redis.url(), plugin);
        let worker = setup.start();
        let confirmations = Confirmations::listen(&redis);
        Self { publisher: Publisher::new(&redis), confirmations, worker, _setup: setup, _redis: redis }
    }

    /// Publishes an event, and gives its confirmation and the record afterwards.
    fn tell(&mut self, channel: &str, payload: &Value) -> (Confirmation, Value) {
        self.publisher.publish(&[Sent::new(channel, payload)]);
        let confirmation = self.confirmations.wait_for(1, SOON).remove(0);
        self.confirmations.take();
        let id = payload["eval_id"].as_str().expect("the event has an id");
        (confirmation, self.worker.record(id).expect("what is confirmed is stored"))
    }
}

fn an_evaluation_is_stored_and_confirmed(plugin: &str, durability: &str) {
    let mut flow = Flow::start(plugin);

    let queued = json!({"eval_id": "e-1", "code": "print(42)", "language": "python", "metadata": {"timeout": 30}});
    let (created, record) = flow.tell("evaluation:queued", &queued);

    assert_eq!(created.channel, "storage:evaluation:created");
    assert_eq!(created.text("eval_id"), "e-1");
    assert_eq!(created.text("status"), "queued");
    assert_eq!(created.text("result"), "created");
    assert_eq!(created.text("durability"), durability);
    assert_eq!(created.text("backend"), "main");
    assert_eq!(created.body["generation"], 1);
    assert_eq!(created.text("timestamp").len(), "2025-01-01T00:00:00.123456+00:00".len());
    assert_eq!(record["status"], "queued");
    assert_eq!(record["code"], "print(42)");
    assert_eq!(record["metadata"], json!({"timeout": 30}));
    assert_eq!(record["success"], Value::Null);

    let (updated, record) =
        flow.tell("evaluation:completed", &json!({"eval_id": "e-1", "output": "42\n", "exit_code": 0}));

    assert_eq!(updated.channel, "storage:evaluation:updated");
    assert_eq!(updated.text("status"), "completed");
    assert_eq!(updated.text("result"), "updated");
    assert_eq!(record["status"], "completed");
    assert_eq!(record["output"], "42\n");
    assert_eq!(record["success"], true);
    assert_eq!(flow.worker.history("e-1").len(), 2);

    let (_, record) = flow.tell("evaluation:failed", &json!({"eval_id": "e-2", "error": "boom", "exit_code": 1}));

    assert_eq!(record["status"], "failed");
    assert_eq!(record["error"], "boom");
    assert_eq!(record["success"], false);
}

#[test]
fn an_evaluation_is_stored_in_memory_and_confirmed() {
    an_evaluation_is_stored_and_confirmed("memory", "volatile");
}

#[test]
fn an_evaluation_is_stored_in_files_and_confirmed() {
    an_evaluation_is_stored_and_confirmed("file", "durable");
}

#[test]
fn a_repeated_event_is_confirmed_again_and_changes_nothing() {
    let mut flow = Flow::start("memory");
    let failed = json!({"eval_id": "e-1", "error": "boom", "timestamp": "2025-01-01T00:00:00Z"});
    let (first, before) = flow.tell("evaluation:failed", &failed);

    let (second, after) = flow.tell("evaluation:failed", &failed);

    assert_eq!(first.text("result"), "created");
    assert_eq!(second.text("result"), "repeated");
    assert_eq!(first.text("event_id"), second.text("event_id"));
    assert_eq!(before, after);
    assert_eq!(flow.worker.history("e-1").len(), 1);
}

#[test]
fn health_and_logs_tell_that_all_is_well() {
    let mut flow = Flow::start("file");
    flow.tell("evaluation:completed", &json!({"eval_id": "e-1", "output": "42\n"}));

    let health = flow.worker.http().get("/health");

    assert_eq!(health.status, 200);
    let health = health.json();
    assert_eq!(health["healthy"], true);
    assert_eq!(health["redis"], "healthy");
    assert_eq!(health["storage"], "healthy");
    assert_eq!(health["events_processed"], 1);
    assert!(health["uptime_seconds"].is_number(), "{health}");
    assert_eq!(flow.worker.http().get("/livez").status, 200);
    for entry in flow.worker.log().entries() {
        for key in ["event", "level", "timestamp"] {
            assert!(entry[key].is_string(), "`{key}` is missing in {entry}");
        }
    }
}
