//! The families *health* and *resources*: the backend answers how it is at any time, and gives back what it took.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model::state::State;
use crate::names;

use super::events::{note, stamp};
use super::trial::{Trial, Unmet, expect, failed, merge};
use super::{Behavior, Level, Need};

/// How long health may take, on a busy machine.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);
/// How often a backend is opened and closed; what it leaves behind each time adds up.
const ROUNDS: usize = 12;
/// What is merged in each round.
const ROUND_BYTES: usize = 2 * 1024 * 1024;
/// More memory than this after all rounds is a leak: half of what was merged.
const MEMORY_LIMIT: usize = ROUNDS * ROUND_BYTES / 2;

pub(super) const BEHAVIORS: &[Behavior] = &[
    Behavior {
        name: "health.does_not_wait",
        asks: "says that it is healthy, at once, also while it merges",
        level: Level::Basic,
        needs: Need::Nothing,
        run: does_not_wait,
    },
    Behavior {
        name: "resources.are_given_back",
        asks: "gives back threads, file descriptors and memory when it is closed",
        level: Level::Basic,
        needs: Need::Nothing,
        run: are_given_back,
    },
];

fn does_not_wait(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let items: Vec<(String, State)> = (1..).take(2000).map(|number| (trial.id(), note(number))).collect();
    let batch: Vec<(&str, &State)> = items.iter().map(|(id, state)| (&**id, state)).collect();
    let is_done = AtomicBool::new(false);
    let (merged, asked) = std::thread::scope(|scope| {
        let ask = scope.spawn(|| {
            loop {
                // Looked at before, so that health is asked at least once.
                let is_last = is_done.load(Ordering::Relaxed);
                let start = Instant::now();
                let health = backend.health();
                let took = start.elapsed();
                expect(health.healthy, "healthy", || format!("unhealthy: {}", health.reason))?;
                expect(took < HEALTH_LIMIT, &format!("`health` within {HEALTH_LIMIT:?}"), || format!("{took:.1?}"))?;
                if is_last {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let merged = merge(&*backend, &batch).map(drop);
        is_done.store(true, Ordering::Relaxed);
        (merged, ask.join())
    });
    merged?;
    asked.unwrap_or_else(|_| failed("an answer to `health`", "a panic"))
}

/// What this process has.
#[derive(Clone, Copy, Debug)]
struct Figures {
    threads: usize,
    files: usize,
    memory_bytes: usize,
}

impl Figures {
    /// None where the system does not tell.
    fn now() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        };
        Some(Self {
            threads: field("Threads:")?,
            files: std::fs::read_dir("/proc/self/fd").ok()?.count(),
            memory_bytes: field("VmRSS:").map(|kilobytes: usize| kilobytes * 1024)?,
        })
    }
}

fn are_given_back(trial: &Trial<'_>) -> Result<(), Unmet> {
    if Figures::now().is_none() {
        return Err(Unmet::NotRun("this system has no /proc/self/status".to_owned()));
    }
    // The first rounds make what a process keeps for good: pools of the allocator, lazily made tables.
    for _ in 0..ROUNDS / 2 {
        round(trial)?;
    }
    let first = growth(trial)?;
    // What leaks does so again; what the allocator of a busy process keeps for good, it keeps once.
    let grown = if first < MEMORY_LIMIT { first } else { growth(trial)? };
    let wanted = format!("less than {MEMORY_LIMIT} bytes more memory after {ROUNDS} times open and close");
    expect(grown < MEMORY_LIMIT, &wanted, || format!("{grown} bytes more"))
}

/// Opens and closes some times, which leaves no more threads and files. Answers how many bytes more are used.
fn growth(trial: &Trial<'_>) -> Result<usize, Unmet> {
    let before = settled(|_| true)?;
    for _ in 0..ROUNDS {
        round(trial)?;
    }
    // Threads may take a moment to end after they were told to.
    let leaks = |before: usize, after: usize| after >= before + ROUNDS / 2;
    let after = settled(|now| !leaks(before.threads, now.threads) && !leaks(before.files, now.files))?;
    for (what, before, after) in
        [("threads", before.threads, after.threads), ("file descriptors", before.files, after.files)]
    {
        expect(!leaks(before, after), &format!("{before} {what} after {ROUNDS} times open and close"), || {
            format!("{after}")
        })?;
    }
    Ok(after.memory_bytes.saturating_sub(before.memory_bytes))
}

/// The figures as soon as they are acceptable, else those of the end of a short patience.
fn settled(is_acceptable: impl Fn(Figures) -> bool) -> Result<Figures, Unmet> {
    let give_up = Instant::now() + Duration::from_secs(2);
    loop {
        let now = Figures::now().ok_or_else(|| Unmet::NotRun("/proc/self/status cannot be read".to_owned()))?;
        if is_acceptable(now) || Instant::now() > give_up {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn round(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let text = "0123456789abcdef".repeat(ROUND_BYTES / 16 / 64);
    let with_body = |number| {
        let mut state = note(number);
        state.set_text(&stamp(number, &format!("note-{number}")), names::CODE, &*text);
        (trial.id(), state)
    };
    let items: Vec<(String, State)> = (1..=64).map(with_body).collect();
    merge(&*backend, &items.iter().map(|(id, state)| (&**id, state)).collect::<Vec<_>>())?;
    backend.end()
}
