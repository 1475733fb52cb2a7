//! Storage is away for long while events come by pub/sub and in a stream: nothing becomes a dead letter, readiness says why
//! and how long, and all of it is stored afterwards without a restart.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::load::Load;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::read;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use crate::SOON;
use crate::shutdown::assert_stored;

const STREAM: &str = "evaluation:events";
/// Events in a second, by pub/sub.
const PER_SECOND: u32 = 300;

/// How long storage is away; `make soak` has 5 min.
fn outage() -> Duration {
    let seconds = std::env::var("LONG_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

/// Adds lives to a stream until it is told to end. Gives evaluation and event of all.
fn add_lives(redis: &RedisServer, done: &AtomicBool) -> BTreeSet<(String, String)> {
    let (mut generator, mut stream, mut added) = (Generator::new(92), Stream::new(redis, STREAM), BTreeSet::new());
    // Other evaluations than those of the load.
    (0..200_000).for_each(|_| drop(generator.next_id()));
    while !done.load(Ordering::Relaxed) {
        let events = generator.lifecycle();
        stream.add(&events);
        let told = events.iter().map(|event| read(&event.channel, &event.payload, 0).expect("it is valid"));
        added.extend(told.map(|told| (told.evaluation_id, told.event_id)));
        std::thread::sleep(Duration::from_millis(20));
    }
    added
}

#[test]
fn an_outage_of_storage_makes_no_dead_letter_and_needs_no_restart() {
    let (redis, mut server) = (RedisServer::start(), PostgresServer::start_with(&[]));
    let setup = Setup::new(&redis.url(), "postgres")
        .set("backends.main.options.url", server.url())
        .set("source.streams.streams", vec![STREAM])
        .set("source.streams.block", "100ms")
        .set("worker.name", "a");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let (mut load, done) = (Load::start(&redis, 91, PER_SECOND), AtomicBool::new(false));

    let events = std::thread::scope(|scope| {
        let streaming = scope.spawn(|| add_lives(&redis, &done));
        confirmations.wait_for(200, SOON);
        server.stop_immediately();
        let began = Instant::now();
        let reasons = || worker.http().get("/readyz").json()["reasons"].to_string();
        eventually(SOON, "readiness to say why and since when", || {
            let reasons = reasons();
            reasons.contains("storage: ") && reasons.contains("(for ")
        });
        std::thread::sleep(outage().saturating_sub(began.elapsed()));
        eprintln!("after {:?}: {}", began.elapsed(), reasons());
        assert_eq!(worker.http().get("/livez").status, 200, "a restart would not help");
        server.restart();
        let gone_on = load.attempts() + 200;
        eventually(SOON, "events after the outage", || load.attempts() > gone_on);
        done.store(true, Ordering::Relaxed);
        let mut events = streaming.join().expect("it does not panic");
        events.extend(load.stop());
        events
    });

    let limit = SOON + outage() * 2;
    eventually(limit, "everything to be confirmed", || events.is_subset(&confirmations.events()));
    eventually(SOON, "everything to be acknowledged", || {
        Stream::new(&redis, STREAM).pending("storage-worker") == 0 && crate::journal::entries(&worker) == 0
    });
    eventually(SOON, "the worker to be ready", || worker.is_ready());
    assert_stored(&worker, &events);
    assert!(setup.dead_letters().is_empty(), "an outage made dead letters");
    eprintln!("{} events were stored by the worker that had seen the outage", events.len());
}
