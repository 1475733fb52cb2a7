//! `bridge` and `publish --stream`: what is published is kept in a stream, and is the same event there.

use std::process::Output;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, time_text};
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::{eventually, eventually_some};
use storage_worker_tests::worker::{Setup, Worker};

use super::{STREAM, assert_all_stored, setup, wait_until_settled};
use crate::SOON;

fn start_bridge(setup: &Setup, arguments: &[&str]) -> Worker {
    let bridge = setup.start_command(&[&["bridge"], arguments].concat());
    eventually_some(SOON, "the bridge to subscribe", || bridge.log().find("subscribed"));
    bridge
}

#[test]
fn two_bridges_keep_what_is_published_while_one_is_killed_and_it_is_stored_once() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "memory", "a");
    let [killed, other] = [(); 2].map(|()| start_bridge(&setup, &[]));
    let mut generator = Generator::new(17);
    let mut events: Vec<Sent> = (0..150).flat_map(|_| generator.lifecycle()).collect();
    let later = events.split_off(events.len() / 2);
    let mut publisher = Publisher::new(&redis);

    publisher.publish(&events);
    killed.kill();
    publisher.publish(&later);

    let (status, log) = other.terminate(SOON);
    assert!(status.success(), "{log}");
    let drained = log.find("bridge.drained").expect("it says what it did");
    let count = events.len() + later.len();
    assert_eq!(
        (&drained["received"], &drained["added"], &drained["dropped"]),
        (&json!(count), &json!(count), &json!(0))
    );
    let worker = setup.start();
    let mut stream = Stream::new(&redis, STREAM);
    wait_until_settled(&mut stream);
    events.extend(later);
    assert_all_stored(&worker, &events);
}

#[test]
fn an_event_that_a_bridge_copied_is_the_one_that_was_published_and_has_its_time_of_arrival() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "memory", "a").set("source.pubsub.enabled", true);
    let _bridge = start_bridge(&setup, &["--channel", "evaluation:failed", "--stream", STREAM]);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);

    Publisher::new(&redis).publish(&[Sent::new("evaluation:failed", &json!({"eval_id": "e-1", "error": "boom"}))]);

    let ids: Vec<(String, String)> = confirmations.wait_for(2, SOON).iter().map(|c| c.about()).collect();
    assert_eq!(ids[0], ids[1], "over pub/sub and through the bridge");
    assert_eq!(worker.history("e-1").len(), 1);
    let entries: Vec<(String, Vec<String>)> =
        redis::from_redis_value(Stream::new(&redis, STREAM).command("XRANGE", &["-", "+"])).expect("entries");
    let (entry_id, fields) = &entries[0];
    assert_eq!((&*fields[4], &fields[5]), ("event_id", &ids[0].1));
    let milliseconds: i64 = entry_id.split('-').next().and_then(|text| text.parse().ok()).expect("an entry id");
    assert!(fields[6] == "time" && fields[7] <= time_text(milliseconds * 1000 + 999), "{fields:?} {entry_id}");
    let created = worker.record("e-1").expect("stored")["created_at"].clone();
    assert!(created.as_str().is_some_and(|created| *created <= *fields[7]), "{created} {fields:?}");
}

#[test]
fn what_redis_does_not_take_waits_within_its_bound_and_is_added_later() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "memory", "a");
    let bridge = start_bridge(&setup, &["--buffer", "2KiB"]);
    let maxmemory = |bytes: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).exec(&mut redis.connect()).expect("set it");
    };
    let failed = |id: &str| Sent::new("evaluation:failed", &json!({"eval_id": id, "error": "x".repeat(500)}));

    maxmemory("1");
    Publisher::new(&redis).publish(&["a", "b", "c", "d", "e"].map(failed));

    let refused =
        eventually_some(SOON, "the refusal", || bridge.log().find("cannot add to the stream, will try again"));
    let reason = refused["error"].as_str().expect("a text");
    assert!(reason.contains("OOM") && reason.contains("raise it"), "{reason}");
    eventually_some(SOON, "the loss to be told", || {
        bridge.log().find("the buffer is full, events are dropped; see why the stream takes none, or raise `--buffer`")
    });
    maxmemory("0");
    let mut stream = Stream::new(&redis, STREAM);
    eventually(SOON, "what waited to be added", || stream.len() == 2);
    let (status, log) = bridge.terminate(SOON);
    assert_eq!(status.code(), Some(1), "something received was not added: {log}");
    let drained = log.find("bridge.drained").expect("it says what it did");
    assert_eq!((&drained["received"], &drained["added"], &drained["dropped"]), (&json!(5), &json!(2), &json!(3)));
}

fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn publish_adds_events_to_a_stream_and_the_worker_stores_them() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "memory", "a");
    let publish = |arguments: &[&str]| {
        let command = [&["publish", "--stream", STREAM], arguments].concat();
        setup.command(&command).output().expect("run publish")
    };

    let one = publish(&["evaluation:failed", r#"{"eval_id": "by-hand", "error": "boom"}"#]);
    let many = publish(&["--generate", "--count", "5", "--seed", "1", "--output", "json"]);

    assert_eq!(answer(&one), "added 1 event to the stream `evaluation:events`\n");
    let many: Value = serde_json::from_str(&answer(&many)).expect("JSON");
    assert_eq!(many, json!({"events": 20, "stream": STREAM}));
    let worker = setup.start();
    wait_until_settled(&mut Stream::new(&redis, STREAM));
    assert_eq!(worker.record("by-hand").expect("stored")["error"], "boom");
    assert_eq!(worker.http().get("/evaluations").json()["evaluations"].as_array().map(Vec::len), Some(6));
    Stream::new(&redis, "text").command("DEL", &[]);
    redis::cmd("SET").arg(&["text", "no stream"]).exec(&mut redis.connect()).expect("set a key");
    let refused = setup.command(&["publish", "--stream", "text", "c", "{}"]).output().expect("run publish");
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && errors.contains("WRONGTYPE"), "{errors}");
}
