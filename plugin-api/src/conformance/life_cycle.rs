//! The family *life cycle*: options, opening, closing, and what comes after.

use serde_json::Value;

use crate::error::ErrorKind;
use crate::query::Fields;

use super::events::note;
use super::odd::judge;
use super::trial::{Trial, Unmet, call, call_ok, expect, expect_same, expect_stored, failed, get, merge_one, open};
use super::{Behavior, Level, Need};

/// An option that nobody has.
const UNKNOWN_OPTION: &str = "no_such_option";

pub(super) const BEHAVIORS: &[Behavior] = &[
    Behavior {
        needs: Need::NotEvenStates,
        ..behavior("life_cycle.wrong_options", "names an option that it does not know", wrong_options)
    },
    Behavior {
        name: "life_cycle.check_touches_nothing",
        asks: "leaves no file behind when its options are checked",
        level: Level::Basic,
        needs: Need::Directory,
        run: check_touches_nothing,
    },
    behavior("life_cycle.two_instances", "keeps two instances apart that have different places", two_instances),
    behavior("life_cycle.opens_again", "opens again and again at a place, and finds there what it keeps", opens_again),
    behavior("life_cycle.closes_twice", "bears to be flushed, and to be closed twice", closes_twice),
    behavior("life_cycle.called_after_close", "answers a call after it was closed with an error", called_after_close),
    Behavior {
        name: "life_cycle.one_at_a_time",
        asks: "refuses to open a place that another instance has open",
        level: Level::Durable,
        needs: Need::DurableExclusive,
        run: one_at_a_time,
    },
];

const fn behavior(name: &'static str, asks: &'static str, run: fn(&Trial<'_>) -> Result<(), Unmet>) -> Behavior {
    Behavior { name, asks, level: Level::Basic, needs: Need::Nothing, run }
}

fn wrong_options(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let add = |options: &mut Value| {
        if let Value::Object(options) = options {
            options.insert(UNKNOWN_OPTION.to_owned(), Value::from(1));
        }
    };
    let Some(checked) = place.check(&add) else {
        return Err(Unmet::NotRun("options cannot be checked here".to_owned()));
    };
    let said = match checked {
        Ok(description) => description.problems.join("; "),
        Err(error) if error.kind == ErrorKind::Configuration => error.message,
        Err(error) => return failed("a problem, or the error `configuration`", format!("`{}`: {error}", error.kind)),
    };
    let expected = format!("a problem that names the unknown option `{UNKNOWN_OPTION}`");
    expect(said.contains(UNKNOWN_OPTION), &expected, || match said.is_empty() {
        true => "no problem".to_owned(),
        false => said.clone(),
    })
}

fn check_touches_nothing(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let Some(directory) = place.directory() else {
        return Err(Unmet::NotRun("it has no directory that could be looked at".to_owned()));
    };
    let Some(checked) = place.check(&|_| ()) else {
        return Err(Unmet::NotRun("options cannot be checked here".to_owned()));
    };
    call_ok("check", checked)?;
    let files: Vec<_> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|file| file.file_name()).collect();
    expect(files.is_empty(), "an empty directory after `check`", || format!("{files:?}"))
}

fn two_instances(trial: &Trial<'_>) -> Result<(), Unmet> {
    let places = [trial.place()?, trial.place()?];
    let ids = trial.ids(2);
    let (one, other) = (open(&*places[0])?, open(&*places[1])?);
    merge_one(&*one, &ids[0], &note(1))?;
    merge_one(&*other, &ids[1], &note(2))?;
    expect_stored(&*one, &ids[0], Some(&note(1)))?;
    expect_stored(&*other, &ids[1], Some(&note(2)))?;
    if !trial.subject().has_others() {
        expect_stored(&*one, &ids[1], None)?;
        expect_stored(&*other, &ids[0], None)?;
    }
    one.end()?;
    expect_stored(&*other, &ids[1], Some(&note(2)))?;
    other.end()
}

fn opens_again(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let ids = trial.ids(3);
    let states = [1, 2, 3].map(note);
    for (last, state) in states.iter().enumerate() {
        let backend = open(&*place)?;
        merge_one(&*backend, &ids[last], state)?;
        for (id, state) in ids.iter().zip(&states).take(last + 1) {
            let found = get(&*backend, &[id])?.remove(0);
            // What is volatile may be gone with the instance that took it, but is never another state.
            if found.is_some() || id == &ids[last] || trial.capabilities.durable {
                expect_same(id, Some(state), found.as_ref().map(|found| &found.state))?;
            }
        }
        backend.end()?;
    }
    Ok(())
}

fn closes_twice(trial: &Trial<'_>) -> Result<(), Unmet> {
    let opened = trial.open()?;
    merge_one(&*opened, &trial.id(), &note(1))?;
    call_ok("flush", opened.flush(&call()))?;
    let closed = opened.close_once()?;
    // Whether the second one is an error is the backend's to say; it only has to come back.
    judge("a second `close`", closed.close(&call()))
}

fn called_after_close(trial: &Trial<'_>) -> Result<(), Unmet> {
    let opened = trial.open()?;
    let backend = opened.close_once()?;
    let (id, state) = (trial.id(), note(1));
    let merged = crate::with_items(&[(&id, &state)], |batch| backend.merge(&call(), batch));
    let is_taken = |outcome: &crate::Outcome| !matches!(outcome, crate::Outcome::Rejected(_));
    let is_refused = !merged.is_ok_and(|answers| answers.iter().any(|answer| is_taken(&answer.outcome)));
    expect(is_refused, "`merge` after `close` is refused", || "it was taken".to_owned())?;
    let found = backend.get(&call(), &[&id], Fields::Whole);
    expect(found.is_err(), "`get` after `close` is an error", || "an answer".to_owned())?;
    let _ = backend.health();
    judge("`flush` after `close`", backend.flush(&call()))
}

fn one_at_a_time(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let first = open(&*place)?;
    match place.open() {
        Ok(second) => {
            let _ = second.close(&call());
            failed("a place that is open is refused, since the backend is `exclusive`", "it was opened again")
        }
        Err(error) => {
            let is_right = matches!(error.kind, ErrorKind::Configuration | ErrorKind::Unavailable);
            expect(is_right, "refused as `configuration` or `unavailable`", || format!("`{}`: {error}", error.kind))?;
            first.end()
        }
    }
}
