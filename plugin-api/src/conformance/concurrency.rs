//! The family *concurrency*: what calls at the same time do to each other. `durability.rs` has several processes.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::backend::{Answer, Backend, Delete, Deleted, Outcome};
use crate::model::state::State;

use super::events::{joined, note_of};
use super::trial::{Trial, Unmet, call, call_ok, expect, expect_same, expect_stored, failed, get, merge, merge_one};
use super::{Behavior, Level, Need};

/// Most calls at once.
const THREADS: usize = 8;

pub(super) const BEHAVIORS: &[Behavior] = &[
    behavior(
        "concurrency.creates_once",
        "answers Created once for one id, whoever merges it at the same time",
        creates_once,
    ),
    behavior("concurrency.same_ids", "loses nothing of what several calls merge into the same ids", same_ids),
    behavior(
        "concurrency.different_ids",
        "loses nothing of what several calls merge into different ids",
        different_ids,
    ),
    Behavior {
        name: "concurrency.delete_by_digest",
        asks: "deletes by digest nothing that came in between, while another call merges",
        level: Level::Complete,
        needs: Need::Parallel,
        run: delete_by_digest,
    },
];

const fn behavior(name: &'static str, asks: &'static str, run: fn(&Trial<'_>) -> Result<(), Unmet>) -> Behavior {
    Behavior { name, asks, level: Level::Basic, needs: Need::Parallel, run }
}

/// Runs a function on as many threads as the backend makes use of, all beginning together; with the thread's number.
fn at_once<T: Send>(
    trial: &Trial<'_>,
    backend: &dyn Backend,
    run: impl Fn(usize, &dyn Backend) -> Result<T, Unmet> + Sync,
) -> Result<Vec<T>, Unmet> {
    let threads = trial.capabilities.parallel_calls.min(THREADS);
    let (barrier, run) = (Barrier::new(threads), &run);
    std::thread::scope(|scope| {
        let begin = |thread| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                run(thread, backend)
            })
        };
        let threads: Vec<_> = (0..threads).map(begin).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| failed("an answer", "a panic"))).collect()
    })
}

fn creates_once(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    for _ in 0..40 {
        let id = trial.id();
        let answers: Vec<Answer> =
            at_once(trial, &*backend, |thread, backend| merge_one(backend, &id, &event(thread, 0)))?;
        let count = answers.iter().filter(|answer| answer.outcome == Outcome::Created).count();
        let knows = answers.iter().all(|answer| answer.outcome != Outcome::Accepted);
        if knows || count > 1 {
            expect(count == 1, &format!("Created once for `{id}`"), || format!("{count} times"))?;
        }
    }
    Ok(())
}

fn event(thread: usize, step: usize) -> State {
    let time = i64::try_from(step * THREADS + thread + 1).unwrap_or_default();
    note_of(time, &format!("t{thread}s{step}"), "at once")
}

fn same_ids(trial: &Trial<'_>) -> Result<(), Unmet> {
    const STEPS: usize = 15;
    let backend = trial.open()?;
    let ids = trial.ids(4);
    // Stored before, so that this is about updates.
    let first = note_of(0, "first", "at once");
    merge(&*backend, &ids.iter().map(|id| (&**id, &first)).collect::<Vec<_>>())?;
    let threads = at_once(trial, &*backend, |thread, backend| {
        for step in 0..STEPS {
            let state = event(thread, step);
            merge(backend, &ids.iter().map(|id| (&**id, &state)).collect::<Vec<_>>())?;
        }
        Ok(())
    })?;
    let events = (0..threads.len()).flat_map(|thread| (0..STEPS).map(move |step| event(thread, step)));
    let events: Vec<State> = events.chain([first]).collect();
    let expected = joined(&events);
    ids.iter().try_for_each(|id| expect_stored(&*backend, id, Some(&expected)))
}

fn different_ids(trial: &Trial<'_>) -> Result<(), Unmet> {
    const STEPS: usize = 15;
    let backend = trial.open()?;
    let prefix = &trial.prefix;
    let id = |thread: usize, step: usize| format!("{prefix}-t{thread}-{step}");
    let threads = at_once(trial, &*backend, |thread, backend| {
        for step in 0..STEPS {
            merge_one(backend, &id(thread, step), &event(thread, step))?;
        }
        Ok(())
    })?;
    for thread in 0..threads.len() {
        for step in 0..STEPS {
            let id = id(thread, step);
            let found = get(&*backend, &[&id])?.remove(0);
            expect_same(&id, Some(&event(thread, step)), found.as_ref().map(|found| &found.state))?;
        }
    }
    Ok(())
}

/// Moves an evaluation away while it is merged into, as a layer empties its fallback: what was read and then deleted by
/// its digest, and what is left, is everything.
fn delete_by_digest(trial: &Trial<'_>) -> Result<(), Unmet> {
    // A busy machine may hardly run the other thread, so there is a least number of moves too.
    const EVENTS: std::ops::Range<usize> = 60..600;
    const MOVES: usize = 20;
    let opened = trial.open()?;
    let (backend, id) = (&*opened, trial.id());
    let (is_merged, moves) = (AtomicBool::new(false), AtomicUsize::new(0));
    let move_away = || {
        let mut moved = State::new();
        while !is_merged.load(Ordering::Relaxed) {
            let Some(found) = get(backend, &[&id])?.remove(0) else { continue };
            let item = Delete { id: &id, digest: Some(&found.state.digest()) };
            if call_ok("delete", backend.delete(&call(), &[item]))? == [Deleted::Deleted] {
                moved.merge(&found.state);
                moves.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(moved)
    };
    let (merged, moved) = std::thread::scope(|scope| {
        let moving = scope.spawn(move_away);
        let is_enough = |count| count >= EVENTS.start && moves.load(Ordering::Relaxed) >= MOVES;
        let mut merged = Ok(0);
        while let Ok(count) = merged
            && count < EVENTS.end
            && !is_enough(count)
        {
            merged = merge_one(backend, &id, &event(0, count)).map(|_| count + 1);
        }
        is_merged.store(true, Ordering::Relaxed);
        (merged, moving.join())
    });
    let events = merged?;
    let mut all = moved.unwrap_or_else(|_| failed("an answer", "a panic"))?;
    if let Some(left) = get(backend, &[&id])?.remove(0) {
        all.merge(&left.state);
    }
    let expected = joined(&(0..events).map(|step| event(0, step)).collect::<Vec<_>>());
    expect_same(&id, Some(&expected), Some(&all))
}
