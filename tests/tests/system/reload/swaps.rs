//! Stores take each other's place under load.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::load::Load;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{assert_stored, generation, queued, refused, reload, reloaded, stored, two_stores, with_hostile};
use crate::SOON;

#[test]
fn stores_are_swapped_under_load_and_every_event_is_in_one_of_them() {
    let redis = RedisServer::start();
    let mut setup = two_stores(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 21, 1000);

    for round in 0..6 {
        eventually(SOON, "some load", || load.handed_on().len() > 300 * (round + 1));
        setup = setup.set("storage.backend", if round % 2 == 0 { "second" } else { "main" });
        let answer = reloaded(&setup, &worker);
        let (opened, closed) = if round % 2 == 0 { ("second", "main") } else { ("main", "second") };
        assert_eq!((&answer["opened"][0], &answer["closed"][0]), (&opened.into(), &closed.into()));
        assert_eq!(answer["generation"], round as u64 + 2);
        assert_eq!(generation(&worker), round as u64 + 2);
    }
    let received = load.stop();

    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    let in_main = stored(&worker, &received);
    setup = setup.set("storage.backend", "second");
    reloaded(&setup, &worker);
    let in_second = stored(&worker, &received);
    assert!(!in_main.is_empty() && !in_second.is_empty());
    let lost: Vec<_> = received.iter().filter(|event| !in_main.contains(event) && !in_second.contains(event)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let text = worker.http().get("/metrics").body;
    assert!(!text.contains("breaker_open{backend=\"main\"}"), "what was measured of a backend goes with it");
    let (status, log) = worker.terminate(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(setup.dead_letters().is_empty());
}

#[test]
fn a_backend_that_only_one_may_open_is_handed_over_to_itself() {
    let redis = RedisServer::start();
    let mut setup = Setup::new(&redis.url(), "file");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 22, 1000);

    for round in 0..4 {
        eventually(SOON, "some load", || load.handed_on().len() > 300 * (round + 1));
        setup = setup.set("backends.main.options.sync", if round % 2 == 0 { "none" } else { "batch" });
        let answer = reloaded(&setup, &worker);
        assert_eq!((&answer["opened"][0], &answer["closed"][0]), (&"main".into(), &"main".into()));
    }
    let received = load.stop();

    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    assert_stored(&worker, &received);
}

/// What was closed for the successor is open again when the refusal is answered, also while the successor still hangs.
#[test]
fn a_hand_over_that_fails_is_undone_before_it_is_answered() {
    let redis = RedisServer::start();
    let mut setup = Setup::new(&redis.url(), "file");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 23, 500);
    eventually(SOON, "some load", || load.handed_on().len() > 200);

    // Below what is no directory, which nobody knows before it is opened.
    setup = setup.set("backends.main.options.path", "/proc/self/nowhere");
    refused(&setup, &worker, 1, "/proc/self/nowhere");

    assert!(worker.is_ready(), "{}", worker.log());
    let received = load.stop();
    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    assert_stored(&worker, &received);

    let mut setup = with_hostile(Setup::new(&redis.url(), "file"), "open", "behave")
        .set("backends.hostile.options.exclusive", true)
        .set("storage.backend", "hostile");
    let worker = setup.start();
    setup = setup
        .set("storage.open_timeout", "500ms")
        .set("backends.hostile.options.open", "hang")
        .set("backends.hostile.options.hang_seconds", 60);
    refused(&setup, &worker, 1, "did not return within 500ms");
    assert!(worker.is_ready(), "{}", worker.log());
    confirmations.take();
    Publisher::new(&redis).publish(&[queued("again-1")]);
    confirmations.wait_for(1, SOON);
}

#[test]
fn a_changed_layer_stands_over_the_same_children_and_readers_notice_nothing() {
    let redis = RedisServer::start();
    let mut setup = Setup::new(&redis.url(), "cached-composite")
        .set("backends.main.children.primary", "files")
        .set("backends.main.children.cache", "hot")
        .set("backends.hot.plugin", "memory")
        .set("backends.hot.options.evict", true)
        .set("backends.hot.options.max_bytes", "8MiB")
        .set("backends.files.plugin", "file");
    let data = setup.path("data").display().to_string();
    setup = setup.set("backends.files.options.path", data);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 24, 500);
    eventually(SOON, "some load", || confirmations.count() > 100);
    let first = confirmations.received()[0].text("eval_id").to_owned();

    let (address, stop) = (worker.http().clone(), AtomicBool::new(false));
    let (reads, _setup) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let answer = address.get(&format!("/evaluations/{first}"));
                assert_eq!(answer.status, 200, "{}", answer.body);
                reads += 1;
            }
            reads
        });
        for round in 0..8 {
            setup = setup.set("backends.main.options.ttl", format!("{}s", 100 + round));
            let answer = reloaded(&setup, &worker);
            assert_eq!((&answer["opened"], &answer["closed"]), (&json!(["main"]), &json!(["main"])));
        }
        stop.store(true, Ordering::Relaxed);
        (reader.join().expect("every read was answered"), setup)
    });
    let received = load.stop();

    assert!(reads > 0);
    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    assert_stored(&worker, &received);
}

#[test]
fn a_hangup_reads_the_configuration_again_and_a_section_that_cannot_change_is_named() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis);
    let worker = setup.start();

    let setup = setup.set("storage.backend", "second").set("worker.lanes", 2);
    setup.write();
    worker.signal(Signal::HUP);
    eventually(SOON, "the second generation", || generation(&worker) == 2);

    let answer = reload(&setup, &worker, &[]);
    assert_eq!((answer.code, &answer.output["generation"]), (Some(0), &2.into()), "{}", answer.error);
    assert_eq!(answer.output["opened"], Value::Array(Vec::new()), "nothing is different from what is in force");
    assert_eq!(answer.output["restart"][0], "worker");
    let confirmations = Confirmations::listen(&redis);
    Publisher::new(&redis).publish(&[queued("later-1")]);
    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("backend"), &confirmation.body["generation"]), ("second", &2.into()));
}

#[test]
fn a_worker_whose_storage_is_away_can_be_given_another() {
    let redis = RedisServer::start();
    let setup = with_hostile(two_stores(&redis).set("storage.backend", "hostile"), "open", "unavailable");
    let worker = setup.start_unready();
    let confirmations = Confirmations::listen(&redis);
    eventually(SOON, "the subscription", || worker.log().find("subscribed").is_some());
    Publisher::new(&redis).publish(&[queued("waits-1")]);

    let setup = setup.set("storage.backend", "main");
    reloaded(&setup, &worker);

    assert_eq!(confirmations.wait_for(1, SOON)[0].text("backend"), "main");
}
