//! PostgreSQL goes away in every way that it can, under load: nothing is lost, nothing becomes a dead letter, the worker
//! goes on by itself, and its health says how it is. The ways are in the files.

mod disk;
mod failover;
mod server;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::postgres_server::Database;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected, read};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;
use crate::models::compare;

/// Messages that go by before an outage, in the midst of it, and after it.
const MESSAGES: usize = 300;
/// Sets of events that are mixed with each other, and the pause behind them.
const SETS_AT_ONCE: usize = 5;
const PAUSE: Duration = Duration::from_millis(50);
/// How long what was held up may take to be stored.
const CATCH_UP: Duration = Duration::from_secs(120);

/// A worker under a load that never ends, from which something is taken away and given back; by `url` its database is
/// found at the end.
fn survives<P, T>(mut place: P, url: &str, take_away: impl FnOnce(&mut P) -> T, give_back: impl FnOnce(&mut P, T)) {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "postgres")
        .set("backends.main.options.url", url)
        // The servers of tests do not sync, and none of them loses its power.
        .set("backends.main.options.durability", "durable")
        .set("storage.call_timeout", "2s")
        .set("storage.breaker.max_open_for", "500ms")
        .set("worker.retry_max", "500ms");
    let mut worker = setup.start();
    let confirmations = Confirmations::listen(&redis);

    let load = LoadUntilStopped::default();
    let events = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| load.publish(&redis));
        let _stop = StopAtTheEnd(&load);
        eventually(SOON, "some confirmations", || confirmations.count() >= MESSAGES);
        assert_eq!(health(&worker), 200);

        let taken = take_away(&mut place);
        eventually(CATCH_UP, "the worker's health to be red", || health(&worker) == 503);
        load.wait_for_more();
        give_back(&mut place, taken);
        eventually(CATCH_UP, "the worker's health to be green", || health(&worker) == 200);
        load.wait_for_more();

        load.stopped.store(true, Ordering::Release);
        publishing.join().expect("the load is published")
    });

    let told = events.iter().map(|sent| read(&sent.channel, &sent.payload, 0).expect("generated events are valid"));
    let told: BTreeSet<_> = told.map(|told| (told.evaluation_id, told.event_id)).collect();
    eventually(CATCH_UP, "every event to be confirmed", || confirmations.events().is_superset(&told));
    confirmations.wait_for(load.messages.load(Ordering::Acquire), CATCH_UP);
    let model = expected(&events, 0);
    for (id, expected) in &model {
        compare(&worker, id, expected);
    }
    let database = Database::connect(url).expect("the database is back");
    let lines: usize = model.values().map(|expected| expected.history.len()).sum();
    assert_eq!(database.number("SELECT count(*) FROM evaluation_events"), lines as i64);
    assert!(setup.dead_letters().is_empty());
    assert!(worker.is_running());
    assert_eq!(health(&worker), 200);
}

fn health(worker: &Worker) -> u16 {
    worker.http().get("/health").status
}

/// Sets of events, shuffled and repeated, one after the other until it is stopped.
#[derive(Debug, Default)]
struct LoadUntilStopped {
    stopped: AtomicBool,
    messages: AtomicUsize,
}

impl LoadUntilStopped {
    /// Publishes, and gives each event once.
    fn publish(&self, redis: &RedisServer) -> Vec<Sent> {
        let mut publisher = Publisher::new(redis);
        let mut generator = Generator::new(7);
        let mut all = Vec::new();
        while !self.stopped.load(Ordering::Acquire) {
            let events: Vec<Sent> = (0..SETS_AT_ONCE).flat_map(|_| generator.any_set()).collect();
            let mixed = generator.shuffle_and_repeat(&events);
            publisher.publish(&mixed);
            self.messages.fetch_add(mixed.len(), Ordering::AcqRel);
            all.extend(events);
            std::thread::sleep(PAUSE);
        }
        all
    }

    fn wait_for_more(&self) {
        let before = self.messages.load(Ordering::Acquire);
        eventually(CATCH_UP, "more messages", || self.messages.load(Ordering::Acquire) >= before + MESSAGES);
    }
}

/// Ends a load also where the test fails, whose thread is waited for.
struct StopAtTheEnd<'a>(&'a LoadUntilStopped);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}
