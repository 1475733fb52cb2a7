//! Conservation through every fault that there is: nothing missing, wrong, made up, stored twice or confirmed in vain.
//!
//! `EVENTS`, `FAULTS_EACH`, `HONESTY_KILLS` and `DEAD_WORKERS` make the long variants, `SEED` another schedule and other
//! events; `make soak` has them. The same seed makes the same run, but for what the machine adds.

mod dead_worker;
mod spoiled;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use storage_worker_tests::conservation::Run;
use storage_worker_tests::conservation::faults::{Fault, schedule};
use storage_worker_tests::conservation::verdict::Verdict;

const SEED: u64 = 20_250_101;

/// A number from the environment, or else one that keeps the test short.
fn or_else<T: FromStr>(name: &str, short: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

#[test]
fn streams_to_postgres_by_two_workers_conserve_events_through_every_fault() {
    let seed = or_else("SEED", SEED);
    let kinds = [Fault::KillWorker, Fault::StopWorker, Fault::KillRedis, Fault::CutClients, Fault::StopPostgres];

    let run = go_through(Run::to_postgres(seed, 2), seed, &kinds);

    verdict("streams to postgres by two workers", seed, run).assert_conserved();
}

#[test]
fn streams_to_files_conserve_events_through_every_fault() {
    let seed = or_else("SEED", SEED);
    let mut kinds = vec![Fault::KillWorker, Fault::StopWorker, Fault::KillRedis, Fault::CutClients];
    // An evaluation has two files, of at least a page each.
    let run = Run::to_files(seed, (or_else("EVENTS", 8000) / 128).max(256));
    if run.has_small_disk() {
        kinds.push(Fault::FillDisk);
    }

    let run = go_through(run, seed, &kinds);

    verdict("streams to files by one worker", seed, run).assert_conserved();
}

/// A run through so many faults of each kind, over all of which its events are spread.
fn go_through(mut run: Run, seed: u64, kinds: &[Fault]) -> Run {
    let (events, each): (usize, usize) = (or_else("EVENTS", 8000), or_else("FAULTS_EACH", 2));
    let planned = schedule(seed, kinds, each);
    eprintln!("seed {seed}: {events} events, {each} each of {kinds:?}");
    for fault in &planned {
        run.go_through(fault, events / planned.len());
    }
    run
}

#[test]
fn what_was_confirmed_is_stored_though_worker_and_postgres_are_killed_at_once_right_afterwards() {
    let (seed, kills) = (or_else("SEED", SEED), or_else("HONESTY_KILLS", 8));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut run = Run::to_postgres(seed, 1);
    let mut confirmed = Vec::new();

    while confirmed.len() < kills {
        let events = run.kill_both_after_a_confirmation(300, Duration::from_millis(random.u64(..25)));
        // A repeated event was confirmed before, and says nothing.
        confirmed.extend(Some(events).filter(|events| *events > 0));
    }

    eprintln!("{} events were confirmed in the moments before the kills", confirmed.iter().sum::<usize>());
    verdict(format!("{kills} kills of worker and postgres at once"), seed, run).assert_conserved();
}

fn verdict(what: impl Display, seed: u64, run: Run) -> Verdict {
    let verdict = run.judge();
    eprintln!("{what}, seed {seed}:\n{verdict}");
    verdict
}
