//! `cached-composite`: a cache that is small. `outages.rs` takes the primary away.

mod outages;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

/// A composite over files that a test can take away, a small cache and files to fall back on.
fn composite(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "cached-composite");
    let text = |name: &str| setup.path(name).to_str().expect("Unicode").to_owned();
    let (data, disk, away) = (text("data"), text("disk"), text("away"));
    setup
        .set("storage.guarantee", "durable")
        // Thousands of record files after a long outage, on a machine that does other things, too.
        .set("storage.close_timeout", "90s")
        .set("storage.breaker.open_for", "20ms")
        .set("storage.breaker.max_open_for", "100ms")
        .set("worker.retry_max", "100ms")
        .set("backends.main.children.primary", "far")
        .set("backends.main.children.cache", "hot")
        .set("backends.main.children.fallback", "disk")
        .set("backends.far.plugin", "switch")
        .set("backends.far.children.inner", "files")
        .set("backends.far.options.away_while", away)
        .set("backends.files.plugin", "file")
        .set("backends.files.options.path", data)
        .set("backends.hot.plugin", "memory")
        .set("backends.hot.options.evict", true)
        .set("backends.hot.options.max_bytes", "256KiB")
        .set("backends.disk.plugin", "file")
        .set("backends.disk.options.path", disk)
}

fn take_away(setup: &Setup) {
    std::fs::write(setup.path("away"), "").expect("make the file");
}

fn give_back(setup: &Setup) {
    let _ = std::fs::remove_file(setup.path("away"));
}

fn detail(worker: &Worker, backend: &str, name: &str) -> Value {
    worker.http().get("/health").json()["backends"][backend][name].clone()
}

#[track_caller]
fn wait_until_caught_up(worker: &Worker) {
    eventually(Duration::from_secs(60), "the fallback to be merged back", || {
        detail(worker, "main", "state") == "primary"
    });
    assert_eq!(detail(worker, "main", "fallback_held"), 0);
}

/// What the worker reads, and then what the primary alone holds, is what the second model says; nothing is left behind.
#[track_caller]
fn assert_stored(setup: &Setup, worker: Worker, events: &[Sent]) {
    let model = expected(events, 0);
    for (id, expected) in &model {
        assert_eq!(worker.record(id).as_ref(), Some(&expected.record), "record of {id}");
        assert_eq!(worker.history(id), expected.history, "history of {id}");
    }
    let (status, log) = worker.terminate(Duration::from_secs(120));
    assert!(status.success(), "the worker ended with {status}:\n{log}");
    assert!(setup.dead_letters().is_empty());
    for (id, expected) in &model {
        let file = std::fs::read(setup.path(&format!("data/evaluations/{id}.json"))).expect("the primary has it");
        let file: Value = serde_json::from_slice(&file).expect("a record's file is JSON");
        for (key, value) in expected.record.as_object().expect("a record is an object") {
            assert_eq!(&file[key], value, "`{key}` of {id} in the primary");
        }
    }
    assert_eq!(files_in(&setup.path("disk/evaluations")), 0, "the fallback is empty");
}

/// Waits until reads become entries of the cache: a little longer than a call may take.
#[track_caller]
fn wait_until_cached(worker: &Worker, backend: &str, id: &str) {
    eventually(SOON, "a read to be answered by the cache", || {
        worker.record(id).is_some() && detail(worker, backend, "cache_hits") != 0
    });
}

fn files_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("the directory is there").count()
}

#[test]
fn many_evaluations_through_a_small_cache_stay_within_it() {
    let redis = RedisServer::start();
    let setup = composite(&redis).set("storage.call_timeout", "3s");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let event = |number: usize| {
        let at = "2025-01-01T00:00:00Z";
        let code = "x".repeat(2000);
        Sent::new("evaluation:queued", &json!({"eval_id": format!("e-{number}"), "code": code, "timestamp": at}))
    };
    let events: Vec<Sent> = (0..600).map(event).collect();
    Publisher::new(&redis).publish(&events);
    confirmations.wait_for(events.len(), Duration::from_secs(60));
    wait_until_cached(&worker, "main", "e-0");
    let figures =
        || ["cache_hits", "cache_misses"].map(|name| detail(&worker, "main", name).as_u64().expect("a number"));
    let before = figures();

    for (id, expected) in expected(&events, 0) {
        for _ in 0..2 {
            assert_eq!(worker.record(&id).as_ref(), Some(&expected.record));
        }
        let bytes = detail(&worker, "hot", "bytes").as_u64().expect("a number");
        assert!(bytes <= 256 * 1024, "{bytes} bytes");
    }

    let after = figures();
    let [hits, misses] = [after[0] - before[0], after[1] - before[1]];
    assert_eq!(hits + misses, 1200);
    // A second read may come after the entry was forgotten; most come before.
    assert!(hits > 400, "{hits} hits");
}

#[test]
fn enable_caching_puts_a_cache_before_the_root() {
    let redis = RedisServer::start();
    let setup =
        Setup::new(&redis.url(), "file").set("storage.call_timeout", "2s").environment("ENABLE_CACHING", "true");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let queued = Sent::new("evaluation:queued", &json!({"eval_id": "e", "code": "print(42)"}));
    Publisher::new(&redis).publish(&[queued]);
    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("durability"), confirmation.text("result")), ("durable", "created"));

    wait_until_cached(&worker, "cached", "e");
    let hits = || detail(&worker, "cached", "cache_hits").as_u64().expect("a number");
    let before = hits();
    for _ in 0..3 {
        assert_eq!(worker.record("e").expect("stored")["code"], "print(42)");
    }

    assert_eq!(hits(), before + 3);
    let failed = Sent::new("evaluation:failed", &json!({"eval_id": "e", "error": "boom"}));
    Publisher::new(&redis).publish(&[failed]);
    confirmations.wait_for(2, SOON);
    assert_eq!(worker.record("e").expect("stored")["status"], "failed");
    assert_eq!(hits(), before + 4);
}
