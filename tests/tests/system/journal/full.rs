//! A journal that holds as much as it may: the worker says so, reads nothing, and goes on by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::small_disk::SmallDisk;
use storage_worker_tests::wait::{eventually, eventually_some};
use storage_worker_tests::worker::{Setup, Worker};

use super::{entries, give_storage_back, journal, setup, take_storage_away, wait_until_subscribed};
use crate::SOON;
use crate::shutdown::assert_stored;

/// Events of this many bytes.
fn events(numbers: std::ops::Range<u32>, bytes: usize) -> Vec<Sent> {
    let event = |number| {
        let id = format!("e-{number}");
        Sent::new("evaluation:queued", &json!({"eval_id": id, "event_id": id, "code": "x".repeat(bytes)}))
    };
    numbers.map(event).collect()
}

/// A small journal, and storage that is away.
fn start(redis: &RedisServer) -> (Setup, Worker) {
    let setup = setup(redis).set("journal.max_bytes", "1MiB");
    take_storage_away(&setup);
    let worker = setup.start_unready();
    wait_until_subscribed(redis, &worker);
    (setup, worker)
}

#[track_caller]
fn wait_until_full(worker: &Worker) -> String {
    eventually_some(SOON, "the journal to be full", || journal(worker, "problem").as_str().map(str::to_owned))
}

#[test]
fn a_full_journal_makes_the_worker_unready_and_it_recovers_without_a_restart() {
    let redis = RedisServer::start();
    let (setup, worker) = start(&redis);
    let confirmations = Confirmations::listen(&redis);
    assert_eq!(journal(&worker, "problem"), json!(null));

    Publisher::new(&redis).publish(&events(0..300, 10_000));
    let problem = wait_until_full(&worker);

    assert!(
        problem.contains("it holds 1MiB that is not stored yet") && problem.contains("journal.max_bytes"),
        "{problem}"
    );
    let ready = worker.http().get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("it holds 1MiB"), "{}", ready.body);
    assert_eq!(worker.http().get("/livez").status, 200);
    assert!(journal(&worker, "bytes").as_u64() <= Some(1 << 20) && entries(&worker) < 120, "its bound holds");
    eventually(SOON, "the metrics to say so", || worker.http().metric("storage_worker_journal_blocked", &[]) == 1.0);
    give_storage_back(&setup);
    let confirmed = confirmations.wait_for(300, SOON);
    eventually(SOON, "the worker to be ready", || worker.is_ready() && entries(&worker) == 0);
    assert_stored(&worker, &confirmed.iter().map(|confirmation| confirmation.about()).collect());
    let _ = worker.told("the journal takes events again");
    eventually(SOON, "the metrics to say so", || worker.http().metric("storage_worker_journal_blocked", &[]) == 0.0);
    assert!(setup.dead_letters().is_empty());
}

/// What had arrived and found no room used to be lost without a word.
#[test]
fn a_full_journal_keeps_what_arrived_before_the_end() {
    let redis = RedisServer::start();
    let setup = setup(&redis).set("journal.max_bytes", "1MiB").set("worker.drain_timeout", "5s");
    take_storage_away(&setup);
    let worker = setup.start_unready();
    wait_until_subscribed(&redis, &worker);
    Publisher::new(&redis).publish(&events(0..300, 10_000));
    wait_until_full(&worker);

    let (_, log) = worker.terminate(SOON);

    let kept = log.find("the journal keeps what is not stored, the next start delivers it").expect("it says so");
    assert_eq!(kept["entries"], 300, "{log}");
    let confirmations = Confirmations::listen(&redis);
    give_storage_back(&setup);
    let worker = setup.start_unready();
    let confirmed = confirmations.wait_for(300, SOON);
    assert_stored(&worker, &confirmed.iter().map(|confirmation| confirmation.about()).collect());
}

/// Redis keeps what a subscriber does not read up to a limit, and then hangs up.
#[test]
fn a_subscription_that_redis_ends_meanwhile_is_explained_and_the_gap_is_counted() {
    let redis = RedisServer::start();
    let limit: &[&str] = &["SET", "client-output-buffer-limit", "pubsub 1mb 1mb 1"];
    redis::cmd("CONFIG").arg(limit).exec(&mut redis.connect()).expect("set the limit");
    let (setup, worker) = start(&redis);
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    publisher.publish(&events(0..110, 10_000));
    wait_until_full(&worker);
    // The time that tells a slow reader from a fast one.
    std::thread::sleep(Duration::from_millis(1100));

    let mut number = 1000;
    eventually(SOON, "redis to hang up", || {
        number += 1;
        // What the system buffers for a socket is more than the limit.
        let sent = publisher.try_publish(&events(number..number + 1, 1 << 20)[0]);
        sent.expect("redis answers") == 0
    });
    give_storage_back(&setup);

    let overrun = eventually_some(SOON, "the explanation", || {
        worker.log().entries().into_iter().find(|entry| {
            entry["event"].as_str().is_some_and(|event| event.contains("client-output-buffer-limit pubsub"))
        })
    });
    assert_eq!((&overrun["level"], &overrun["limit"]), (&json!("error"), &json!("1048576 1048576 1")), "{overrun}");
    wait_until_subscribed(&redis, &worker);
    eventually(SOON, "the gap to be counted", || {
        worker.http().metric("storage_worker_redis_overruns_total", &[]) == 1.0
            && worker.http().metric("storage_worker_redis_disconnected_seconds_total", &[]) > 1.0
    });
    eventually(SOON, "the worker to be ready", || worker.is_ready() && entries(&worker) == 0);
    publisher.publish(&events(0..1, 10));
    let before = confirmations.count();
    eventually(SOON, "what comes now to be confirmed", || confirmations.count() > before.min(110));
    let kept: Vec<_> = (0..90).map(|number| (format!("e-{number}"), format!("e-{number}"))).collect();
    assert_stored(&worker, &kept.into_iter().collect());
}

#[test]
fn a_full_disk_is_waited_out_and_what_is_settled_makes_room() {
    let redis = RedisServer::start();
    let setup = setup(&redis);
    let Some(disk) = SmallDisk::mount(1) else { return };
    let setup = setup.set("journal.path", disk.path().join("journal").display().to_string());
    take_storage_away(&setup);
    let worker = setup.start_unready();
    wait_until_subscribed(&redis, &worker);
    let confirmations = Confirmations::listen(&redis);

    Publisher::new(&redis).publish(&events(0..300, 10_000));
    let problem = wait_until_full(&worker);

    assert!(problem.contains("cannot write") && problem.contains("make room"), "{problem}");
    assert_eq!(worker.http().get("/readyz").status, 503);
    let kept = entries(&worker);
    worker.kill();
    let worker = setup.start_unready();
    give_storage_back(&setup);
    // What Redis had not handed over when the worker was killed, it has forgotten.
    confirmations.wait_for(usize::try_from(kept).expect("few"), SOON);
    eventually(SOON, "the worker to be ready", || worker.is_ready() && entries(&worker) == 0);
    take_storage_away(&setup);
    wait_until_subscribed(&redis, &worker);
    Publisher::new(&redis).publish(&events(300..600, 10_000));
    wait_until_full(&worker);
    give_storage_back(&setup);
    let last: BTreeSet<_> = (300..600).map(|number| (format!("e-{number}"), format!("e-{number}"))).collect();
    eventually(SOON, "all of it to be confirmed", || last.is_subset(&confirmations.events()));
    assert_stored(&worker, &confirmations.events());
    assert!(setup.dead_letters().is_empty());
    drop((worker.kill(), disk));
}
