//! The family *read*: what was merged is found, and only that.

use std::time::{Duration, Instant};

use crate::backend::Call;
use crate::error::ErrorKind;
use crate::model::state::State;
use crate::names;
use crate::query::{Fields, Order, Prune, Query};

use super::events::{note, stamp};
use super::trial::{Trial, Unmet, call, call_ok, expect, expect_same, failed, get, merge, merge_one};
use super::{Behavior, Level, Need};

/// How long a call may take while the far side is away.
const AWAY_BUDGET: Duration = Duration::from_secs(2);
/// How much longer it may take on a busy machine.
const GRACE: Duration = Duration::from_secs(3);

pub(super) const BEHAVIORS: &[Behavior] = &[
    behavior("read.get_in_order", "answers each id in the order asked, and none for what is not stored", get_in_order),
    behavior("read.without_bodies", "leaves bodies out where they are not asked for", without_bodies),
    behavior(
        "read.sees_what_was_answered",
        "shows every other thread what a merge has answered",
        sees_what_was_answered,
    ),
    behavior("errors.not_offered", "refuses what it does not offer as `configuration`", not_offered),
    Behavior {
        name: "errors.far_side_away",
        asks: "answers `unavailable` while its far side is away, within the deadline",
        level: Level::Basic,
        needs: Need::FarSide,
        run: far_side_away,
    },
];

const fn behavior(name: &'static str, asks: &'static str, run: fn(&Trial<'_>) -> Result<(), Unmet>) -> Behavior {
    Behavior { name, asks, level: Level::Basic, needs: Need::Nothing, run }
}

fn get_in_order(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let ids = trial.ids(6);
    let states: Vec<State> = (1..=6).map(note).collect();
    let stored = [0, 1, 3, 5];
    let batch: Vec<(&str, &State)> = stored.iter().map(|index| (&*ids[*index], &states[*index])).collect();
    merge(&*backend, &batch)?;
    let asked = [5, 2, 0, 4, 3, 0, 1];
    let found = get(&*backend, &asked.map(|index| &*ids[index]))?;
    for (index, found) in asked.into_iter().zip(found) {
        let expected = stored.contains(&index).then_some(&states[index]);
        expect_same(&ids[index], expected, found.as_ref().map(|found| &found.state))?;
        let is_whole = found.is_none_or(|found| !found.incomplete);
        expect(is_whole, "all that is stored, when all is well", || "a state that is `incomplete`".to_owned())?;
    }
    expect(get(&*backend, &[])?.is_empty(), "no answers to no ids", || "some".to_owned())
}

fn without_bodies(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let id = trial.id();
    let mut state = note(1);
    state.set_text(&stamp(1, "note-1"), names::CODE, "print(1)\n".repeat(1000));
    merge_one(&*backend, &id, &state)?;
    let found = call_ok("get", backend.get(&call(), &[&id], Fields::WithoutBodies))?;
    let found = found.first().and_then(Option::as_ref);
    expect_same(&id, Some(&state.without_bodies()), found.map(|found| &found.state))
}

fn sees_what_was_answered(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    for number in 1..=20 {
        let (id, state) = (trial.id(), note(number));
        merge_one(&*backend, &id, &state)?;
        let read = || get(&*backend, &[&id]).map(|mut found| found.remove(0));
        let found = std::thread::scope(|scope| scope.spawn(read).join());
        let Ok(found) = found else { return failed("an answer to `get` on another thread", "a panic") };
        expect_same(&id, Some(&state), found?.as_ref().map(|found| &found.state))?;
    }
    Ok(())
}

fn not_offered(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let has = &trial.capabilities;
    let query = |order| Query { order, limit: 1, ..Query::default() };
    let prune = Prune { ended_before: 0, limit: 1, dry_run: true };
    let mut answers = Vec::new();
    if !has.list_by_id {
        answers.push(("list in id order", backend.list(&call(), &query(Order::Id)).err()));
    }
    if !has.list_by_created {
        answers.push(("list newest first", backend.list(&call(), &query(Order::NewestFirst)).err()));
    }
    if !has.counts {
        answers.push(("counts", backend.counts(&call()).err()));
    }
    if !has.prune {
        answers.push(("prune", backend.prune(&call(), &prune).err()));
    }
    if !has.blobs {
        answers.push(("put_blob", backend.put_blob(&call(), &trial.prefix, b"x").err()));
        answers.push(("get_blob", backend.get_blob(&call(), &trial.prefix).err()));
    }
    for (what, error) in answers {
        let is_right = error.as_ref().is_some_and(|error| error.kind == ErrorKind::Configuration);
        let expected = format!("`{what}`, which is not claimed, is refused as `configuration`");
        expect(is_right, &expected, || {
            error.map_or("an answer".to_owned(), |error| format!("`{}`: {error}", error.kind))
        })?;
    }
    Ok(())
}

fn far_side_away(trial: &Trial<'_>) -> Result<(), Unmet> {
    let Some(away) = trial.subject().away() else {
        return Err(Unmet::NotRun("nobody said how its far side is away".to_owned()));
    };
    let wanted = [ErrorKind::Unavailable, ErrorKind::Overloaded];
    let call = || Call::with_budget(AWAY_BUDGET);
    let judge = |what: &str, error: &crate::Error| {
        expect(wanted.contains(&error.kind), &format!("`{what}` is `unavailable` while the far side is away"), || {
            format!("`{}`: {error}", error.kind)
        })
    };
    let away = away.map_err(|error| Unmet::NotRun(format!("there is no place to store in: {error}")))?;
    let backend = match away.open() {
        Err(error) => return judge("open", &error),
        Ok(backend) => backend,
    };
    if !trial.capabilities.states {
        let refused = |what: &str, error: Option<crate::Error>| match error {
            Some(error) => judge(what, &error),
            None => failed(format!("`{what}` fails while the far side is away"), "an answer"),
        };
        let put = refused("put_blob", backend.put_blob(&call(), &trial.prefix, b"x").err());
        let got = refused("get_blob", backend.get_blob(&call(), &trial.prefix).err());
        let _ = backend.close(&call());
        return put.and(got);
    }
    let (id, state) = (trial.id(), note(1));
    let start = Instant::now();
    let merged = crate::with_items(&[(&id, &state)], |batch| backend.merge(&call(), batch));
    let took = start.elapsed();
    let merged = match merged.map(|mut answers| answers.pop().map(|answer| answer.outcome)) {
        Err(error) | Ok(Some(crate::Outcome::Rejected(error))) => judge("merge", &error),
        Ok(other) => failed("`merge` fails while the far side is away", format!("{other:?}")),
    };
    let read = match backend.get(&call(), &[&id], Fields::Whole) {
        Err(error) => judge("get", &error),
        Ok(_) => failed("`get` fails while the far side is away", "an answer"),
    };
    let _ = backend.close(&call());
    merged.and(read)?;
    expect(took < AWAY_BUDGET + GRACE, &format!("`merge` is back by its deadline, in {AWAY_BUDGET:?}"), || {
        format!("{took:.1?}")
    })
}
