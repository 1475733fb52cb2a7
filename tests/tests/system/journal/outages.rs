//! Storage is away while events arrive, and the worker is killed, or ends, meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::load::Load;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use super::{assert_no_event_twice, entries, give_storage_back, setup, take_storage_away, wait_until_subscribed};
use crate::SOON;
use crate::shutdown::assert_stored;

const PER_SECOND: u32 = 2000;
/// What had arrived so long before a kill is stored.
const ARRIVED: Duration = Duration::from_millis(50);

fn queued(number: u32) -> Sent {
    let payload = json!({"eval_id": format!("e-{number}"), "code": "x", "event_id": format!("q-{number}")});
    Sent::new("evaluation:queued", &payload)
}

/// How long storage is away in each of three lives, in the long variant; `make soak` has 20 s.
fn long_outage() -> Option<Duration> {
    std::env::var("OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs)
}

fn outage() -> Duration {
    long_outage().unwrap_or(Duration::from_secs(1))
}

/// Publishes for a while. Gives what had arrived some time ago, when the worker is about to be killed.
fn load_until_kill(redis: &RedisServer, worker: &Worker, seed: u64) -> BTreeSet<(String, String)> {
    wait_until_subscribed(redis, worker);
    let before = entries(worker);
    let load = Load::start(redis, seed, PER_SECOND);
    let start = Instant::now();
    eventually(outage() + SOON, "some load", || start.elapsed() > outage() && load.handed_on().len() > 500);
    let arrived = load.handed_on();
    eprintln!(
        "{:.0} events a second arrived for {:?}",
        arrived.len() as f64 / start.elapsed().as_secs_f64(),
        start.elapsed()
    );
    std::thread::sleep(ARRIVED);
    // On a machine so busy that Redis or the worker had no turn for so long, a moment more; the long variant has none.
    if long_outage().is_none() {
        eventually(SOON, "it to have arrived", || entries(worker) >= before + arrived.len() as u64);
    }
    arrived
}

#[test]
fn what_had_arrived_is_stored_though_storage_was_away_and_the_worker_was_killed_meanwhile() {
    let redis = RedisServer::start();
    let setup = setup(&redis);
    let confirmations = Confirmations::listen(&redis);
    let mut arrived = BTreeSet::new();
    take_storage_away(&setup);

    for life in 0..3 {
        let worker = setup.start_unready();
        if life > 0 {
            let event = "the journal holds events that an earlier start did not store, they come first";
            eventually(SOON, event, || worker.log().find(event).is_some());
        }
        arrived.extend(load_until_kill(&redis, &worker, life));
        assert_eq!(confirmations.count(), 0, "nothing is confirmed that is not stored");
        if life == 2 {
            give_storage_back(&setup);
            // Killed once more while it catches up.
            eventually(SOON, "some confirmations", || confirmations.count() > 100);
        }
        worker.kill();
    }

    let worker = setup.start();
    eventually(outage() * 3 + SOON, "everything that had arrived to be confirmed", || {
        arrived.is_subset(&confirmations.events())
    });
    eventually(SOON, "the journal to be empty", || entries(&worker) == 0);
    assert_stored(&worker, &confirmations.events());
    assert_no_event_twice(&worker, &confirmations.events());
    assert!(setup.dead_letters().is_empty(), "an outage made dead letters");
    eprintln!("{} events had arrived before a kill, {} were stored", arrived.len(), confirmations.events().len());
}

#[test]
fn what_a_drain_has_no_time_for_stays_in_the_journal() {
    let redis = RedisServer::start();
    let setup = setup(&redis).set("worker.drain_timeout", "3s");
    take_storage_away(&setup);
    let worker = setup.start_unready();
    wait_until_subscribed(&redis, &worker);
    Publisher::new(&redis).publish(&(0..300).map(queued).collect::<Vec<_>>());

    let (_, log) = worker.terminate(SOON);

    let drained =
        log.find("not drained in time; what is kept by the journal or a stream comes again, the rest is lost");
    let drained = drained.unwrap_or_else(|| panic!("it says so: {log}"));
    assert_eq!((&drained["deliveries"], &drained["kept"]), (&json!(0), &json!(300)), "nothing is lost");
    let kept = log.find("the journal keeps what is not stored, the next start delivers it").expect("it says so");
    assert_eq!(kept["entries"], 300);
    give_storage_back(&setup);
    let confirmations = Confirmations::listen(&redis);
    let worker = setup.start();
    let confirmed = confirmations.wait_for(300, SOON);
    assert!(confirmed.iter().all(|confirmation| confirmation.text("result") == "created"), "each was stored once");
    assert_stored(&worker, &confirmations.events());
}

#[test]
fn in_spill_mode_what_memory_has_no_room_for_waits_on_disk() {
    let redis = RedisServer::start();
    let setup = setup(&redis).set("journal.mode", "spill").set("worker.queue_events", 100);
    let confirmations = Confirmations::listen(&redis);
    let worker = setup.start();
    Publisher::new(&redis).publish(&(0..100).map(queued).collect::<Vec<_>>());
    confirmations.wait_for(100, SOON);
    assert_eq!(super::journal(&worker, "bytes"), 0, "nothing is written while storage keeps up");
    take_storage_away(&setup);

    Publisher::new(&redis).publish(&(100..8000).map(queued).collect::<Vec<_>>());
    eventually(SOON, "some to be on disk", || entries(&worker) > 1000);
    give_storage_back(&setup);

    confirmations.wait_for(8000, SOON);
    assert_stored(&worker, &confirmations.events());
    eventually(SOON, "the journal to be empty", || entries(&worker) == 0);
}

#[test]
fn a_second_worker_is_refused_the_journal_of_the_first() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory");
    let first = setup.start();

    let second = setup.command(&["run"]).output().expect("start a second worker");

    let said = String::from_utf8_lossy(&[second.stdout, second.stderr].concat()).into_owned();
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("in use by another worker (process {})", first.id())), "{said}");
    assert!(said.contains("journal.path"), "{said}");
}

#[test]
fn explain_says_what_a_kill_loses() {
    for (mode, loses) in
        [("always", "a kill loses none of it"), ("spill", "what is in memory"), ("off", "is not stored")]
    {
        let setup = Setup::new("redis://127.0.0.1:1", "memory").set("journal.mode", mode);

        let explained = setup.command(&["explain"]).output().expect("run explain");

        let text = String::from_utf8_lossy(&explained.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with(&format!("Pub/sub: journal {mode}: ")));
        assert!(line.is_some_and(|line| line.contains(loses)), "{text}");
    }
}
