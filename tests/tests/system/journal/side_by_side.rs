//! Two workers side by side over one database, each with a journal of its own: one of them is killed again and again.

use std::time::Duration;

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::load::Load;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{assert_no_event_twice, entries};
use crate::SOON;
use crate::shutdown::assert_stored;

fn setup(redis: &RedisServer, server: &PostgresServer) -> Setup {
    Setup::new(&redis.url(), "postgres")
        .set("backends.main.options.url", server.url())
        .set("backends.main.options.durability", "durable")
        .set("redis.reconnect_max", "500ms")
}

/// So many kills, and the time between two; `make soak` has 12, one every 5 s.
fn kills() -> (u64, Duration) {
    match std::env::var_os("OUTAGE_SECONDS") {
        Some(_) => (12, Duration::from_secs(5)),
        None => (4, Duration::from_millis(500)),
    }
}

#[test]
fn nothing_that_is_published_is_missing_while_one_of_two_workers_is_killed_again_and_again() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let setups = [setup(&redis, &server), setup(&redis, &server)];
    let mut workers = setups.each_ref().map(|setup| Some(setup.start()));
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 77, 1000);
    let (kills, every) = kills();

    for kill in 0..kills {
        std::thread::sleep(every);
        // Both listen: what the one that stays has heard since, it keeps.
        let published = load.handed_on();
        eventually(SOON, "both to keep up", || published.is_subset(&confirmations.events()));
        let victim = usize::try_from(kill % 2).expect("0 or 1");
        workers[victim].take().expect("it runs").kill();
        workers[victim] = Some(setups[victim].start());
    }

    let attempts = load.attempts();
    eventually(SOON, "some more load", || load.attempts() > attempts + 200);
    let published = load.stop();
    assert_eq!(published.len() as u64, load.attempts(), "somebody listened all the time");
    eventually(SOON, "everything to be confirmed", || published.is_subset(&confirmations.events()));
    for worker in workers.iter().flatten() {
        eventually(SOON, "its journal to be empty", || entries(worker) == 0);
    }
    let worker = workers[0].as_ref().expect("it runs");
    assert_stored(worker, &published);
    assert_no_event_twice(worker, &published);
    assert!(setups.iter().all(|setup| setup.dead_letters().is_empty()));
}
