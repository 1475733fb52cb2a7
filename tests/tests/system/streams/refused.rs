//! A stream whose commands Redis refuses: it is named, and the others go on.

use serde_json::json;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::{eventually, eventually_some};
use storage_worker_tests::worker::{Setup, Worker};

use super::{GROUP, STREAM, setup, wait_until_settled};
use crate::SOON;

const OTHER: &str = "other";
/// What a worker's user needs on its streams.
const NEEDED: &str = "+xinfo +xreadgroup +xack +xclaim +xpending +xrange +xgroup|create";

fn failed(id: &str) -> Sent {
    Sent::new("evaluation:failed", &json!({"eval_id": id, "error": "x"}))
}

/// Lets the user `worker` do all that is needed on the first stream, and so much on the other.
fn allow(redis: &RedisServer, on_other: &str) {
    let mut command = redis::cmd("ACL");
    command.arg(&["SETUSER", "worker", "reset", "on", ">secret", "&*", "+@connection", "+publish"]);
    command.arg(format!("~{STREAM}")).arg(NEEDED.split(' ').collect::<Vec<_>>());
    command.arg(format!("(~{OTHER} {on_other})")).exec(&mut redis.connect()).expect("set a user");
}

/// The configuration of a worker of that user that reads both streams.
fn of_user(redis: &RedisServer) -> Setup {
    let url = redis.url().replace("redis://", "redis://worker:secret@");
    setup(redis, "memory", "a").set("redis.url", url).set("source.streams.streams", vec![OTHER, STREAM])
}

fn says(worker: &Worker, text: &str) {
    eventually(SOON, text, || worker.http().get("/health").json().to_string().contains(text));
}

#[test]
fn a_stream_that_may_not_be_read_does_not_stop_the_others() {
    let redis = RedisServer::start();
    let mut other = Stream::new(&redis, OTHER);
    other.command("XGROUP CREATE", &[GROUP, "0", "MKSTREAM"]);
    other.add(&[failed("other")]);
    // What looks at the group is allowed: so it shows only when it is read.
    allow(&redis, "+xinfo +xpending");
    let worker = of_user(&redis).start_unready();
    let mut stream = Stream::new(&redis, STREAM);

    for number in 0..3 {
        let id = format!("e-{number}");
        stream.add(&[failed(&id)]);
        eventually(SOON, "the entry to be stored", || worker.record(&id).is_some());
    }

    says(&worker, "stream `other`");
    wait_until_settled(&mut stream);
    assert!(stream.consumers(GROUP).contains(&"a".to_owned()));
    assert_eq!(worker.http().get("/health").status, 503);
    allow(&redis, NEEDED);
    eventually(SOON, "the other entry to be stored", || worker.record("other").is_some());
    wait_until_settled(&mut other);
    eventually(SOON, "the worker to be well", || worker.http().get("/health").status == 200);
}

#[test]
fn a_stream_whose_entries_may_not_be_acknowledged_does_not_stop_the_others() {
    let redis = RedisServer::start();
    let needed_but_one: Vec<&str> = NEEDED.split(' ').filter(|right| *right != "+xack").collect();
    allow(&redis, &needed_but_one.join(" "));
    let worker = of_user(&redis).start();
    let (mut stream, mut other) = (Stream::new(&redis, STREAM), Stream::new(&redis, OTHER));
    other.add(&[failed("o-1"), failed("o-2")]);
    eventually(SOON, "the other entries to be stored", || worker.record("o-2").is_some());

    for number in 0..3 {
        stream.add(&[failed(&format!("e-{number}"))]);
        wait_until_settled(&mut stream);
        other.add(&[failed(&format!("more-{number}"))]);
        eventually(SOON, "the other entry to be stored", || worker.record(&format!("more-{number}")).is_some());
    }

    let told = eventually_some(SOON, "it to be told", || {
        worker.log().find("redis does not take the acknowledgements of a stream")
    });
    assert_eq!(told["stream"], OTHER);
    assert!(told["error"].as_str().is_some_and(|error| error.contains("no permissions")), "{told}");
    assert_eq!(other.pending(GROUP), 5);
    allow(&redis, NEEDED);
    wait_until_settled(&mut other);
}

#[test]
fn a_consumer_that_is_only_called_like_a_run_keeps_what_it_holds() {
    let redis = RedisServer::start();
    let mut stream = Stream::new(&redis, STREAM);
    stream.command("XGROUP CREATE", &[GROUP, "0", "MKSTREAM"]);
    stream.add(&[failed("held")]);
    let called_so = "somebody run 0123abcd";
    stream.read_as(GROUP, called_so, 1);
    stream.command("XGROUP CREATECONSUMER", &[GROUP, "nobody run 0123abcd"]);

    let worker = setup(&redis, "memory", "a")
        .set("source.streams.claim_after", "1h")
        .set("source.streams.remove_after", "1h")
        .start();

    eventually(SOON * 2, "the one that holds nothing to be removed", || {
        !stream.consumers(GROUP).iter().any(|name| name.starts_with("nobody"))
    });
    assert!(stream.consumers(GROUP).contains(&called_so.to_owned()));
    assert_eq!(stream.pending(GROUP), 1);
    assert!(worker.is_ready());
}
