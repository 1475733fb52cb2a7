//! Of three workers one dies with entries in hand: the two others store them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use storage_worker_tests::conservation::verdict::Event;
use storage_worker_tests::conservation::{CLAIM_AFTER, GROUP, Run, STREAM};
use storage_worker_tests::second_model::read;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;

use super::{SEED, or_else, verdict};
use crate::SOON;

const WORKERS: usize = 3;

#[test]
fn what_a_dead_worker_had_pending_is_stored_by_the_others() {
    let seed = or_else("SEED", SEED);
    let mut run = Run::to_postgres(seed, WORKERS);

    let mut took: Vec<Duration> = (0..or_else("DEAD_WORKERS", 1)).map(|round| die(&mut run, round % WORKERS)).collect();

    took.sort_unstable();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "stored by the others after a median of {median:?}, {slowest:?} at most; the claim time is {CLAIM_AFTER:?}"
    );
    verdict("a dead one of three workers", seed, run).assert_conserved();
}

/// Kills a worker when it has entries in hand and cannot store them. Gives how long it took until the others had.
fn die(run: &mut Run, victim: usize) -> Duration {
    let name = Run::name_of(victim);
    let mut stream = Stream::new(run.redis(), STREAM);
    let database = run.postgres().connect();
    run.crew().look();
    database.run("BEGIN; LOCK TABLE evaluations IN ACCESS EXCLUSIVE MODE");
    run.publish(300);
    // Whoever waits for entries may be given none, so there are more until all have some.
    eventually(SOON, "every worker to have entries in hand", || {
        let all = (0..WORKERS).all(|place| !stream.pending_of(GROUP, &Run::name_of(place)).is_empty());
        if !all {
            run.publish(100);
        }
        all
    });

    run.crew().kill(victim);
    let killed = Instant::now();
    let pending: BTreeSet<Event> = stream
        .pending_of(GROUP, &name)
        .iter()
        .filter_map(|id| {
            let sent = stream.event(id);
            read(&sent.channel, &sent.payload, 0).ok().map(|told| (told.evaluation_id, told.event_id))
        })
        .collect();
    assert!(!pending.is_empty());
    database.run("COMMIT");

    eventually(SOON, "the others to have stored them", || run.missing(&pending).is_empty());
    let took = killed.elapsed();
    eventually(SOON, "the others to have settled them", || stream.pending_of(GROUP, &name).is_empty());
    // Metrics are up to date a moment later.
    eventually(SOON, "the others to count what they claimed", || {
        run.crew().look();
        run.crew().redelivered() > 0
    });
    eprintln!("  {} events of {name} were stored {took:?} after it was killed", pending.len());
    run.crew().start_again(victim);
    took
}
