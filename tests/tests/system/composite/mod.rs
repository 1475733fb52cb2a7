//! `cached-composite`: a primary that goes away and comes back, a worker that is killed meanwhile, a cache that is small.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
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
    let (status, log) = worker.terminate(Duration::from_secs(60));
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

fn files_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("the directory is there").count()
}

#[test]
fn a_primary_that_goes_away_and_flaps_as_it_returns_has_everything_in_the_end() {
    let redis = RedisServer::start();
    let setup = composite(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let mut generator = Generator::new(11);
    let first: Vec<Sent> = (0..100).flat_map(|_| generator.lifecycle()).collect();
    let mut tell = |events: &[Sent]| {
        publisher.publish(events);
        let confirmed = confirmations.wait_for(events.len(), Duration::from_secs(60));
        confirmations.take();
        confirmed
    };
    // Half of each before, the other half while the primary is away.
    let (before, during): (Vec<_>, Vec<_>) = first.iter().cloned().enumerate().partition(|(place, _)| place % 2 == 0);
    let [before, during] =
        [before, during].map(|events| events.into_iter().map(|(_, event)| event).collect::<Vec<_>>());
    tell(&before);

    take_away(&setup);
    let confirmed = tell(&during);

    for confirmation in &confirmed {
        assert_eq!(confirmation.text("durability"), "durable", "{confirmation:?}");
        assert_eq!((confirmation.text("result"), confirmation.text("backend")), ("accepted", "disk"));
        let (id, _) = confirmation.about();
        let record = worker.record(&id).expect("what is confirmed can be read");
        assert_eq!(record["incomplete"], true, "{record}");
    }
    assert_has_event(&worker, &confirmed.iter().map(|confirmation| confirmation.about()).collect::<Vec<_>>());
    assert_eq!(detail(&worker, "main", "state"), "fallback");
    assert!(worker.is_ready(), "it goes on without its primary");

    let mut flapped: Vec<Sent> = Vec::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                give_back(&setup);
                std::thread::sleep(Duration::from_millis(60));
                take_away(&setup);
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        for _ in 0..60 {
            let events = generator.lifecycle();
            let confirmed = tell(&events);
            assert!(confirmed.iter().all(|confirmation| confirmation.text("durability") == "durable"));
            assert_has_event(&worker, &confirmed.iter().map(|confirmation| confirmation.about()).collect::<Vec<_>>());
            flapped.extend(events);
        }
        done.store(true, Ordering::Release);
    });
    give_back(&setup);

    wait_until_caught_up(&worker);
    assert!(worker.http().metric("storage_worker_backend_count_total", &["accepted"]) > 0.0, "{}", metrics(&worker));
    let all: Vec<Sent> = first.into_iter().chain(flapped).collect();
    assert_stored(&setup, worker, &all);
}

fn metrics(worker: &Worker) -> String {
    worker.http().get("/metrics").body
}

/// A read that is answered has the events; one that cannot see them all says that it is unavailable.
#[track_caller]
fn assert_has_event(worker: &Worker, events: &[(String, String)]) {
    let mut by_id: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, event) in events {
        by_id.entry(id).or_default().push(event);
    }
    for (id, events) in by_id {
        let answer = worker.http().get(&format!("/evaluations/{id}/events"));
        if answer.status == 503 {
            continue;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        for event in events {
            assert!(answer.body.contains(event), "{event} of {id} was confirmed; read: {}", answer.body);
        }
    }
}

#[test]
fn nothing_is_lost_when_the_worker_is_killed_while_it_catches_up() {
    let redis = RedisServer::start();
    let setup =
        composite(&redis).set("backends.far.options.slow_ms", 30).set("backends.main.options.catch_up_batch", 4);
    take_away(&setup);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut generator = Generator::new(12);
    let events: Vec<Sent> = (0..200).flat_map(|_| generator.lifecycle()).collect();
    Publisher::new(&redis).publish(&events);
    let confirmed = confirmations.wait_for(events.len(), Duration::from_secs(60));
    assert!(confirmed.iter().all(|confirmation| confirmation.text("durability") == "durable"));
    worker.kill();
    give_back(&setup);

    for kill in 0..3 {
        let worker = setup.start();
        let held = || detail(&worker, "main", "fallback_held").as_u64().expect("a number");
        let at_start = held();
        assert!(at_start > 0, "kill {kill}: nothing is left to catch up with");
        eventually(SOON, "the catch-up to be at work", || held() + 12 < at_start.max(13));
        worker.kill();
    }

    let worker = setup.start();
    wait_until_caught_up(&worker);
    assert_stored(&setup, worker, &events);
}

#[test]
fn many_evaluations_through_a_small_cache_stay_within_it() {
    let redis = RedisServer::start();
    let setup = composite(&redis);
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

    for (id, expected) in expected(&events, 0) {
        for _ in 0..2 {
            assert_eq!(worker.record(&id).as_ref(), Some(&expected.record));
        }
        let bytes = detail(&worker, "hot", "bytes").as_u64().expect("a number");
        assert!(bytes <= 256 * 1024, "{bytes} bytes");
    }

    let [hits, misses] =
        ["cache_hits", "cache_misses"].map(|name| detail(&worker, "main", name).as_u64().expect("a number"));
    assert_eq!(hits + misses, 1200);
    // A second read may come after the entry was forgotten; most come before.
    assert!(hits > 400, "{hits} hits");
}

#[test]
fn enable_caching_puts_a_cache_before_the_root() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "file").environment("ENABLE_CACHING", "true");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let queued = Sent::new("evaluation:queued", &json!({"eval_id": "e", "code": "print(42)"}));
    Publisher::new(&redis).publish(&[queued]);
    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("durability"), confirmation.text("result")), ("durable", "created"));

    for _ in 0..3 {
        assert_eq!(worker.record("e").expect("stored")["code"], "print(42)");
    }

    assert_eq!(detail(&worker, "cached", "cache_hits"), 2);
    let failed = Sent::new("evaluation:failed", &json!({"eval_id": "e", "error": "boom"}));
    Publisher::new(&redis).publish(&[failed]);
    confirmations.wait_for(2, SOON);
    assert_eq!(worker.record("e").expect("stored")["status"], "failed");
    assert_eq!(detail(&worker, "cached", "cache_hits"), 3);
}

#[test]
fn every_tree_that_cannot_work_is_refused_with_what_to_do() {
    let redis = RedisServer::start();
    let refused = |change: &dyn Fn(Setup) -> Setup, expected: &str| {
        let output = change(composite(&redis)).command(&["check"]).output().expect("the worker runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "expected `{expected}` in:\n{text}");
    };
    let good = composite(&redis);
    assert_eq!(good.command(&["check"]).output().expect("the worker runs").status.code(), Some(0));

    let child = |role: &'static str, name: &'static str| {
        move |setup: Setup| setup.set(&format!("backends.main.children.{role}"), name)
    };
    refused(
        &|setup| child("fallback", "far")(setup).set("backends.files.options.sync", "none"),
        "is volatile, and this role takes a durable backend only; name another backend",
    );
    refused(
        &|setup| setup.set("storage.backend", "hot"),
        "`hot` may forget what it stored (it is evicting), so it can only be the cache of a layer",
    );
    refused(&child("primary", "hot"), "it can only be `cache`, or turn evicting off in its options");
    refused(&child("cache", "disk"), "as a cache it would fill up; turn evicting on in its options");
    refused(&child("fallbak", "disk"), "has no role `fallbak`; did you mean `fallback`?");
    refused(&child("fallback", "dsk"), "unknown child `dsk`");
    refused(&|setup| setup.set("backends.main.options.ttl", "0s"), "leave the cache out instead");
    refused(&|setup| setup.set("backends.main.options.tll", "1s"), "unknown field `tll`");
    let without_primary = |setup: Setup| {
        let children: toml::Table = [("cache".to_owned(), toml::Value::from("hot"))].into_iter().collect();
        setup.set("backends.main.children", children)
    };
    refused(&without_primary, "cannot work without a child as `primary`; add `children = { primary = \"…\" }`");
}
