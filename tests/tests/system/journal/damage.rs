//! Files of the journal that were damaged while no worker ran: all that is whole is stored, the rest is told.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{entries, give_storage_back, segments, setup, take_storage_away, wait_until_subscribed};
use crate::SOON;

const EVENTS: u32 = 60;

fn event(number: u32) -> Sent {
    let id = format!("e-{number:02}");
    Sent::new("evaluation:queued", &json!({"eval_id": id, "event_id": id, "code": "x".repeat(100)}))
}

fn ids(numbers: impl Iterator<Item = u32>) -> BTreeSet<(String, String)> {
    numbers.map(|number| (format!("e-{number:02}"), format!("e-{number:02}"))).collect()
}

/// A journal as a kill leaves it, with events that are not stored.
fn killed(redis: &RedisServer) -> Setup {
    let setup = setup(redis);
    take_storage_away(&setup);
    let worker = setup.start_unready();
    wait_until_subscribed(redis, &worker);
    Publisher::new(redis).publish(&(0..EVENTS).map(event).collect::<Vec<_>>());
    eventually(SOON, "the events to have arrived", || entries(&worker) == u64::from(EVENTS));
    worker.kill();
    give_storage_back(&setup);
    setup
}

#[test]
fn a_torn_tail_and_a_flipped_byte_cost_the_entries_that_they_hit_and_are_told() {
    let redis = RedisServer::start();
    let setup = killed(&redis);
    let segment = segments(&setup).pop().expect("there is a segment");
    let mut bytes = fs::read(&segment).expect("it is readable");
    let place = bytes.windows(4).position(|window| window == b"e-20").expect("the event is in the segment");
    bytes[place] ^= 0x01;
    bytes.truncate(bytes.len() - 40);
    fs::write(&segment, bytes).expect("it is writable");
    let confirmations = Confirmations::listen(&redis);

    let worker = setup.start();

    let lost = [20, EVENTS - 1];
    let left = (0..EVENTS).filter(|number| !lost.contains(number));
    confirmations.wait_for(usize::try_from(EVENTS).expect("few") - 2, SOON);
    assert_eq!(confirmations.events(), ids(left));
    let damaged = worker.told("the journal is damaged, about so many entries are lost; look at the disk");
    assert_eq!((&damaged["level"], &damaged["entries"]), (&json!("error"), &json!(1)), "{damaged}");
    let told = worker.log().entries();
    let torn = told.iter().find(|entry| entry["event"].as_str().is_some_and(|event| event.contains("is cut off")));
    assert_eq!(torn.expect("the torn end is told")["level"], "warn");
    eventually(SOON, "the metrics to say so", || {
        worker.http().metric("storage_worker_journal_damages_total", &[]) == 2.0
    });
    assert!(setup.dead_letters().is_empty());
    Publisher::new(&redis).publish(&lost.map(event));
    eventually(SOON, "them to be confirmed when they come again", || confirmations.events() == ids(0..EVENTS));
    eventually(SOON, "the journal to be empty", || entries(&worker) == 0);
    worker.terminate(SOON);
    let again = setup.start();
    assert_eq!(entries(&again), 0, "everything is settled");
    assert_eq!(again.http().metric("storage_worker_journal_damages_total", &[]), 0.0, "what was damaged is done with");
}

#[test]
fn without_the_file_of_what_is_settled_all_comes_again_and_changes_nothing() {
    let redis = RedisServer::start();
    let setup = killed(&redis);
    let confirmations = Confirmations::listen(&redis);
    let worker = setup.start();
    confirmations.wait_for(usize::try_from(EVENTS).expect("few"), SOON);
    let before = worker.record("e-07");
    worker.kill();
    fs::write(setup.path("journal/settled"), "no such thing").expect("it is writable");

    let worker = setup.start();

    eventually(SOON, "the journal to be empty", || entries(&worker) == 0);
    assert_eq!(worker.record("e-07"), before);
    assert_eq!(worker.history("e-07").len(), 1);
    let warned = worker.log().entries().iter().any(|entry| {
        entry["event"].as_str().is_some_and(|event| event.contains("what the journal had settled is not known"))
    });
    assert!(warned, "{}", worker.log());
}
