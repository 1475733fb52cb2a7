//! What the worker refuses, and what it holds at most.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use storage_plugin_api::Error;
use storage_worker::worker::config::Config;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;

use crate::fixture::{Fixture, SOON, config, queued};
use crate::scripted::Scripted;

#[test]
fn what_is_no_event_becomes_a_dead_letter_with_its_bytes() {
    let fixture = Fixture::start(&config(), Arc::new(Scripted::healthy()));
    let bytes = |payload: &[u8]| Sent { channel: "evaluation:queued".to_owned(), payload: payload.to_vec() };

    Publisher::new(&fixture.redis).publish(&[
        bytes(b"{\"eval_id\":"),
        bytes(b"\xff\xfe"),
        bytes(b"{\"eval_id\":\"../escape\",\"code\":\"x\"}"),
        queued("good", "1"),
    ]);

    fixture.confirmations.wait_for(1, SOON);
    let letters = fixture.wait_for_dead_letters(3);
    let told: Vec<_> =
        letters.iter().map(|one| (one["reason"].clone(), one["payload"].clone(), one["attempts"].clone())).collect();
    assert_eq!(
        told,
        [
            (json!("invalid_json"), json!("{\"eval_id\":"), json!(0)),
            (json!("invalid_utf8"), json!(null), json!(0)),
            (json!("invalid_id"), json!("{\"eval_id\":\"../escape\",\"code\":\"x\"}"), json!(0)),
        ]
    );
    assert_eq!(letters[1]["payload_base64"], "//4=");
    assert!(letters.iter().all(|letter| letter["channel"] == "evaluation:queued"));
    // A letter is counted before its place in the queue is free.
    eventually(SOON, "nothing to be held", || fixture.worker.status().queue_events == 0);
    let status = fixture.worker.status();
    assert_eq!((status.events_rejected, status.events_processed), (3, 1));
    assert_eq!(fixture.confirmations.count(), 1);
}

#[test]
fn a_dead_letter_is_held_while_the_disk_is_full() {
    let prepare = |path: &Path| symlink("/dev/full", path).expect("link to /dev/full");
    let fixture = Fixture::start_prepared(&config(), Arc::new(Scripted::healthy()), prepare);
    let letter = Sent { channel: "evaluation:queued".to_owned(), payload: b"{".to_vec() };

    Publisher::new(&fixture.redis).publish(&[letter, queued("good", "1")]);
    fixture.confirmations.wait_for(1, SOON);
    std::thread::sleep(Duration::from_millis(200));
    let status = fixture.worker.status();
    assert_eq!((status.events_rejected, status.dead_letters, status.queue_events), (1, 0, 1));
    std::fs::remove_file(fixture.dead_letters_path()).expect("remove the link");

    assert_eq!(fixture.wait_for_dead_letters(1).len(), 1);
    eventually(SOON, "nothing to be held", || fixture.worker.status().queue_events == 0);
}

/// The lanes hold what a backend does not take, so the source is not read and memory stays bounded.
#[test]
fn a_backend_that_is_away_stops_the_reading_of_the_source() {
    const EVENTS: usize = 4000;
    let waits = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&waits);
    let backend =
        Scripted::healthy().with_calls(move |_| still.load(Ordering::SeqCst).then(|| Error::unavailable("not yet")));
    let backend = Arc::new(backend);
    let config = Config { queue_events: 1000, queue_bytes: 4 << 20, lanes: 2, ..config() };
    let fixture = Fixture::start(&config, backend.clone());
    let output = "x".repeat(20_000);
    let event = |number: usize| {
        let payload = json!({"eval_id": format!("e-{number}"), "event_id": "1", "output": output});
        Sent::new("evaluation:completed", &payload)
    };

    let events: Vec<Sent> = (0..EVENTS).map(event).collect();
    Publisher::new(&fixture.redis).publish(&events);
    std::thread::sleep(Duration::from_millis(500));

    let status = fixture.worker.status();
    assert!(status.queue_bytes <= 4 << 20, "{}", status.queue_bytes);
    assert!((50..150).contains(&status.queue_events), "{}", status.queue_events);
    assert!(status.sources[0].status.received < EVENTS as u64 / 2, "{}", status.sources[0].status.received);
    waits.store(false, Ordering::SeqCst);
    fixture.confirmations.wait_for(EVENTS, Duration::from_secs(30));
    assert_eq!(backend.ids().len(), EVENTS);
}
