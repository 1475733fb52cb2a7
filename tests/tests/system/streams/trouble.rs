//! Streams and groups that are not as they should be: the worker stays, says what is wrong, and goes on when it is right.

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Worker;

use super::{GROUP, STREAM, setup, wait_until_settled};
use crate::SOON;

fn failed(id: &str) -> Sent {
    Sent::new("evaluation:failed", &json!({"eval_id": id, "error": "x"}))
}

fn wait_for_health(worker: &Worker, status: u16) {
    eventually(SOON, "health to change", || worker.http().get("/health").status == status);
}

#[test]
fn a_group_that_is_deleted_is_created_anew_where_it_was() {
    let redis = RedisServer::start();
    let worker = setup(&redis, "memory", "a").set("source.streams.start", "$").start();
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);
    eventually(SOON, "the group", || !stream.group_value(GROUP, "name").is_empty());
    stream.add(&[failed("before")]);
    confirmations.wait_for(1, SOON);
    wait_until_settled(&mut stream);

    // In one step, so that the worker cannot be back before the entry is there.
    let mut transaction = redis::pipe();
    transaction.atomic().cmd("XGROUP").arg(&["DESTROY", STREAM, GROUP]).ignore();
    transaction.cmd("XADD").arg(&[STREAM, "*", "channel", "evaluation:failed", "eval_id", "meanwhile", "error", "x"]);
    transaction.exec(&mut redis.connect()).expect("delete the group");

    eventually(SOON, "what came meanwhile to be stored", || worker.record("meanwhile").is_some());
    stream.command("DEL", &[]);
    eventually(SOON, "the group on a stream that is new", || {
        redis::cmd("EXISTS").arg(STREAM).query::<u64>(&mut redis.connect()).expect("ask") == 1
    });
    stream.command("XADD", &["1-1", "channel", "evaluation:failed", "eval_id", "after", "error", "x"]);
    eventually(SOON, "what came afterwards to be stored", || worker.record("after").is_some());
    wait_until_settled(&mut stream);
    wait_for_health(&worker, 200);
}

#[test]
fn a_key_of_another_type_is_named_and_the_other_streams_are_read() {
    let redis = RedisServer::start();
    let mut wrong = Stream::new(&redis, "wrong");
    wrong.command("RPUSH", &["a list"]);
    let worker = setup(&redis, "memory", "a").set("source.streams.streams", vec![STREAM, "wrong"]).start_unready();

    Stream::new(&redis, STREAM).add(&[failed("right")]);

    eventually(SOON, "the other stream to be read", || worker.record("right").is_some());
    wait_for_health(&worker, 503);
    let health = worker.http().get("/health").json().to_string();
    assert!(health.contains("stream `wrong`") && health.contains("something else than a stream"), "{health}");
    wrong.command("DEL", &[]);
    wrong.add(&[failed("wrong")]);
    eventually(SOON, "the stream to be read", || worker.record("wrong").is_some());
    wait_for_health(&worker, 200);
}

#[test]
fn pending_entries_that_were_trimmed_are_acknowledged_counted_and_named() {
    let redis = RedisServer::start();
    let mut stream = Stream::new(&redis, STREAM);
    stream.command("XGROUP CREATE", &[GROUP, "0", "MKSTREAM"]);
    let events: Vec<Sent> = (0..20).map(|number| failed(&format!("e-{number}"))).collect();
    stream.add(&events);
    stream.read_as(GROUP, "a", 10);
    stream.read_as(GROUP, "dead", 5);
    stream.command("XTRIM", &["MAXLEN", "=", "3"]);

    let worker = setup(&redis, "memory", "a").start();

    wait_until_settled(&mut stream);
    eventually(SOON, "the metrics to count them", || {
        let metrics = worker.http().get("/metrics").body;
        metrics.contains("storage_worker_stream_entries_missing_total{stream=\"evaluation:events\"} 15\n")
    });
    assert!(worker.record("e-19").is_some() && worker.record("e-2").is_none());
}

#[test]
fn what_redis_does_not_allow_is_named_until_it_does() {
    let redis = RedisServer::start();
    let mut connection = redis.connect();
    let mut acl = |words: &[&str]| redis::cmd("ACL").arg(words).exec(&mut connection).expect("set a user");
    acl(&["SETUSER", "worker", "on", ">secret", "~evaluation:*", "&*", "+@connection", "+publish"]);
    let url = redis.url().replace("redis://", "redis://worker:wrong@");
    let worker = setup(&redis, "memory", "a").set("redis.url", url).start_unready();
    let mut stream = Stream::new(&redis, STREAM);
    stream.add(&[failed("e-1")]);
    let says = |text: &str| {
        eventually(SOON, text, || worker.http().get("/health").json().to_string().contains(text));
    };

    says("authentication failed");
    acl(&["SETUSER", "worker", ">wrong"]);
    says("docs/streams.md");
    acl(&["SETUSER", "worker", "+xinfo", "+xreadgroup", "+xack", "+xclaim", "+xpending", "+xrange", "+xgroup|create"]);

    eventually(SOON, "the entry to be stored", || worker.record("e-1").is_some());
    wait_until_settled(&mut stream);
    wait_for_health(&worker, 200);
    assert!(!worker.log().lines().concat().contains("wrong@"), "the password is in the log");
}

#[test]
fn redis_at_its_memory_limit_is_read_and_told_and_takes_no_new_group() {
    let redis = RedisServer::start();
    let mut stream = Stream::new(&redis, STREAM);
    stream.command("XGROUP CREATE", &[GROUP, "0", "MKSTREAM"]);
    let events: Vec<Sent> = (0..500).map(|number| failed(&format!("e-{number}"))).collect();
    stream.add(&events);
    Stream::new(&redis, "later").add(&[failed("later")]);
    let maxmemory = |bytes: &str| {
        redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).exec(&mut redis.connect()).expect("set it");
    };
    let confirmations = Confirmations::listen(&redis);
    maxmemory("1");

    let worker = setup(&redis, "memory", "a").set("source.streams.streams", vec![STREAM, "later"]).start_unready();

    confirmations.wait_for(events.len(), SOON);
    wait_until_settled(&mut stream);
    let health = || worker.http().get("/health").json().to_string();
    eventually(SOON, "the reason", || health().contains("stream `later`") && health().contains("at its `maxmemory`"));
    maxmemory("0");
    eventually(SOON, "the other stream to be read", || worker.record("later").is_some());
    wait_for_health(&worker, 200);
}

#[test]
fn a_replica_is_named_and_read_once_it_is_the_primary() {
    let primary = RedisServer::start();
    let mut stream = Stream::new(&primary, STREAM);
    stream.command("XGROUP CREATE", &[GROUP, "0", "MKSTREAM"]);
    stream.add(&[failed("e-1")]);
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port())]);
    let exists = || redis::cmd("EXISTS").arg(STREAM).query::<u64>(&mut replica.connect()).expect("ask") == 1;
    eventually(SOON, "the replica to have the stream", exists);

    let worker = setup(&replica, "memory", "a").start_unready();

    eventually(SOON, "the reason", || {
        worker.http().get("/health").json().to_string().contains("this is a read-only replica")
    });
    assert_eq!(worker.http().get("/health").status, 503);
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec(&mut replica.connect()).expect("make it the primary");
    eventually(SOON, "the entry to be stored", || worker.record("e-1").is_some());
    wait_until_settled(&mut Stream::new(&replica, STREAM));
    wait_for_health(&worker, 200);
}

#[test]
fn entries_that_are_trimmed_before_they_are_read_hold_nothing_up() {
    let redis = RedisServer::start();
    let worker = setup(&redis, "memory", "a").set("worker.queue_events", 50).start();
    let mut stream = Stream::new(&redis, STREAM);
    let events: Vec<Sent> = (0..2000).map(|number| failed(&format!("e-{number}"))).collect();

    for events in events.chunks(250) {
        stream.add(events);
        stream.command("XTRIM", &["MAXLEN", "=", "10"]);
    }

    wait_until_settled(&mut stream);
    assert!(worker.record("e-1999").is_some());
    wait_for_health(&worker, 200);
}
