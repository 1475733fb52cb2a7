//! The families *counts* and *prune*.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Delete};
use crate::model::register::EventStamp;
use crate::model::state::State;
use crate::model::status::Status;
use crate::query::Prune;

use super::events::{begun, note};
use super::trial::{Trial, Unmet, call, call_ok, expect, expect_stored, failed, merge, merge_one};
use super::{Behavior, Level, Need};

/// How old counts may be.
const COUNTS_AGE: Duration = Duration::from_secs(31);
/// A day in 1970: nobody's evaluations ended before it, so pruning what did harms nobody.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

pub(super) const BEHAVIORS: &[Behavior] = &[
    Behavior {
        name: "counts.by_status",
        asks: "counts evaluations by status, and follows merges and deletes",
        level: Level::Complete,
        needs: Need::Counts,
        run: by_status,
    },
    Behavior {
        name: "prune.old_and_terminal",
        asks: "removes what ended before a time, at most as many as asked, and nothing else",
        level: Level::Complete,
        needs: Need::Prune,
        run: old_and_terminal,
    },
];

const COUNTED: [Status; 3] = [Status::Queued, Status::Provisioning, Status::Cancelled];

fn counts(backend: &dyn Backend) -> Result<(Vec<u64>, u64), Unmet> {
    let counts = call_ok("counts", backend.counts(&call()))?;
    let of = |status: &Status| counts.by_status.get(status.as_str()).copied().unwrap_or_default();
    Ok((COUNTED.iter().map(of).collect(), counts.age_seconds))
}

/// Waits as long as the backend says that its counts may be old.
fn expect_counts(backend: &dyn Backend, before: &[u64], more: [u64; 3], when: &str) -> Result<(), Unmet> {
    let expected: Vec<u64> = before.iter().zip(more).map(|(before, more)| before + more).collect();
    let give_up = Instant::now() + COUNTS_AGE;
    loop {
        let (found, age) = counts(backend)?;
        if found == expected {
            return Ok(());
        }
        if age == 0 || Instant::now() > give_up {
            return failed(
                format!("{expected:?} evaluations {when} of the statuses {COUNTED:?}"),
                format!("{found:?}, {age} s old"),
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn by_status(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let (before, age) = counts(&*backend)?;
    expect(age <= 30, "counts that are at most 30 s old", || format!("{age} s"))?;
    let ids = trial.ids(4);
    let queued = begun(1, Status::Queued, &trial.prefix);
    merge(&*backend, &ids.iter().map(|id| (&**id, &queued)).collect::<Vec<_>>())?;
    expect_counts(&*backend, &before, [4, 0, 0], "after four were created")?;
    merge_one(&*backend, &ids[0], &queued)?;
    let mut provisioning = State::new();
    provisioning.set_open(&EventStamp::new(i64::MAX / 2, "later"), Status::Provisioning);
    merge_one(&*backend, &ids[1], &provisioning)?;
    let mut cancelled = State::new();
    cancelled.set_end(&EventStamp::new(i64::MAX / 2, "last"), Status::Cancelled);
    merge_one(&*backend, &ids[2], &cancelled)?;
    expect_counts(&*backend, &before, [2, 1, 1], "after one went on and one was cancelled")?;
    let deletes: Vec<Delete<'_>> = ids.iter().map(|id| Delete { id, digest: None }).collect();
    call_ok("delete", backend.delete(&call(), &deletes))?;
    expect_counts(&*backend, &before, [0, 0, 0], "after all four were deleted")
}

fn ended(time: i64) -> State {
    let stamp = EventStamp::new(time, format!("ended-{time}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_end(&stamp, Status::Completed);
    state
}

fn old_and_terminal(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let (old, young, open, recent) = (trial.ids(5), trial.id(), trial.id(), trial.id());
    let old_states: Vec<State> = (1..=5).map(|number| ended(DAY - number)).collect();
    // One ended just at the time, one began long ago and never ended, one is of today.
    let mut never_ended = State::new();
    never_ended.set_created(&EventStamp::new(1, "began"));
    never_ended.set_open(&EventStamp::new(1, "began"), Status::Running);
    let kept = [(&young, ended(DAY)), (&open, never_ended), (&recent, note(1))];
    merge(&*backend, &old.iter().zip(&old_states).map(|(id, state)| (&**id, state)).collect::<Vec<_>>())?;
    merge(&*backend, &kept.iter().map(|(id, state)| (&***id, state)).collect::<Vec<_>>())?;

    let prune = |limit, dry_run| call_ok("prune", backend.prune(&call(), &Prune { ended_before: DAY, limit, dry_run }));
    let tried = prune(1000, true)?;
    expect(tried.removed >= 5, "5 would be pruned", || format!("{}", tried.removed))?;
    expect_stored(&*backend, &old[0], Some(&old_states[0]))?;
    let pruned = prune(2, false)?;
    expect(pruned.removed == 2 && pruned.more, "2 pruned, and more left", || format!("{pruned:?}"))?;
    let mut rounds = 0;
    while prune(2, false)?.more {
        rounds += 1;
        expect(rounds < 10_000, "an end of pruning", || "always more".to_owned())?;
    }
    old.iter().try_for_each(|id| expect_stored(&*backend, id, None))?;
    kept.iter().try_for_each(|(id, state)| expect_stored(&*backend, id, Some(state)))
}
