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
/// So often a kill may come when nothing was confirmed yet, or everything, for each that is asked for.
const TRIES: usize = 10;

/// A number from the environment, or else one that keeps the test short.
fn or_else<T: FromStr>(name: &str, short: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

#[test]
fn streams_to_postgres_by_two_workers_conserve_events_through_every_fault() {
    let seed = or_else("SEED", SEED);
    let kinds = [Fault::KillWorker, Fault::StopWorker, Fault::KillRedis, Fault::CutClients, Fault::StopPostgres];

    go_through("streams to postgres by two workers", Run::to_postgres(seed, 2), seed, &kinds);
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

    go_through("streams to files by one worker", run, seed, &kinds);
}

/// A run through so many faults of each kind, over all of which its events are spread; nothing may be lost by it.
#[track_caller]
fn go_through(what: &str, mut run: Run, seed: u64, kinds: &[Fault]) {
    let (events, each): (usize, usize) = (or_else("EVENTS", 8000), or_else("FAULTS_EACH", 2));
    let planned = schedule(seed, kinds, each);
    eprintln!("seed {seed}: {events} events, {each} each of {kinds:?}");
    for fault in &planned {
        run.go_through(fault, events / planned.len());
    }

    let verdict = verdict(what, seed, run);

    verdict.assert_conserved();
    assert!(verdict.redelivered > 0, "no fault has met an entry on its way:\n{verdict}");
}

#[test]
fn what_was_confirmed_is_stored_though_worker_and_postgres_are_killed_at_once_right_afterwards() {
    let (seed, kills) = (or_else("SEED", SEED), or_else("HONESTY_KILLS", 8));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut run = Run::to_postgres(seed, 1);
    let (mut confirmed, mut in_hand) = (Vec::new(), 0);

    // A kill counts that came between confirmations: after one, and with more on its way. A repeated event was confirmed
    // before, and says nothing.
    for _ in 0..kills * TRIES {
        let killed = run.kill_both_after_a_confirmation(1000, Duration::from_millis(random.u64(..25)));
        if killed.confirmed > 0 && killed.in_hand > 0 {
            confirmed.push(killed.confirmed);
            in_hand += killed.in_hand;
        }
        if confirmed.len() == kills {
            break;
        }
    }

    let events = confirmed.iter().sum::<usize>();
    eprintln!("{events} events were confirmed in the moments before the kills, {in_hand} entries were in hand");
    assert_eq!(confirmed.len(), kills, "kills that came between confirmations");
    verdict(format!("{kills} kills of worker and postgres at once"), seed, run).assert_conserved();
}

fn verdict(what: impl Display, seed: u64, run: Run) -> Verdict {
    let verdict = run.judge();
    eprintln!("{what}, seed {seed}:\n{verdict}");
    verdict
}
