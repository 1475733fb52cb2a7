//! `tiered`: large bodies in a store of blobs that goes away and comes back, and is rid of what nobody needs.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

/// Files for the states, and other files for the blobs, which a test can take away.
fn tiered(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "tiered");
    let text = |name: &str| setup.path(name).to_str().expect("Unicode").to_owned();
    let (data, bucket, away) = (text("data"), text("bucket"), text("away"));
    setup
        .set("storage.guarantee", "durable")
        .set("storage.breaker.open_for", "20ms")
        .set("storage.breaker.max_open_for", "100ms")
        .set("worker.retry_max", "100ms")
        .set("backends.main.children.primary", "files")
        .set("backends.main.children.blobs", "far")
        .set("backends.main.options.collect_every", "200ms")
        .set("backends.files.plugin", "file")
        .set("backends.files.options.path", data)
        .set("backends.far.plugin", "switch")
        .set("backends.far.children.inner", "bucket")
        .set("backends.far.options.away_while", away)
        .set("backends.bucket.plugin", "file")
        .set("backends.bucket.options.path", bucket)
}

/// An evaluation that ended with this many megabytes, hard to compress, of characters of every length.
fn large(id: &str, megabytes: usize) -> Sent {
    let mut random = fastrand::Rng::with_seed(megabytes as u64);
    let characters = ['a', 'ß', '\n', '数', '🦀', '\0'];
    let mut output = String::new();
    while output.len() < megabytes << 20 {
        output.push(characters[random.usize(..characters.len())]);
    }
    Sent::new("evaluation:completed", &json!({"eval_id": id, "timestamp": "2025-01-01T12:00:00Z", "output": output}))
}

fn small(id: &str) -> Sent {
    let payload = json!({"eval_id": id, "timestamp": "2025-01-01T12:00:00Z", "output": "small"});
    Sent::new("evaluation:completed", &payload)
}

fn blobs(setup: &Setup) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(setup.path("bucket/blobs")).expect("the directory is there");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[track_caller]
fn assert_records(worker: &Worker, events: &[Sent]) {
    for (id, expected) in expected(events, 0) {
        let record = worker.record(&id).unwrap_or(Value::Null);
        // Not the megabytes of text.
        assert!(record == expected.record, "`{id}` has {} characters of output", record["output_size"]);
    }
}

#[test]
fn large_bodies_wait_for_their_store_and_come_back_whole() {
    let redis = RedisServer::start();
    let setup = tiered(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    // One of them is a batch of its own.
    let events = [large("large", 5), small("small"), large("later", 9), large("again", 5), small("other")];

    publisher.publish(&events[..2]);
    let confirmed = confirmations.wait_for(2, SOON);
    assert!(confirmed.iter().all(|confirmation| confirmation.text("durability") == "durable"), "{confirmed:?}");
    assert_records(&worker, &events[..2]);
    let file = setup.path("data/evaluations/large.json");
    eventually(SOON, "the next checkpoint to write the record's file", || file.exists());
    assert!(std::fs::metadata(file).is_ok_and(|file| file.len() < 8192), "the record is small");

    std::fs::write(setup.path("away"), "").expect("make the file");
    publisher.publish(&events[2..]);
    eventually(SOON, "the small one to be confirmed", || {
        confirmations.received().iter().any(|confirmation| confirmation.about().0 == "other")
    });
    assert_eq!(confirmations.count(), 3, "the large ones wait");
    let part = worker.record("large").expect("stored");
    assert_eq!((&part["incomplete"], &part["output_truncated"]), (&json!(true), &json!(true)));
    assert!(part["output"].as_str().is_some_and(|preview| preview.len() > 1000 && preview.len() <= 1024));
    eventually(SOON, "health to say so", || {
        let health = worker.http().get("/health").json();
        health["backends"]["main"]["reason"].as_str().is_some_and(|reason| reason.contains("bodies over 1.0 MiB wait"))
    });

    // Each used to hold up all that came behind it.
    let late: Vec<Sent> = (0..64).map(|number| small(&format!("late-{number}"))).collect();
    publisher.publish(&late);
    eventually(SOON, "those that come later to be confirmed", || confirmations.count() == 3 + late.len());
    assert_records(&worker, &late);

    std::fs::remove_file(setup.path("away")).expect("remove the file");
    confirmations.wait_for(5 + late.len(), SOON);
    assert_records(&worker, &events);
    assert_eq!(blobs(&setup).len(), 2, "equal bodies are one blob");
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "the worker ended with {status}:\n{log}");
    assert!(setup.dead_letters().is_empty());
}

#[test]
fn only_blobs_that_nobody_refers_to_are_collected() {
    let redis = RedisServer::start();
    let setup = tiered(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let events = [large("a", 2), small("b"), large("c", 3)];
    Publisher::new(&redis).publish(&events);
    confirmations.wait_for(events.len(), SOON);
    let orphan = setup.path(&format!("bucket/blobs/{}.zst", "0".repeat(64)));
    let foreign = setup.path("bucket/blobs/notes.txt");
    for file in [&orphan, &foreign] {
        std::fs::write(file, "of no use").expect("write a file");
    }
    let young = setup.path(&format!("bucket/blobs/{}.zst", "1".repeat(64)));
    std::fs::write(&young, "of no use yet").expect("write a file");
    let two_days_ago = SystemTime::now() - Duration::from_secs(48 * 3600);
    for blob in blobs(&setup).into_iter().filter(|blob| *blob != young) {
        let file = std::fs::File::options().append(true).open(blob).expect("open a blob");
        file.set_modified(two_days_ago).expect("set its time");
    }

    let health = || worker.http().get("/health").json()["backends"]["main"].clone();
    eventually(SOON, "the collection", || health()["blobs_collected"] == 1 && health()["blobs"] == 4);

    assert!(!orphan.exists() && foreign.exists() && young.exists());
    assert_records(&worker, &events);
}
