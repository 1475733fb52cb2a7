//! What is taken is finished before the worker ends, and what cannot be is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use storage_plugin_api::Error;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::wait::eventually;

use crate::fixture::{Fixture, SOON, config, queued};
use crate::scripted::Scripted;

/// Redis tells a publisher how many listeners there were: each of these events must be confirmed.
#[test]
fn a_drain_under_load_confirms_every_event_that_reached_a_subscriber() {
    let backend = Arc::new(Scripted::healthy());
    let fixture = Fixture::start(&config(), backend.clone());
    let (stop, reached) = (AtomicBool::new(false), AtomicU64::new(0));

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = Publisher::new(&fixture.redis);
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let listeners = publisher.try_publish(&queued(&format!("e-{number}"), "1")).expect("Redis is there");
                reached.fetch_add(listeners, Ordering::SeqCst);
            }
        });
        eventually(SOON, "some load", || fixture.worker.status().events_processed > 500);
        let left = fixture.drain(SOON);
        stop.store(true, Ordering::SeqCst);
        assert!(left.is_nothing(), "{left:?}");
    });

    let reached = usize::try_from(reached.load(Ordering::SeqCst)).expect("a small number");
    fixture.confirmations.wait_for(reached, SOON);
    assert_eq!(backend.ids().len(), reached);
    assert_eq!(fixture.worker.status().queue_events, 0);
}

#[test]
fn a_drain_ends_at_its_deadline_and_tells_what_is_left() {
    let backend = Scripted::healthy().with_calls(|_| Some(Error::unavailable("gone")));
    let fixture = Fixture::start(&config(), Arc::new(backend));
    fixture.publish(&[("a", "1"), ("b", "1"), ("c", "1")]);
    eventually(SOON, "all to be taken", || fixture.worker.status().queue_events == 3);

    let start = Instant::now();
    let left = fixture.drain(Duration::from_millis(300));

    assert!((Duration::from_millis(300)..Duration::from_secs(8)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!((left.deliveries, left.confirmations), (3, 0));
    assert!(fixture.worker.status().draining);
}

#[test]
fn a_worker_without_redis_drains_at_once() {
    let mut fixture = Fixture::start(&config(), Arc::new(Scripted::healthy()));
    fixture.redis.kill();
    eventually(SOON, "the loss to be noticed", || !fixture.worker.status().sources[0].status.connected);

    let start = Instant::now();
    let left = fixture.drain(SOON);

    assert!(left.is_nothing());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}
