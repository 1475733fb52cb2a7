//! Confirmations, and what happens to them while Redis is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use storage_plugin_api::Error;
use storage_worker::worker::Served;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;

use crate::fixture::{Fixture, SOON, config};
use crate::scripted::Scripted;

#[test]
fn every_delivery_is_confirmed_with_what_the_merge_did() {
    let fixture = Fixture::start(&config(), Arc::new(Scripted::healthy()));
    let mut publisher = Publisher::new(&fixture.redis);

    fixture.publish(&[("a", "1")]);
    fixture.confirmations.wait_for(1, SOON);
    let completed = serde_json::json!({"eval_id": "a", "event_id": "2", "output": "42"});
    publisher.publish(&[Sent::new("evaluation:completed", &completed)]);
    fixture.confirmations.wait_for(2, SOON);
    fixture.publish(&[("a", "1")]);

    let confirmations = fixture.confirmations.wait_for(3, SOON);
    let told: Vec<[&str; 4]> = (confirmations.iter())
        .map(|one| [one.channel.as_str(), one.text("event_id"), one.text("status"), one.text("result")])
        .collect();
    let (created, updated) = ("storage:evaluation:created", "storage:evaluation:updated");
    assert_eq!(
        told,
        [
            [created, "1", "queued", "created"],
            [updated, "2", "completed", "updated"],
            [created, "1", "completed", "repeated"],
        ]
    );
    let first = &confirmations[0];
    assert_eq!((first.text("durability"), first.text("backend")), ("volatile", "main"));
    assert_eq!(first.body["generation"], 1);
}

/// Repeats used to be counted together with what was new.
#[test]
fn events_are_counted_by_what_the_merge_did() {
    let fixture = Fixture::start(&config(), Arc::new(Scripted::healthy()));

    fixture.publish(&[("a", "1"), ("b", "1"), ("c", "1")]);
    fixture.confirmations.wait_for(3, SOON);
    fixture.publish(&[("a", "1"), ("b", "1")]);
    fixture.confirmations.wait_for(5, SOON);
    fixture.publish(&[("a", "2")]);
    fixture.confirmations.wait_for(6, SOON);

    let text = fixture.metrics.encode();
    for (result, events) in [("created", 3), ("updated", 1), ("repeated", 2), ("accepted", 0)] {
        let line = format!("storage_worker_events_processed_total{{result=\"{result}\"}} {events}");
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
}

#[test]
fn confirmations_are_kept_in_order_while_redis_is_away() {
    let waits = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&waits);
    let backend =
        Scripted::healthy().with_calls(move |_| still.load(Ordering::SeqCst).then(|| Error::unavailable("not yet")));
    let backend = Arc::new(backend);
    let mut fixture = Fixture::start(&config(), backend.clone());
    let ids: Vec<String> = (0..1000).map(|number| format!("e-{number:04}")).collect();
    fixture.publish(&ids.iter().map(|id| (id.as_str(), "1")).collect::<Vec<_>>());
    eventually(SOON, "all to be taken", || fixture.worker.status().queue_events == 1000);

    fixture.redis.kill();
    waits.store(false, Ordering::SeqCst);
    eventually(SOON, "all to be persisted", || backend.ids().len() == 1000);
    eventually(SOON, "all to be kept", || fixture.worker.status().confirmations_waiting == 1000);
    assert!(!fixture.worker.status().is_redis_connected());
    // The listener must be back before the worker is: what it does not hear is no fault of the worker.
    let subscriptions = fixture.confirmations.subscriptions();
    fixture.redis.restart();
    fixture.confirmations.wait_for_subscription(subscriptions + 1);

    eventually(SOON, "all to be published", || fixture.worker.status().confirmations_waiting == 0);
    let confirmations = fixture.confirmations.received();
    let order: Vec<&str> = confirmations.iter().map(|one| one.text("eval_id")).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(fixture.worker.status().confirmations, 1000);
    fixture.wait_for_subscription();
    fixture.publish(&[("after", "1")]);
    eventually(SOON, "the next event to be confirmed", || backend.ids().len() == 1001);
    let source = &fixture.worker.status().sources[0].status;
    assert_eq!(source.connections, 2);
    assert!(source.disconnected > Duration::ZERO);
}

/// A server that answers nothing, though its connections stand, used to be waited for until TCP gave up.
#[test]
fn a_redis_that_hangs_is_noticed_and_left() {
    let fixture = Fixture::start(&config(), Arc::new(Scripted::healthy()));

    fixture.redis.pause();
    let noticed = || !fixture.worker.status().sources[0].status.connected;
    eventually(Duration::from_secs(20), "the dead subscription to be noticed", noticed);
    fixture.redis.resume();

    fixture.wait_for_subscription();
    eventually(SOON, "an event to be confirmed", || {
        fixture.publish(&[("a", "1")]);
        fixture.confirmations.count() > 0
    });
}

#[test]
fn a_backend_is_replaced_between_two_calls() {
    let (first, second) = (Arc::new(Scripted::healthy()), Arc::new(Scripted::healthy()));
    let fixture = Fixture::start(&config(), first.clone());
    fixture.publish(&[("a", "1")]);
    fixture.confirmations.wait_for(1, SOON);

    let before = fixture.worker.replace(Served {
        backend: second.clone(),
        name: "new".into(),
        generation: 2,
        call_timeout: SOON,
    });
    fixture.publish(&[("b", "1")]);

    let confirmations = fixture.confirmations.wait_for(2, SOON);
    assert_eq!(confirmations[1].text("backend"), "new");
    assert_eq!(confirmations[1].body["generation"], 2);
    assert_eq!((first.ids(), second.ids()), (vec!["a".to_owned()], vec!["b".to_owned()]));
    assert_eq!(before.generation, 1);
    eventually(SOON, "the lanes to let go of the backend before", || Arc::strong_count(&before) == 1);
}
