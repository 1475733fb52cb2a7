//! `kill -9` while files are written: no torn file, and nothing confirmed is lost.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::load::Load;
use storage_worker_tests::outside::c_example_setup;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use crate::SOON;
use crate::shutdown::assert_stored;

const KILLS: u64 = 50;
/// Of the plugin in C, whose tests of its own tear every byte of a write.
const KILLS_IN_C: u64 = 10;

#[test]
fn nothing_confirmed_is_lost_and_no_file_is_torn_when_the_worker_is_killed() {
    let redis = RedisServer::start();
    let starts = kill(&redis, &Setup::new(&redis.url(), "file"), KILLS);

    let (median, slowest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    eprintln!("from start to confirmation: median {median:?}, slowest {slowest:?}");
}

#[test]
fn nothing_confirmed_is_lost_by_a_plugin_in_c_when_the_worker_is_killed() {
    let redis = RedisServer::start();
    let setup = c_example_setup(&redis.url());

    kill(&redis, &setup, KILLS_IN_C);
}

/// Kills a worker under load, again and again, and then looks for everything that was confirmed. Gives how long the
/// starts took, sorted.
fn kill(redis: &RedisServer, setup: &Setup, kills: u64) -> Vec<Duration> {
    let confirmations = Confirmations::listen(redis);
    let mut random = fastrand::Rng::with_seed(50);
    let mut confirmed: BTreeSet<(String, String)> = BTreeSet::new();
    let mut starts = Vec::new();

    for kill in 0..kills {
        let start = Instant::now();
        let worker = setup.start_unready();
        let first = probe_until_confirmed(redis, &confirmations, kill);
        starts.push(start.elapsed());
        let mut load = Load::start(redis, kill, 4000);
        eventually(SOON, "confirmations under load", || confirmations.count() > first + 100);
        std::thread::sleep(Duration::from_millis(random.u64(0..100)));

        let log = worker.kill();

        load.stop();
        let errors: Vec<Value> = log.entries().into_iter().filter(|entry| entry["level"] == "error").collect();
        assert!(errors.is_empty(), "kill {kill}: {errors:?}");
        for directory in ["evaluations", "events"] {
            assert_no_torn_file(&setup.path(&format!("data/{directory}")));
        }
        let of_this_life: BTreeSet<_> = confirmations.take().iter().map(|found| found.about()).collect();
        assert!(of_this_life.len() > 100, "kill {kill}: {} confirmations", of_this_life.len());
        confirmed.extend(of_this_life);
    }

    assert_stored(&setup.start(), &confirmed);
    starts.sort_unstable();
    starts
}

/// Publishes an event again and again until it is confirmed; gives the number of confirmations so far.
pub(crate) fn probe_until_confirmed(redis: &RedisServer, confirmations: &Confirmations, kill: u64) -> usize {
    let mut publisher = Publisher::new(redis);
    let at = "2025-01-01T00:00:00Z";
    let probe = json!({"eval_id": format!("probe-{kill}"), "code": "x", "event_id": "probe", "timestamp": at});
    let probe = Sent::new("evaluation:queued", &probe);
    // Redis may for a moment hand it to the one that was killed before.
    eventually(SOON, "the worker to confirm", || {
        let _ = publisher.try_publish(&probe);
        confirmations.count() > 0
    });
    confirmations.count()
}

/// Every file under its final name is whole JSON.
fn assert_no_torn_file(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("read the directory").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let bytes = std::fs::read(&path).expect("read the file");
            let whole = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes);
            assert!(whole.is_ok(), "`{}` is torn: {} bytes", path.display(), bytes.len());
        }
    }
}
