//! What cannot be, is refused: nothing changes, nothing hangs, and whoever asked is told why.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::Value;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::http::Http;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Worker;

use super::{
    HOSTILE_OPENS, generation, logged, queued, refused, reload, reload_at, reloaded, threads, two_stores, wait_for_log,
    with_hostile,
};
use crate::SOON;

/// The worker goes on as before.
#[track_caller]
fn assert_stores(redis: &RedisServer, worker: &Worker, id: &str) {
    let confirmations = Confirmations::listen(redis);
    Publisher::new(redis).publish(&[queued(id)]);
    confirmations.wait_for(1, SOON);
    assert!(worker.record(id).is_some());
}

#[test]
fn wrong_configuration_changes_nothing_and_every_reason_is_told_all_three_ways() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis);
    let worker = setup.start();
    let wrong = setup
        .set("storage.backend", "both")
        .set("backends.both.plugin", "cached-composite")
        .set("backends.both.children.primary", "main")
        .set("backends.both.children.fallback", "second")
        .set("backends.main.plugin", "nonsense")
        .set("backends.second.plugin", "humbug");
    wrong.write();
    let names_both = |text: &str| text.contains("nonsense") && text.contains("humbug");

    let answer = Http::new(worker.admin_address()).post("/reload");
    assert_eq!(answer.status, 422, "{}", answer.body);
    let problems = answer.json()["problems"].as_array().expect("a list").clone();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(names_both(&answer.body), "{}", answer.body);

    let answer = reload(&wrong, &worker, &[]);
    assert_eq!(answer.code, Some(2));
    assert!(names_both(&answer.error), "{}", answer.error);

    worker.signal(Signal::HUP);
    wait_for_log(&worker, "storage.not_reloaded", 3);
    let line = worker.log().all("storage.not_reloaded").remove(2);
    assert!(names_both(&line["error"].to_string()), "{line}");
    assert_eq!(line["generation"], 1);

    std::fs::write(wrong.path("storage-worker.toml"), "[storage\nbackend =").expect("write half a file");
    let answer = Http::new(worker.admin_address()).post("/reload");
    assert_eq!(answer.status, 422, "{}", answer.body);
    std::fs::remove_file(wrong.path("storage-worker.toml")).expect("there is a file");
    let answer = Http::new(worker.admin_address()).post("/reload");
    assert_eq!(answer.status, 422, "{}", answer.body);

    assert_eq!(generation(&worker), 1);
    assert_stores(&redis, &worker, "still-1");
}

#[test]
fn a_plugin_that_hangs_in_open_is_left_behind_once_and_then_not_tried() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis);
    let worker = setup.start();

    let setup = setup.set("storage.backend", "hostile").set("storage.open_timeout", "500ms");
    let mut setup = with_hostile(setup, "open", "hang");
    refused(&setup, &worker, 1, "did not return within 500ms");
    let before = threads(&worker);
    refused(&setup, &worker, 1, "has not returned yet from an earlier attempt");
    // Whatever the options, it is the same plugin.
    setup = setup.set("backends.hostile.options.durable", true);
    refused(&setup, &worker, 1, "has not returned yet from an earlier attempt");
    // What answers requests may have become more, for ten seconds.
    eventually(SOON, "a second attempt to cost no thread", || threads(&worker) <= before);

    assert_eq!(logged(&worker, HOSTILE_OPENS), 1, "{}", worker.log());
    assert_stores(&redis, &worker, "still-1");
    setup = setup.set("storage.backend", "second").set("storage.open_timeout", "30s");
    let answer = reloaded(&setup, &worker);
    assert_eq!(answer["generation"], 2);
}

#[test]
fn a_new_backend_is_tried_out_before_anything_is_merged_into_it() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis);
    let worker = setup.start();
    let mut setup =
        setup.set("storage.backend", "hostile").set("storage.open_timeout", "500ms").set("storage.call_timeout", "1s");

    for (call, way, code, reason) in [
        ("open", "configuration", 1, "hostile in `open`"),
        ("open", "unavailable", 1, "hostile in `open`"),
        ("open", "panic", 1, "hostile in `open`"),
        ("health", "internal", 1, "is not healthy: hostile in `health`"),
        ("health", "panic", 1, "panicked"),
        ("empty_merge", "unavailable", 1, "does not take an empty merge"),
        ("empty_merge", "panic", 1, "does not take an empty merge"),
        ("check", "configuration", 2, "hostile in `check`"),
        ("check", "panic", 2, "hostile"),
        ("check", "hang", 2, "did not say within 500ms"),
        ("check", "hang", 2, "has not answered yet"),
        ("empty_merge", "hang", 2, "has not answered yet"),
    ] {
        for other in ["open", "health", "empty_merge", "check"] {
            setup = with_hostile(setup, other, "behave");
        }
        setup = with_hostile(setup, call, way);
        refused(&setup, &worker, code, reason);
    }
    assert_stores(&redis, &worker, "still-1");
}

#[test]
fn a_plugin_that_hangs_where_it_is_tried_out_or_closed_costs_one_thread() {
    for call in ["health", "empty_merge"] {
        let redis = RedisServer::start();
        let setup = two_stores(&redis).set("storage.call_timeout", "500ms");
        let worker = setup.start();
        let setup = with_hostile(setup.set("storage.backend", "hostile"), call, "hang");

        refused(&setup, &worker, 1, "did not say how it is and take an empty merge within 500ms");
        refused(&setup, &worker, 1, "has not returned yet from an earlier attempt");
    }

    let redis = RedisServer::start();
    let setup = two_stores(&redis).set("storage.close_timeout", "500ms").set("storage.backend", "hostile");
    let mut setup = with_hostile(setup, "close", "hang");
    let worker = setup.start();
    setup = setup.set("storage.backend", "main");
    let answer = reloaded(&setup, &worker);
    assert_eq!(answer["closed"][0], "hostile");
    wait_for_log(&worker, "storage.close_failed", 1);
    setup = setup.set("storage.backend", "hostile");
    refused(&setup, &worker, 1, "has not returned yet from an earlier attempt to open or close a backend");
    assert_stores(&redis, &worker, "still-1");
}

#[test]
fn a_second_reload_waits_its_turn() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis).set("storage.open_timeout", "2s");
    let worker = setup.start();

    let setup = with_hostile(setup.set("storage.backend", "hostile"), "open", "hang");
    setup.write();
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| Http::new(worker.admin_address()).post("/reload"));
        wait_for_log(&worker, HOSTILE_OPENS, 1);
        let setup = setup.set("storage.backend", "second");
        let second = reload_at(&setup, worker.admin_address(), &[]);
        (first.join().expect("it is answered"), second)
    });

    assert_eq!(first.status, 409, "{}", first.body);
    assert_eq!(second.code, Some(0), "{}", second.error);
    assert_eq!(generation(&worker), 2);
    let log = worker.log().entries();
    let place = |event: &str| log.iter().position(|entry| entry["event"] == event).expect("it is logged");
    assert!(place("storage.not_reloaded") < place("storage.reloaded"));
}

/// The server takes the connection, and never says a word.
#[test]
fn a_reload_against_a_backend_that_is_away_ends_at_its_deadline() {
    let redis = RedisServer::start();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("it is bound");
    let setup = two_stores(&redis).set("storage.open_timeout", "1s");
    let worker = setup.start();
    let setup = setup
        .set("storage.backend", "pg")
        .set("backends.pg.plugin", "postgres")
        .set("backends.pg.options.url", format!("postgres://someone@{address}/nothing"));

    let answer = reload(&setup, &worker, &[]);

    assert_eq!(answer.code, Some(1), "{}", answer.error);
    assert!(answer.error.contains("backend `pg`"), "{}", answer.error);
    assert_stores(&redis, &worker, "still-1");
    drop(silent);
    refused(&setup, &worker, 1, "backend `pg`");
}

#[test]
fn more_reloads_than_may_wait_are_refused_and_the_others_have_their_turn() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis).set("storage.open_timeout", "10s");
    let worker = setup.start();
    let setup = with_hostile(setup.set("storage.backend", "hostile"), "open", "hang");
    setup.write();

    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let post = || Http::new(worker.admin_address()).post("/reload").status;
        let first = scope.spawn(post);
        wait_for_log(&worker, HOSTILE_OPENS, 1);
        let others: Vec<_> = (0..12).map(|_| scope.spawn(post)).collect();
        std::iter::once(first).chain(others).map(|thread| thread.join().expect("it is answered")).collect()
    });

    let count = |status: u16| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((count(409), count(503)), (9, 4), "{statuses:?}");
    eventually(SOON, "health", || worker.is_ready());
    assert_eq!(worker.http().get("/health").json()["healthy"], Value::Bool(true));
}
