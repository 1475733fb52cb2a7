//! Workers and Redis are killed, stopped and started again under load: nothing is lost, and nothing becomes a dead letter.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;

use super::{GROUP, STREAM, assert_all_stored, setup, wait_until_settled};
use crate::SOON;

const KILLS: usize = 12;
/// Sets of events that are added before each kill.
const SETS: usize = 150;

fn sets(generator: &mut Generator, count: usize) -> Vec<Sent> {
    (0..count).flat_map(|_| generator.any_set()).collect()
}

#[test]
fn a_worker_that_is_killed_again_and_again_stores_every_entry() {
    let redis = RedisServer::start();
    // More kills than that: what was in hand each time is tried alone in the end, and is no dead letter for it.
    let setup = setup(&redis, "file", "a").set("source.streams.alone_after", 2);
    let mut stream = Stream::new(&redis, STREAM);
    let mut generator = Generator::new(11);
    let mut random = fastrand::Rng::with_seed(11);
    let mut events: Vec<Sent> = Vec::new();
    let confirmations = Confirmations::listen(&redis);

    for _ in 0..KILLS {
        let before = confirmations.count();
        let worker = setup.start_unready();
        let added = sets(&mut generator, SETS);
        stream.add(&added);
        events.extend(added);
        eventually(SOON, "the worker to be at work", || confirmations.count() > before);
        std::thread::sleep(Duration::from_millis(random.u64(0..60)));
        worker.kill();
    }

    let worker = setup.start();
    wait_until_settled(&mut stream);
    assert_all_stored(&worker, &events);
    assert!(setup.dead_letters().is_empty());
    assert_eq!(stream.len(), events.len() as u64);
}

#[test]
fn what_a_dead_worker_had_pending_is_stored_by_the_others() {
    let redis = RedisServer::start();
    let setups = ["a", "b", "c"].map(|name| setup(&redis, "memory", name));
    let mut workers = setups.each_ref().map(|setup| Some(setup.start()));
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);
    let mut generator = Generator::new(12);
    let mut events = sets(&mut generator, 600);
    stream.add(&events);
    eventually(SOON, "the workers to be at work", || confirmations.count() > 100);

    let log = workers[0].take().expect("it was started").kill();
    // The others may have nothing of it to take over by chance, so it dies with some more.
    for worker in workers.iter().flatten() {
        worker.signal(Signal::STOP);
    }
    let more = sets(&mut generator, 100);
    stream.add(&more);
    // A few only: each of those that are stopped was waiting for entries, and Redis has given it some.
    stream.read_as(GROUP, "a", 20);
    let killed = Instant::now();
    for worker in workers.iter().flatten() {
        worker.signal(Signal::CONT);
    }
    events.extend(more);

    wait_until_settled(&mut stream);
    eprintln!("settled {:?} after the kill, 2 s of them the claim time", killed.elapsed());
    let confirmed = confirmations.events();
    for event in &events {
        let told = storage_worker_tests::second_model::read(&event.channel, &event.payload, 0).expect("valid");
        assert!(confirmed.contains(&(told.evaluation_id, told.event_id.clone())), "{} is lost\n{log}", told.event_id);
    }
    let claimed: usize = workers
        .iter()
        .flatten()
        .map(|worker| worker.log().all("took over entries of a consumer that is gone").len())
        .sum();
    assert!(claimed > 0);
    assert!(setups.iter().all(|setup| setup.dead_letters().is_empty()));
}

#[test]
fn a_worker_that_was_stopped_beyond_the_claim_time_goes_on() {
    let redis = RedisServer::start();
    let (one, other) = (setup(&redis, "memory", "a"), setup(&redis, "memory", "b"));
    let (stopped, _other) = (one.start(), other.start());
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);
    let mut generator = Generator::new(13);
    stream.add(&sets(&mut generator, 400));
    eventually(SOON, "the workers to be at work", || confirmations.count() > 0);

    stopped.signal(Signal::STOP);
    wait_until_settled(&mut stream);
    std::thread::sleep(Duration::from_secs(3));
    stopped.signal(Signal::CONT);

    // It alone is left to store what comes now.
    drop(_other);
    let events = sets(&mut generator, 50);
    stream.add(&events);
    wait_until_settled(&mut stream);
    assert_all_stored(&stopped, &events);
    assert!(one.dead_letters().is_empty() && other.dead_letters().is_empty());
}

#[test]
fn redis_is_killed_and_restarted_under_load_and_no_entry_is_lost() {
    let mut redis = RedisServer::start();
    let setup = setup(&redis, "file", "a");
    let worker = setup.start();
    let mut generator = Generator::new(14);
    let mut events = Vec::new();

    for _ in 0..3 {
        let mut stream = Stream::new(&redis, STREAM);
        redis::cmd("CONFIG").arg(&["SET", "appendfsync", "always"]).exec(&mut redis.connect()).expect("set");
        let added = sets(&mut generator, 300);
        let before = stream.len();
        stream.add(&added);
        assert_eq!(stream.len(), before + added.len() as u64);
        events.extend(added);
        redis.kill();
        eventually(SOON, "the worker to notice", || worker.http().get("/health").status == 503);
        redis.restart();
        eventually(SOON, "the worker to be well again", || worker.http().get("/health").status == 200);
    }

    let mut stream = Stream::new(&redis, STREAM);
    wait_until_settled(&mut stream);
    assert_all_stored(&worker, &events);
    assert!(setup.dead_letters().is_empty());
}

#[test]
fn a_drain_acknowledges_what_it_has_stored_and_leaves_the_rest_in_the_stream() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "file", "a");
    let mut stream = Stream::new(&redis, STREAM);
    let mut generator = Generator::new(15);
    let mut events = Vec::new();

    for _ in 0..3 {
        let confirmations = Confirmations::listen(&redis);
        let worker = setup.start();
        let added = sets(&mut generator, 1000);
        stream.add(&added);
        events.extend(added);
        eventually(SOON, "the worker to be at work", || confirmations.count() > 0);

        let (status, log) = worker.terminate(SOON);

        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(stream.pending(GROUP), 0);
        assert_eq!(stream.consumers(GROUP), ["a"], "its run is out of the group");
    }
    let worker = setup.start();
    wait_until_settled(&mut stream);
    assert_all_stored(&worker, &events);
    assert!(setup.dead_letters().is_empty());
}
