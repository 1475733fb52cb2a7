//! What a replay into a named backend does with what the backend does not take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{Error, Item};
use storage_worker::event::decode::Limits;
use storage_worker::event::row::EventRows;
use storage_worker::replay::into::{Into, Refused, TakesNothing};
use storage_worker::replay::record::Record;

use crate::scripted::Scripted;

fn record(evaluation: &str, event: &str) -> Record {
    let payload = json!({"eval_id": evaluation, "error": "x", "event_id": event}).to_string().into_bytes();
    Record { channel: "evaluation:failed".to_owned(), payload, event_id: None, time: Some(7) }
}

fn merge(backend: &Scripted, records: &[Record]) -> Result<Vec<Option<Refused>>, TakesNothing> {
    let rows = EventRows::default();
    let limits = Limits { max_payload_bytes: 1 << 20 };
    Into::new(&rows, limits, backend, Duration::from_secs(5)).merge(records, 0)
}

/// Why each event was refused.
fn reasons(refused: &[Option<Refused>]) -> Vec<Option<&str>> {
    refused.iter().map(|refused| refused.as_ref().map(|refused| refused.reason.as_str())).collect()
}

fn is_of(item: &Item<'_>, event: &str) -> bool {
    item.registers().iter().any(|register| register.event_id() == event)
}

/// An error of the whole call used to be held against every event in it.
#[test]
fn one_bad_event_that_fails_the_whole_call_is_refused_and_its_neighbours_are_merged() {
    for (error, reason) in
        [(Error::invalid_item("no such thing"), "invalid_item"), (Error::internal("it panicked"), "internal")]
    {
        let backend = Scripted::healthy()
            .with_calls(move |batch| batch.iter().any(|item| is_of(item, "bad")).then(|| error.clone()));
        let events = [("a", "1"), ("b", "2"), ("c", "bad"), ("c", "4"), ("d", "5")];

        let refused = merge(&backend, &events.map(|(evaluation, event)| record(evaluation, event)));

        let refused = refused.expect("the backend works");
        assert_eq!(reasons(&refused), [None, None, Some(reason), None, None]);
        assert_eq!(backend.ids(), ["a", "b", "c", "d"]);
    }
}

/// Events that were joined used to be refused together.
#[test]
fn of_a_refused_joined_item_only_the_guilty_event_is_refused() {
    for error in [Error::invalid_item("no"), Error::internal("it panicked")] {
        let backend = Scripted::healthy().with_items(move |item| is_of(item, "bad").then(|| error.clone()));

        let refused = merge(&backend, &["1", "bad", "3"].map(|event| record("a", event))).expect("the backend works");

        assert_eq!(refused.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(backend.ids(), ["a"]);
    }
}

/// The last event that is left has no neighbours that could pass beside it.
#[test]
fn an_event_that_is_left_alone_is_judged_by_one_that_was_taken_before() {
    let rows = EventRows::default();
    let backend = Scripted::healthy()
        .with_calls(|batch| batch.iter().any(|item| is_of(item, "bad")).then(|| Error::internal("it panicked")));
    let into = Into::new(&rows, Limits { max_payload_bytes: 1 << 20 }, &backend, Duration::from_secs(5));

    let taken = into.merge(&[record("a", "1")], 0).expect("the backend works");
    let refused = into.merge(&[record("b", "bad")], 0).expect("the backend works");

    assert_eq!((reasons(&taken), reasons(&refused)), (vec![None], vec![Some("internal")]));
}

/// Every event used to be given up after three tries.
#[test]
fn a_backend_that_fails_whatever_it_is_given_costs_no_event() {
    let calls = AtomicUsize::new(0);
    let backend = Scripted::healthy()
        .with_calls(move |_| (calls.fetch_add(1, Ordering::SeqCst) < 20).then(|| Error::internal("it panicked")));
    let events: Vec<Record> = (0..40).map(|number| record(&format!("e-{number}"), "1")).collect();

    let refused = merge(&backend, &events).expect("it works again after some calls");

    assert_eq!((refused.iter().flatten().count(), backend.ids().len()), (0, 40));
    let broken = Scripted::healthy().with_calls(|_| Some(Error::internal("it panicked")));
    let error = merge(&broken, &events[..2]).expect_err("it never works");
    assert!(error.to_string().contains("takes nothing") && error.to_string().contains("it panicked"), "{error}");
}
