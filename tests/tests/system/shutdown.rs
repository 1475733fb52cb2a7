//! SIGTERM: what was received is stored and confirmed before the worker ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::load::Load;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

#[test]
fn a_drain_stores_and_confirms_everything_received() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "file");

    for round in 0..3 {
        let worker = setup.start();
        let confirmations = Confirmations::listen(&redis);
        let mut load = Load::start(&redis, 100 + round, 3000);
        eventually(SOON, "the load to run", || load.handed_on().len() > 1500);

        let (status, log) = worker.terminate(Duration::from_secs(30));

        assert_eq!(status.code(), Some(0), "{log}");
        let received = load.stop();
        // They were sent before the worker ended; this listener may still have to read them.
        eventually(SOON, "every received event to be confirmed", || received.is_subset(&confirmations.events()));
        let worker = setup.start();
        assert_stored(&worker, &received);
        worker.terminate(Duration::from_secs(30));
    }
}

#[test]
fn a_second_signal_ends_the_worker_at_once() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory");
    let mut worker = setup.start();
    let _load = Load::start(&redis, 7, 1000);
    // Its confirmations cannot be published, so that a drain would wait.
    redis.pause();

    worker.signal(rustix::process::Signal::TERM);
    // Two that come before it looks are one.
    let _ = worker.told("storage_worker.stopping");
    let asked_again = Instant::now();
    if worker.is_running() {
        worker.signal(rustix::process::Signal::TERM);
    }
    worker.wait(SOON);

    // A drain takes 25 s.
    assert!(asked_again.elapsed() < Duration::from_secs(10), "it took {:?}", asked_again.elapsed());
    redis.resume();
}

#[test]
fn a_worker_without_work_ends_quickly() {
    let redis = RedisServer::start();
    let worker = Setup::new(&redis.url(), "file").start();
    let start = Instant::now();

    let (status, log) = worker.terminate(SOON);

    assert_eq!(status.code(), Some(0), "{log}");
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
}

/// Every event is in the history of its evaluation.
#[track_caller]
pub(crate) fn assert_stored(worker: &Worker, events: &BTreeSet<(String, String)>) {
    let evaluations: BTreeSet<&String> = events.iter().map(|(id, _)| id).collect();
    for id in evaluations {
        let history = worker.history(id);
        let stored: BTreeSet<&str> = history.iter().filter_map(|entry| entry["event_id"].as_str()).collect();
        for (_, event) in events.range((id.clone(), String::new())..).take_while(|(other, _)| other == id) {
            assert!(
                stored.contains(event.as_str()),
                "event {event} of {id} was confirmed and is not stored: {history:?}"
            );
        }
    }
}
