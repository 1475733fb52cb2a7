//! The dead letters in a stream of Redis instead of a file: the same commands, and Redis away, full, or of another mind.

use redis::cmd;
use serde_json::{Value, json};
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::{eventually, eventually_some};
use storage_worker_tests::worker::{Setup, Worker};

use super::{letters, matched, repair_five_hundred, start};
use crate::SOON;

const LETTERS: &str = "storage-worker:dead-letters";
const EVENTS: &str = "evaluation:events";

fn setup(redis: &RedisServer, plugin: &str) -> Setup {
    Setup::new(&redis.url(), plugin)
        .set("dead_letters.stream", LETTERS)
        .set("source.streams.streams", vec![EVENTS])
        .set("source.streams.block", "100ms")
        .set("redis.reconnect_max", "500ms")
        .set("worker.name", "a")
}

fn bad(id: &str) -> Sent {
    Sent::new("evaluation:queued", &json!({"eval_id": id, "source": "x"}))
}

/// The lines of a stream, oldest first.
fn lines(redis: &RedisServer, key: &str) -> Vec<String> {
    let answer: Vec<(String, Vec<String>)> =
        redis::from_redis_value(Stream::new(redis, key).command("XRANGE", &["-", "+"])).expect("entries");
    answer.into_iter().map(|(_, fields)| fields.into_iter().nth(1).expect("a value")).collect()
}

#[test]
fn letters_in_a_stream_are_repaired_as_those_of_a_file() {
    let redis = RedisServer::start();
    let (setup, worker) = start(setup(&redis, "file"));

    let audit = |_: &Setup| lines(&redis, &format!("{LETTERS}:audit")).join("\n");
    repair_five_hundred(&redis, &setup, &worker, &audit);

    assert!(setup.dead_letters().is_empty(), "there is no file");
    assert_eq!(Stream::new(&redis, LETTERS).len(), 1, "what is stored is gone, with all that was said of it");
}

#[test]
fn letters_in_a_stream_are_worked_on_without_a_worker_and_shared_by_two() {
    let redis = RedisServer::start();
    let (one, worker) = start(setup(&redis, "file"));
    Publisher::new(&redis).publish(&[bad("a"), bad("b"), bad("c")]);
    eventually(SOON, "the letters", || matched(&one, &[]) == 3);
    worker.terminate(SOON);
    let other = setup(&redis, "file").set("worker.name", "b");

    letters(&other, 0, &["edit", ".code = \"x\"", "--eval-id", "a"]);
    letters(&one, 0, &["drop", "--eval-id", "b"]);
    let (other, worker) = start(other);
    let tried = letters(&other, 1, &["retry", "--all"]);

    let outcome =
        |which: &str| tried["letters"].as_array().expect("a list").iter().filter(|one| one["outcome"] == which).count();
    assert_eq!((outcome("stored"), outcome("parked")), (1, 1), "{tried}");
    assert_eq!(worker.record("a").expect("stored")["code"], "x");
    assert_eq!((matched(&one, &[]), matched(&one, &["--state", "parked"])), (json!(1), json!(1)));
}

/// A letter is durable before its delivery is acknowledged, and is held as long as that takes.
#[track_caller]
fn assert_held_until(redis: &RedisServer, worker: &Worker, says: &str, mend: impl FnOnce()) {
    let mut events = Stream::new(redis, EVENTS);
    let error =
        eventually_some(SOON, "it to be told", || worker.log().find("cannot write dead letters, they are held"));
    let text = error["error"].as_str().expect("a text");
    assert!(text.contains(says) && text.contains(LETTERS), "{text}");
    assert_eq!((&error["level"], events.pending("storage-worker")), (&json!("error"), 1));
    mend();
    eventually(SOON, "the letter to be written", || lines(redis, LETTERS).len() == 1);
    eventually(SOON, "the entry to be acknowledged", || events.pending("storage-worker") == 0);
    let _ = worker.told("dead letters are written again");
}

#[test]
fn a_key_of_another_type_holds_the_letters() {
    let redis = RedisServer::start();
    let command = |words: &[&str]| cmd(words[0]).arg(&words[1..]).exec(&mut redis.connect()).expect("ask Redis");
    command(&["SET", LETTERS, "a text"]);
    let worker = setup(&redis, "memory").start();
    let warned = worker.told("dead letters could not be written, if there were any");
    assert!(warned["error"].as_str().is_some_and(|error| error.contains("`dead_letters.stream`")), "{warned}");

    Stream::new(&redis, EVENTS).add(&[bad("a")]);

    assert_held_until(&redis, &worker, "something else than a stream", || command(&["DEL", LETTERS]));
}

/// It used to cost all others.
#[test]
fn a_letter_that_is_larger_than_the_bound_costs_no_other() {
    let redis = RedisServer::start();
    let worker = setup(&redis, "memory").set("dead_letters.max_bytes", "8KiB").start();
    let mut events = Stream::new(&redis, EVENTS);
    let large = Sent::new("evaluation:queued", &json!({"eval_id": "large", "source": "x".repeat(20_000)}));

    for (count, event) in [bad("a"), bad("b"), large, bad("c")].into_iter().enumerate() {
        events.add(&[event]);
        eventually(SOON, "it to be a letter", || {
            let letters = worker.http().metric("storage_worker_dead_letters_total", &[]);
            letters == f64::from(u32::try_from(count + 1).expect("few"))
        });
    }

    let kept = lines(&redis, LETTERS);
    assert!(
        kept.len() == 3 && ["\"a\"", "\"b\"", "\"c\""].iter().zip(&kept).all(|(id, line)| line.contains(id)),
        "{kept:?}"
    );
    assert_eq!(worker.http().metric("storage_worker_dead_letters_dropped_total", &[]), 1.0);
    let told = "a dead letter is larger than `dead_letters.max_bytes`, it is dropped to make room";
    let _ = worker.told(told);
}

#[test]
fn a_full_redis_holds_the_letters() {
    let redis = RedisServer::start();
    let maxmemory = |bytes: &str| {
        cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).exec(&mut redis.connect()).expect("set it");
    };
    let worker = setup(&redis, "memory").start();
    let mut events = Stream::new(&redis, EVENTS);
    events.add(&[Sent::new("evaluation:failed", &json!({"eval_id": "good", "error": "x"}))]);
    eventually(SOON, "the worker to be at work", || {
        worker.record("good").is_some() && events.pending("storage-worker") == 0
    });

    // In one step, since a full Redis takes no entry of ours either.
    let mut transaction = redis::pipe();
    let entry = bad("a");
    transaction
        .atomic()
        .cmd("XADD")
        .arg(EVENTS)
        .arg("*")
        .arg("channel")
        .arg(entry.channel)
        .arg("data")
        .arg(entry.payload);
    transaction.cmd("CONFIG").arg(&["SET", "maxmemory", "1"]);
    transaction.exec(&mut redis.connect()).expect("add an entry and set the limit");

    assert_held_until(&redis, &worker, "OOM", || maxmemory("0"));
}

/// A Redis of its own for the letters is not supported, so with Redis away nothing arrives but from the journal and files.
#[test]
fn a_redis_that_is_away_is_waited_for() {
    let mut redis = RedisServer::start();
    let (setup, worker) = start(setup(&redis, "memory"));
    eventually(SOON, "the worker to be ready", || worker.is_ready());
    redis.kill();

    let file = setup.path("lines.jsonl");
    let line =
        json!({"channel": "evaluation:queued", "payload": {"eval_id": "a", "timestamp": "2025-01-01T00:00:00Z"}});
    std::fs::write(&file, format!("{line}\n")).expect("write it");
    let mut replaying = setup.start_command(&["replay", file.to_str().expect("Unicode"), "--output", "json"]);
    let held = "cannot write dead letters, they are held";
    eventually(SOON, "it to be told", || worker.log().find(held).is_some());
    let asked = setup.command(&["dead-letters", "list"]).output().expect("run it");
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.code() == Some(1) && said.contains("cannot connect to redis"), "{said}");
    redis.restart();

    eventually(SOON, "the letter to be written", || lines(&redis, LETTERS).len() == 1);
    let (status, log) = replaying.wait(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.lines().concat().contains("\"dead_letters\":1"), "{log}");
}

#[test]
fn a_full_stream_drops_the_oldest_letters_and_counts_them() {
    let redis = RedisServer::start();
    let (setup, worker) = start(setup(&redis, "memory").set("dead_letters.max_bytes", "64KiB"));
    let large = |number: u32| bad(&format!("{number}-{}", "x".repeat(40)));
    for number in 0..1500 {
        Publisher::new(&redis).publish(&[large(number), large(number / 100)]);
    }
    let counted = || worker.http().metric("storage_worker_dead_letters_total", &["reason=\"missing_field\""]);

    eventually(SOON, "all to be written", || counted() == 3000.0);

    let held: u64 = lines(&redis, LETTERS).iter().map(|line| line.len() as u64).sum();
    // What is written at once may be more than the bound.
    assert!(held <= (64 << 10) + 256 * 500, "{held} bytes");
    let left = matched(&setup, &[]).as_u64().expect("a number");
    let dropped = worker.http().metric("storage_worker_dead_letters_dropped_total", &[]);
    assert!(dropped > 0.0 && left > 20, "{dropped} dropped, {left} left");
    let listed = letters(&setup, 0, &["list", "--limit", "1000"]);
    let newest: Vec<&Value> = listed["letters"].as_array().expect("a list").iter().map(|one| &one["eval_id"]).collect();
    assert!(newest.contains(&&json!(format!("1499-{}", "x".repeat(40)))), "the newest is there");
}

#[test]
fn a_stream_that_events_are_read_from_is_refused() {
    let setup = Setup::new("redis://127.0.0.1:1", "memory")
        .set("dead_letters.stream", EVENTS)
        .set("source.streams.streams", vec![EVENTS]);

    let checked = setup.command(&["check"]).output().expect("run check");

    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.code() == Some(2) && said.contains("letters would become letters"), "{said}");
}
