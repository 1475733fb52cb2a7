//! Two models that share no code agree on what is stored: ours, in process and through the real binary, and the one in
//! `second_model.rs`, on generated sets of events that come in any order and more than once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use storage_plugin_api::{EventStamp, Record, State, Status};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::outside::c_example_setup;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Expected, Sent, Told, canonical, expect_one, expected, read};
use storage_worker_tests::worker::{Setup, Worker};

use crate::sqlite;

pub(crate) const SETS: usize = 10_000;
/// Sets whose events are mixed with each other; events of all of them wait in the worker at once.
pub(crate) const SETS_AT_ONCE: usize = 1000;

#[test]
fn both_models_agree_in_process() {
    let mut generator = Generator::new(2025);
    for _ in 0..SETS {
        let events = generator.any_set();
        let mixed = generator.shuffle_and_repeat(&events);
        let told: Vec<Told> = events
            .iter()
            .map(|sent| read(&sent.channel, &sent.payload, 0).expect("generated events are valid"))
            .collect();
        let id = told[0].evaluation_id.clone();

        let (left, right) = mixed.split_at(mixed.len() / 2);
        let mut state = join(left);
        state.merge(&join(right));

        let record = Record::of(&id, &state);
        let history = serde_json::to_value(&record.history).expect("a history is JSON");
        let record = serde_json::to_value(&record).expect("a record is JSON");
        let model = expect_one(&id, told);
        assert_eq!(record, model.record, "{mixed:#?}");
        assert_eq!(history, Value::Array(model.history), "{mixed:#?}");
        assert_eq!(state.to_canonical_json(), join(&events).to_canonical_json(), "{mixed:#?}");
    }
}

/// The state of some messages, each read by the second model and told to ours.
fn join(messages: &[Sent]) -> State {
    let mut state = State::new();
    for message in messages {
        state.merge(&tell(&read(&message.channel, &message.payload, 0).expect("generated events are valid")));
    }
    state
}

fn tell(told: &Told) -> State {
    let stamp = EventStamp::new(told.time, told.event_id.as_str());
    let status = Status::parse(&told.status).expect("one of the seven");
    let mut state = State::new();
    state.set_created(&stamp);
    if status.is_terminal() {
        state.set_end(&stamp, status);
    } else {
        state.set_open(&stamp, status);
        state.set_stage_at(&stamp, status);
    }
    for (name, value) in &told.fields {
        let text = value.as_str().expect("fields are texts");
        if name == "code" { state.set_text(&stamp, name, text) } else { state.set_string(&stamp, name, text) }
    }
    for (name, value) in &told.outcome {
        let name = format!("{status}/{name}");
        match value {
            Value::String(text) => state.set_text(&stamp, &name, text.as_str()),
            number => state.set_number(&stamp, &name, number.as_i64().expect("an outcome is a text or a number")),
        }
    }
    for (key, value) in &told.metadata {
        state.set_metadata(&stamp, key, canonical(value));
    }
    let (kind, message) = match status {
        Status::Submitted => ("submitted", "Evaluation submitted".to_owned()),
        other => ("status_changed", format!("Status changed to {other}")),
    };
    state.set_history(&stamp, kind, status, &message);
    state
}

#[test]
fn the_worker_agrees_with_the_second_model_in_memory() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory").set("backends.main.options.max_bytes", "1GiB");

    let (worker, _) = store_generated_sets(&redis, &setup, 1);

    worker.terminate(Duration::from_secs(30));
}

#[test]
fn the_worker_agrees_with_the_second_model_in_files() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "file");

    let (worker, model) = store_generated_sets(&redis, &setup, 2);

    // What is on the disk afterwards is the same, and so is what another worker makes of it.
    worker.terminate(Duration::from_secs(60));
    for (id, expected) in &model {
        let file = std::fs::read(setup.path(&format!("data/evaluations/{id}.json"))).expect("a record has a file");
        let file: Value = serde_json::from_slice(&file).expect("a record's file is JSON");
        let record = expected.record.as_object().expect("a record is an object");
        let stored: serde_json::Map<String, Value> =
            record.keys().map(|key| (key.clone(), file[key].clone())).collect();
        assert_eq!(&stored, record, "file of {id}");
        let events = std::fs::read(setup.path(&format!("data/events/{id}.json"))).expect("a history has a file");
        let events: Vec<Value> = serde_json::from_slice(&events).expect("a history's file is a list");
        assert_eq!(events.len(), expected.history.len(), "history file of {id}");
    }
    let worker = setup.start();
    for (id, expected) in model.iter().step_by(10) {
        compare(&worker, id, expected);
    }
}

#[test]
fn the_worker_agrees_with_the_second_model_in_a_plugin_in_c() {
    let redis = RedisServer::start();
    agrees_also_after_a_restart(&redis, &c_example_setup(&redis.url()), 3);
}

#[test]
fn the_worker_agrees_with_the_second_model_in_sqlite() {
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    agrees_also_after_a_restart(&redis, &sqlite::by_path(&redis, built.path()), 4);
}

fn agrees_also_after_a_restart(redis: &RedisServer, setup: &Setup, seed: u64) {
    let (worker, model) = store_generated_sets(redis, setup, seed);

    worker.terminate(Duration::from_secs(60));
    let worker = setup.start();
    for (id, expected) in model.iter().step_by(10) {
        compare(&worker, id, expected);
    }
}

/// Publishes the sets, shuffled and repeated, and compares each evaluation's record and history with the second model.
pub(crate) fn store_generated_sets(
    redis: &RedisServer,
    setup: &Setup,
    seed: u64,
) -> (Worker, BTreeMap<String, Expected>) {
    store_sets(redis, setup, seed, SETS)
}

/// The same with so many sets, a multiple of those that are mixed.
pub(crate) fn store_sets(
    redis: &RedisServer,
    setup: &Setup,
    seed: u64,
    sets: usize,
) -> (Worker, BTreeMap<String, Expected>) {
    let worker = setup.start();
    let confirmations = Confirmations::listen(redis);
    let mut publisher = Publisher::new(redis);
    let mut generator = Generator::new(seed);
    let mut model = BTreeMap::new();
    for _ in 0..sets / SETS_AT_ONCE {
        let events: Vec<Sent> = (0..SETS_AT_ONCE).flat_map(|_| generator.any_set()).collect();
        let mixed = generator.shuffle_and_repeat(&events);

        publisher.publish(&mixed);

        confirmations.wait_for(mixed.len(), Duration::from_secs(120));
        confirmations.take();
        for (id, expected) in expected(&events, 0) {
            compare(&worker, &id, &expected);
            model.insert(id, expected);
        }
    }
    assert_eq!(model.len(), sets);
    assert!(setup.dead_letters().is_empty());
    (worker, model)
}

#[track_caller]
pub(crate) fn compare(worker: &Worker, id: &str, expected: &Expected) {
    assert_eq!(worker.record(id).as_ref(), Some(&expected.record), "record of {id}");
    assert_eq!(worker.history(id), expected.history, "history of {id}");
}
