//! What the first page of the description promises, with streams in the place of channels.

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;

use super::{GROUP, STREAM, assert_all_stored, setup, wait_until_settled};
use crate::SOON;

fn an_entry_is_stored_confirmed_and_acknowledged(plugin: &str, durability: &str) {
    let redis = RedisServer::start();
    let setup = setup(&redis, plugin, "a");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);

    stream.add(&[Sent::new("evaluation:queued", &json!({"eval_id": "e-1", "code": "print(42)"}))]);

    let created = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!(created.channel, "storage:evaluation:created");
    assert_eq!((created.text("result"), created.text("durability")), ("created", durability));
    stream.add(&[Sent::new("evaluation:completed", &json!({"eval_id": "e-1", "output": "42\n", "exit_code": 0}))]);
    stream.add_fields("evaluation:failed", &json!({"eval_id": "e-2", "error": "boom", "exit_code": 1}));
    confirmations.wait_for(3, SOON);
    let (completed, failed) = (worker.record("e-1").expect("stored"), worker.record("e-2").expect("stored"));
    assert_eq!((&completed["status"], &completed["output"]), (&json!("completed"), &json!("42\n")));
    assert_eq!(
        (&failed["error"], &failed["exit_code"], &failed["success"]),
        (&json!("boom"), &json!(1), &json!(false))
    );
    wait_until_settled(&mut stream);
    let health = worker.http().get("/health");
    assert_eq!((health.status, &health.json()["redis"]), (200, &json!("healthy")));
    eventually(SOON, "the metrics to show three entries and no lag", || {
        let metrics = worker.http().get("/metrics").body;
        metrics.contains("storage_worker_stream_entries_total{stream=\"evaluation:events\",how=\"new\"} 3\n")
            && metrics.contains("storage_worker_stream_lag{stream=\"evaluation:events\"} 0\n")
            && metrics.contains("storage_worker_stream_pending{stream=\"evaluation:events\"} 0\n")
    });
}

#[test]
fn an_entry_is_stored_in_memory_confirmed_and_acknowledged() {
    an_entry_is_stored_confirmed_and_acknowledged("memory", "volatile");
}

#[test]
fn an_entry_is_stored_in_files_confirmed_and_acknowledged() {
    an_entry_is_stored_confirmed_and_acknowledged("file", "durable");
}

#[test]
fn both_forms_of_an_entry_and_pubsub_give_an_event_one_id() {
    let redis = RedisServer::start();
    let worker = setup(&redis, "memory", "a").set("source.pubsub.enabled", true).start();
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);
    let event = json!({
        "output": "42\n \"quoted\" größe\u{0}", "eval_id": "e-1", "exit_code": 7, "runtime_ms": 12, "unknown": "30",
        "completed_at": "2025-01-01T00:00:00Z", "metadata": {"b": [1, 2.5], "a": {"deep": null}},
    });
    let sent = [Sent::new("evaluation:completed", &event)];

    Publisher::new(&redis).publish(&sent);
    confirmations.wait_for(1, SOON);
    stream.add(&sent);
    stream.add_fields("evaluation:completed", &event);

    let confirmed = confirmations.wait_for(3, SOON);
    let results: Vec<&str> = confirmed.iter().map(|one| one.text("result")).collect();
    assert_eq!(results, ["created", "repeated", "repeated"]);
    assert!(confirmed.iter().all(|one| one.text("event_id") == confirmed[0].text("event_id")), "{confirmed:#?}");
    assert_all_stored(&worker, &sent);
}

#[test]
fn several_streams_are_read_and_an_event_without_a_time_has_that_of_its_entry() {
    let redis = RedisServer::start();
    let worker = setup(&redis, "memory", "a")
        .set("source.streams.streams", vec![STREAM, "second"])
        .set("source.streams.count", 7)
        .start();
    let confirmations = Confirmations::listen(&redis);
    let mut second = Stream::new(&redis, "second");
    let mut generator = Generator::new(3);
    let events: Vec<Sent> = (0..200).flat_map(|_| generator.any_set()).collect();
    let (one, other) = events.split_at(events.len() / 2);

    second.command("XADD", &["1735732800000-7", "channel", "evaluation:failed", "eval_id", "timed", "error", "x"]);
    Stream::new(&redis, STREAM).add(one);
    second.add(other);

    confirmations.wait_for(events.len() + 1, SOON);
    assert_all_stored(&worker, &events);
    assert_eq!(worker.history("timed")[0]["timestamp"], "2025-01-01T12:00:00.000007+00:00");
}

#[test]
fn a_group_that_is_to_start_with_new_entries_does_so() {
    let redis = RedisServer::start();
    let mut stream = Stream::new(&redis, STREAM);
    let failed = |id: &str| Sent::new("evaluation:failed", &json!({"eval_id": id, "error": "x"}));
    stream.add(&[failed("old")]);
    let worker = setup(&redis, "memory", "a").set("source.streams.start", "$").start();
    let confirmations = Confirmations::listen(&redis);
    eventually(SOON, "the group", || !stream.group_value(GROUP, "name").is_empty());

    stream.add(&[failed("new")]);

    assert_eq!(confirmations.wait_for(1, SOON)[0].text("eval_id"), "new");
    assert_eq!(worker.record("old"), None);
}

#[test]
fn what_is_no_event_is_dead_lettered_alone_and_acknowledged() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "file", "a");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);
    let good: Vec<Sent> = (0..50)
        .map(|number| {
            let id = format!("good-{number}");
            Sent::new("evaluation:failed", &json!({"eval_id": id, "error": "x", "timestamp": "2025-01-01T00:00:00Z"}))
        })
        .collect();

    stream.add(&good[..25]);
    stream.command("XADD", &["*", "channel", "evaluation:failed", "data", "{ no json"]);
    stream.command("XADD", &["*", "channel", "unknown", "data", "{}"]);
    stream.command("XADD", &["*", "eval_id", "nowhere"]);
    stream.add_fields("evaluation:queued", &json!({"eval_id": "no-code"}));
    stream.add(&good[25..]);

    confirmations.wait_for(good.len(), SOON);
    wait_until_settled(&mut stream);
    assert_all_stored(&worker, &good);
    let letters = setup.dead_letters();
    let found: Vec<(&Value, &Value)> = letters.iter().map(|letter| (&letter["reason"], &letter["payload"])).collect();
    assert_eq!(
        found,
        [
            (&json!("invalid_json"), &json!("{ no json")),
            (&json!("unknown_channel"), &json!("{}")),
            (&json!("unknown_channel"), &json!("{\"eval_id\":\"nowhere\"}")),
            (&json!("missing_field"), &json!("{\"eval_id\":\"no-code\"}")),
        ]
    );
    assert_eq!(stream.pending(GROUP), 0);
}
