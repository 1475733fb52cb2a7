//! What workers of a group do for and to each other: names, entries delivered often, removal, trimming.

use serde_json::json;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;

use super::{GROUP, STREAM, assert_all_stored, setup, wait_until_settled};
use crate::SOON;

fn queued(count: usize) -> Vec<Sent> {
    let event = |number: usize| {
        let id = format!("e-{number}");
        Sent::new("evaluation:queued", &json!({"eval_id": id, "code": "x", "timestamp": "2025-01-01T00:00:00Z"}))
    };
    (0..count).map(event).collect()
}

#[test]
fn two_workers_of_one_name_are_named_in_the_log() {
    let redis = RedisServer::start();
    let setups = ["twin", "twin", "single"].map(|name| setup(&redis, "memory", name));

    let [one, other, single] = setups.each_ref().map(|setup| setup.start());

    let tells = "another worker of this name reads the streams; give each a `worker.name` of its own";
    for twin in [&one, &other] {
        eventually(SOON, "the log to tell", || twin.log().find(tells).is_some_and(|entry| entry["consumer"] == "twin"));
    }
    assert!(single.log().find(tells).is_none());
}

#[test]
fn an_entry_that_was_delivered_often_is_stored_alone_and_is_no_dead_letter() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "memory", "a");
    let mut stream = Stream::new(&redis, STREAM);
    let events = queued(20);
    stream.command("XGROUP CREATE", &[GROUP, "0", "MKSTREAM"]);
    stream.add(&events[..10]);
    stream.command("XADD", &["*", "channel", "evaluation:queued", "data", "poison"]);
    stream.add(&events[10..]);
    stream.read_as(GROUP, "a", 21);
    let ids: Vec<(String, redis::Value)> =
        redis::from_redis_value(stream.command("XRANGE", &["-", "+"])).expect("entries");
    for (id, _) in &ids {
        stream.command("XCLAIM", &[GROUP, "a", "0", id, "RETRYCOUNT", "500"]);
    }

    let worker = setup.start();

    wait_until_settled(&mut stream);
    assert_all_stored(&worker, &events);
    assert_eq!(setup.dead_letters().len(), 1);
    let told = worker.told("entries were delivered often and not settled, each is merged alone");
    assert!(told["deliveries"].as_u64() > Some(500), "{told}");
}

#[test]
fn consumers_that_are_gone_and_empty_are_removed_and_others_are_not() {
    let redis = RedisServer::start();
    let mut stream = Stream::new(&redis, STREAM);
    stream.command("XGROUP CREATE", &[GROUP, "0", "MKSTREAM"]);
    stream.command("XGROUP CREATECONSUMER", &[GROUP, "gone"]);

    let _worker = setup(&redis, "memory", "a").set("source.streams.remove_after", "2s").start();

    eventually(SOON, "the consumer that is gone to be removed", || {
        let consumers = stream.consumers(GROUP);
        consumers.len() == 2 && consumers.contains(&"a".to_owned())
    });
}

#[test]
fn a_stream_is_trimmed_to_what_every_group_has_acknowledged() {
    let redis = RedisServer::start();
    let mut stream = Stream::new(&redis, STREAM);
    let events = queued(2000);
    stream.command("XGROUP CREATE", &["slower", "0", "MKSTREAM"]);
    stream.add(&events);
    stream.read_as("slower", "elsewhere", 500);

    let worker = setup(&redis, "memory", "a").set("source.streams.trim", true).start();
    wait_until_settled(&mut stream);
    // Nodes of at most a hundred entries are removed whole, and none but what lies before the slower group's oldest.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert_eq!(stream.len(), 2000);
    let pending: Vec<(String, String, u64, u64)> =
        redis::from_redis_value(stream.command("XPENDING", &["slower", "-", "+", "500"])).expect("pending entries");
    let ids: Vec<&str> = pending.iter().map(|(id, ..)| id.as_str()).collect();
    stream.command("XACK", &[&["slower"], &ids[..450]].concat());

    eventually(SOON, "what both groups have acknowledged to be removed", || stream.len() < 1700);

    assert!(stream.len() >= 1550, "{} are left", stream.len());
    assert_all_stored(&worker, &events);
}
