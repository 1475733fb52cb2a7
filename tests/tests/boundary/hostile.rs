//! A plugin that panics, hangs and refuses: the worker goes on, and says what happened.

use std::time::Duration;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::process::plugin_path;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::{SOON, check};

fn hostile(redis_url: &str, call: &str, way: &str) -> Setup {
    let plugin = plugin_path("hostile");
    Setup::new(redis_url, plugin.to_str().expect("built paths are Unicode"))
        .set(&format!("backends.main.options.{call}"), way)
}

fn queued(id: &str) -> Sent {
    Sent::new("evaluation:queued", &json!({"eval_id": id, "code": "1", "timestamp": "2025-01-01T00:00:00Z"}))
}

/// Ten good events around a hostile one: the good ones are confirmed.
fn good_events_are_confirmed(worker: &Worker, redis: &RedisServer) {
    let confirmations = Confirmations::listen(redis);
    let mut events: Vec<Sent> = (0..10).map(|number| queued(&format!("good-{number}"))).collect();
    events.insert(5, queued("hostile-1"));

    Publisher::new(redis).publish(&events);

    eventually(SOON, "the good events to be confirmed", || {
        confirmations.received().iter().filter(|seen| seen.text("eval_id").starts_with("good")).count() == 10
    });
    assert!(worker.record("good-9").is_some());
}

fn the_hostile_event_becomes_a_dead_letter(way: &str, reason: &str) {
    let redis = RedisServer::start();
    let setup = hostile(&redis.url(), "merge", way);
    let worker = setup.start();

    good_events_are_confirmed(&worker, &redis);

    // Whether an error is the event's own fault shows only while others pass.
    let mut publisher = Publisher::new(&redis);
    let mut number = 0;
    eventually(SOON, "the dead letter", || {
        number += 1;
        publisher.publish(&[queued(&format!("later-{number}"))]);
        setup.dead_letters().len() == 1
    });
    let letter = setup.dead_letters().remove(0);
    assert_eq!(letter["reason"], reason, "{letter}");
    assert_eq!(letter["channel"], "evaluation:queued");
    let payload: Value = serde_json::from_str(letter["payload"].as_str().expect("the payload is text")).expect("JSON");
    assert_eq!(payload["eval_id"], "hostile-1");
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "the worker ended with {status}:\n{log}");
}

#[test]
fn an_item_that_is_invalid_becomes_a_dead_letter_and_its_neighbours_are_stored() {
    the_hostile_event_becomes_a_dead_letter("invalid_item", "invalid_item");
}

#[test]
fn an_item_that_makes_merge_panic_becomes_a_dead_letter_and_its_neighbours_are_stored() {
    the_hostile_event_becomes_a_dead_letter("panic", "internal");
}

#[test]
fn an_item_that_is_answered_unavailable_waits_and_is_never_a_dead_letter() {
    let redis = RedisServer::start();
    let setup = hostile(&redis.url(), "merge", "unavailable");
    let worker = setup.start();

    good_events_are_confirmed(&worker, &redis);

    std::thread::sleep(Duration::from_secs(2));
    assert!(setup.dead_letters().is_empty());
}

#[test]
fn answers_that_are_too_few_are_an_error_and_not_a_crash() {
    let redis = RedisServer::start();
    let mut worker = hostile(&redis.url(), "merge", "too_few").start();

    Publisher::new(&redis).publish(&[queued("a"), queued("b")]);

    eventually(SOON, "the log to say so", || worker.log().lines().iter().any(|line| line.contains("answers for")));
    assert!(worker.is_running());
}

#[test]
fn a_merge_that_hangs_makes_the_worker_unready_and_keeps_it_alive() {
    let redis = RedisServer::start();
    let setup = hostile(&redis.url(), "merge", "hang").set("storage.call_timeout", "500ms");
    let worker = setup.start();

    Publisher::new(&redis).publish(&[queued("hostile-1")]);

    eventually(SOON, "the worker to be unready", || !worker.is_ready());
    assert_eq!(worker.http().get("/livez").status, 200);
    assert_eq!(worker.http().get("/metrics").status, 200);
    assert_eq!(worker.http().get("/health").status, 503);
}

#[test]
fn a_merge_that_hangs_does_not_keep_the_worker_from_ending() {
    let redis = RedisServer::start();
    let setup = hostile(&redis.url(), "merge", "hang").set("worker.drain_timeout", "1s");
    let worker = setup.start();
    Publisher::new(&redis).publish(&[queued("hostile-1")]);
    std::thread::sleep(Duration::from_millis(300));

    let (status, log) = worker.terminate(SOON);

    assert_eq!(status.code(), Some(1), "what was taken is not stored, so the end is a failure:\n{log}");
}

#[test]
fn panics_in_get_health_and_drop_are_answered_and_survived() {
    let redis = RedisServer::start();
    let setup = hostile(&redis.url(), "get", "panic").set("backends.main.options.drop", "panic");
    let worker = setup.start();
    good_events_are_confirmed(&worker, &redis);

    let answer = worker.http().get("/evaluations/hostile-1");

    assert_eq!(answer.status, 500, "{}", answer.body);
    eventually(SOON, "the panic in the log", || worker.log().find("plugin panicked").is_some());
    let (status, log) = worker.terminate(SOON);
    assert_eq!(status.code(), Some(1), "a backend that panics when it is dropped did not end as it should:\n{log}");
    assert!(log.find("storage.close_failed").is_some(), "{log}");
}

#[test]
fn a_panic_in_health_is_told_as_unhealthy() {
    let redis = RedisServer::start();
    let worker = hostile(&redis.url(), "health", "panic").start_unready();

    // It is red from the start, for as long as storage is being opened.
    let reason = || worker.http().get("/health").body;
    eventually(SOON, "the panic in the health", || reason().contains("hostile in `health`"));

    assert_eq!(worker.http().get("/health").status, 503);
    assert_eq!(worker.http().get("/livez").status, 200);
}

#[test]
fn a_panic_in_open_stops_the_start_with_the_reason() {
    let output = hostile("redis://127.0.0.1:1", "open", "panic").command(&["run"]).output().expect("start the worker");

    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("panicked: hostile in `open`"), "{text}");
}

#[test]
fn an_open_that_hangs_ends_the_start_at_its_deadline() {
    let setup = hostile("redis://127.0.0.1:1", "open", "hang").set("storage.open_timeout", "1s");

    let output = setup.command(&["run"]).output().expect("start the worker");

    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("it did not return within 1s"), "{text}");
}

#[test]
fn a_backend_that_is_unavailable_at_start_is_waited_for() {
    let redis = RedisServer::start();
    let mut worker = hostile(&redis.url(), "open", "unavailable").start_unready();

    std::thread::sleep(Duration::from_secs(2));

    assert!(worker.is_running());
    assert_eq!(worker.http().get("/livez").status, 200);
    assert_eq!(worker.http().get("/readyz").status, 503);
    assert!(worker.http().get("/health").body.contains("hostile in `open`"));
}

#[test]
fn a_panic_in_check_is_told() {
    let (status, text) = check(&hostile("redis://127.0.0.1:1", "check", "panic"));

    assert_eq!(status, 2, "{text}");
    assert!(text.contains("panicked: hostile in `check`"), "{text}");
}

#[test]
fn a_plugin_logs_into_the_log_of_the_worker_under_its_instance() {
    let redis = RedisServer::start();
    let worker = hostile(&redis.url(), "get", "behave").start();

    let entry = worker.told("hostile plugin opens");

    assert_eq!(entry["backend"], "main");
    assert_eq!(entry["level"], "info");
}
