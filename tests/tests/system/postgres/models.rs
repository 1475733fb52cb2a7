//! Both models agree on what PostgreSQL holds, also where two workers listen to the same channels.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Expected, Sent, expected};

use super::setup;
use crate::models::{SETS, SETS_AT_ONCE, compare, store_generated_sets};

#[test]
fn the_worker_agrees_with_the_second_model_in_postgres() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let setup = setup(&redis, &server);

    let (worker, model) = store_generated_sets(&redis, &setup, 3);

    worker.terminate(Duration::from_secs(30));
    let lines: usize = model.values().map(|expected| expected.history.len()).sum();
    let database = server.connect();
    assert_eq!(database.number("SELECT count(*) FROM evaluations"), model.len() as i64);
    assert_eq!(database.number("SELECT count(*) FROM evaluation_events"), lines as i64);
    let worker = setup.start();
    for (id, expected) in model.iter().step_by(10) {
        compare(&worker, id, expected);
    }
}

/// Each event reaches both workers, which merge the same ids at the same time.
#[test]
fn two_workers_on_the_same_channels_leave_the_states_of_one() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let setups = [setup(&redis, &server), setup(&redis, &server)];
    let workers = [setups[0].start(), setups[1].start()];
    let confirmations = Confirmations::listen(&redis);
    let mut generator = Generator::new(4);
    let mut model: BTreeMap<String, Expected> = BTreeMap::new();
    for _ in 0..SETS / SETS_AT_ONCE {
        let events: Vec<Sent> = (0..SETS_AT_ONCE).flat_map(|_| generator.any_set()).collect();
        let mixed = generator.shuffle_and_repeat(&events);

        Publisher::new(&redis).publish(&mixed);

        confirmations.wait_for(2 * mixed.len(), Duration::from_secs(120));
        confirmations.take();
        model.extend(expected(&events, 0));
    }

    assert_eq!(model.len(), SETS);
    for (id, expected) in &model {
        compare(&workers[0], id, expected);
    }
    let lines: usize = model.values().map(|expected| expected.history.len()).sum();
    assert_eq!(server.connect().number("SELECT count(*) FROM evaluation_events"), lines as i64);
    assert!(setups.iter().all(|setup| setup.dead_letters().is_empty()));
}
