//! What the worker does with what a backend does not take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use storage_plugin_api::Error;
use storage_worker_tests::wait::eventually;

use crate::fixture::{Fixture, SOON, config};
use crate::scripted::Scripted;

/// Fails so many times, then no more.
fn at_first(times: usize, error: impl Fn() -> Error + Send + Sync + 'static) -> impl Fn() -> Option<Error> {
    let count = AtomicUsize::new(0);
    move || (count.fetch_add(1, Ordering::SeqCst) < times).then(&error)
}

#[test]
fn what_may_pass_is_tried_again_until_it_does() {
    for error in [Error::unavailable("gone"), Error::overloaded("busy"), Error::configuration("no such table")] {
        let fails = at_first(5, move || error.clone());
        let backend = Arc::new(Scripted::healthy().with_calls(move |_| fails()));
        let fixture = Fixture::start(&config(), backend.clone());

        fixture.publish(&[("a", "1")]);

        assert_eq!(fixture.confirmed(1), [("1".to_owned(), "created".to_owned())]);
        assert_eq!(backend.calls().len(), 6);
        assert!(fixture.dead_letters().is_empty());
    }
}

#[test]
fn only_the_items_that_failed_are_tried_again() {
    let fails = at_first(2, || Error::unavailable("gone"));
    let gate = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&gate);
    let backend = Scripted::healthy()
        .with_calls(move |_| (!closed.load(Ordering::SeqCst)).then(|| Error::unavailable("not yet")))
        .with_items(move |item| if item.id() == "b" { fails() } else { None });
    let backend = Arc::new(backend);
    let fixture = Fixture::start(&config(), backend.clone());
    fixture.publish(&[("warm", "0")]);
    eventually(SOON, "the lane to be busy", || !fixture.worker.status().retrying_lanes.is_empty());

    fixture.publish(&[("a", "1"), ("b", "2"), ("c", "3")]);
    eventually(SOON, "all to wait", || fixture.worker.status().queue_events == 4);
    gate.store(true, Ordering::SeqCst);

    fixture.confirmations.wait_for(4, SOON);
    let calls = backend.calls();
    let later = &calls[calls.iter().position(|call| call.contains(&"a".to_owned())).expect("a was merged")..];
    assert_eq!(later, [vec!["a", "b", "c"], vec!["b"], vec!["b"]]);
}

#[test]
fn a_hint_to_wait_is_honoured() {
    let fails = at_first(1, || Error::overloaded("busy").with_retry_after(Duration::from_millis(400)));
    let fixture = Fixture::start(&config(), Arc::new(Scripted::healthy().with_calls(move |_| fails())));
    let start = Instant::now();

    fixture.publish(&[("a", "1")]);

    fixture.confirmations.wait_for(1, SOON);
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

#[test]
fn of_a_refused_joined_item_only_the_guilty_event_becomes_a_dead_letter() {
    let busy = Arc::new(AtomicBool::new(true));
    let is_busy = Arc::clone(&busy);
    let backend = Scripted::healthy()
        .with_calls(move |_| is_busy.load(Ordering::SeqCst).then(|| Error::unavailable("not yet")))
        .with_items(|item| {
            let guilty = item.registers().iter().any(|register| register.event_id() == "bad");
            guilty.then(|| Error::invalid_item("the text has a character that this store cannot keep"))
        });
    let fixture = Fixture::start(&config(), Arc::new(backend));
    fixture.publish(&[("warm", "0")]);
    eventually(SOON, "the lane to be busy", || !fixture.worker.status().retrying_lanes.is_empty());

    fixture.publish(&[("a", "good-1"), ("a", "bad"), ("a", "good-2")]);
    eventually(SOON, "all to wait", || fixture.worker.status().queue_events == 4);
    busy.store(false, Ordering::SeqCst);

    let mut confirmed: Vec<String> = fixture.confirmed(3).into_iter().map(|(event, _)| event).collect();
    confirmed.sort();
    assert_eq!(confirmed, ["0", "good-1", "good-2"]);
    let letters = fixture.wait_for_dead_letters(1);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], "invalid_item");
    assert_eq!(letters[0]["error"], "the text has a character that this store cannot keep");
    assert_eq!(letters[0]["attempts"], 2);
    assert_eq!(letters[0]["generation"], 1);
    assert!(letters[0]["payload"].as_str().expect("the payload is text").contains("\"bad\""));
    let status = fixture.worker.status();
    assert_eq!((status.events_processed, status.queue_events), (3, 0));
}

#[test]
fn a_poisonous_event_is_given_up_while_its_neighbours_pass() {
    let backend = Scripted::healthy()
        .with_calls(|batch| batch.iter().any(|item| item.id() == "poison").then(|| Error::internal("it panicked")));
    let fixture = Fixture::start(&config(), Arc::new(backend));

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                fixture.publish(&[(&format!("n-{number}"), "1")]);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        fixture.publish(&[("poison", "bad")]);
        let letters = fixture.wait_for_dead_letters(1);
        stop.store(true, Ordering::SeqCst);

        assert_eq!(letters[0]["reason"], "internal");
        assert!(letters[0]["payload"].as_str().expect("the payload is text").contains("\"poison\""));
    });
    assert!(fixture.drain(SOON).is_nothing());
    assert_eq!(fixture.dead_letters().len(), 1);
}

#[test]
fn when_everything_fails_with_internal_it_is_an_outage() {
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let backend = Scripted::healthy()
        .with_calls(move |_| is_broken.load(Ordering::SeqCst).then(|| Error::internal("it panicked")));
    let backend = Arc::new(backend);
    let fixture = Fixture::start(&config(), backend.clone());

    let ids: Vec<String> = (0..50).map(|number| format!("e-{number:02}")).collect();
    fixture.publish(&ids.iter().map(|id| (id.as_str(), "1")).collect::<Vec<_>>());
    eventually(SOON, "many attempts", || backend.calls().len() > 200);
    broken.store(false, Ordering::SeqCst);

    fixture.confirmations.wait_for(50, SOON);
    assert_eq!(backend.ids(), ids);
    assert!(fixture.dead_letters().is_empty());
}

#[test]
fn a_call_that_hangs_marks_its_lane_until_it_comes_back() {
    let hangs = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&hangs);
    let backend = Scripted::healthy().with_calls(move |_| {
        while still.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    });
    let fixture = Fixture::start(&config(), Arc::new(backend));
    assert!(fixture.worker.status().stuck_lanes.is_empty());

    fixture.publish(&[("a", "1")]);

    eventually(SOON, "the lane to be stuck", || fixture.worker.status().stuck_lanes == [0]);
    assert!(fixture.worker.status().oldest_unsettled > Some(Duration::from_millis(100)));
    hangs.store(false, Ordering::SeqCst);
    fixture.confirmations.wait_for(1, SOON);
    assert!(fixture.worker.status().stuck_lanes.is_empty());
}
