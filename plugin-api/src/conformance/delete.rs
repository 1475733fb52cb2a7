//! The family *delete*: gone is gone, and nothing remembers that it was there.

use crate::backend::{Backend, Delete, Deleted, Outcome};
use crate::model::state::State;
use crate::query::Query;

use super::events::note;
use super::trial::{Trial, Unmet, call, call_ok, expect, expect_stored, merge, merge_one};
use super::{Behavior, Level, Need};

pub(super) const BEHAVIORS: &[Behavior] = &[
    Behavior {
        name: "delete.removes",
        asks: "answers each item in order, and removes it from every read",
        level: Level::Basic,
        needs: Need::Nothing,
        run: removes,
    },
    Behavior {
        name: "delete.leaves_no_trace",
        asks: "takes a deleted id again as new",
        level: Level::Basic,
        needs: Need::Nothing,
        run: leaves_no_trace,
    },
    Behavior {
        name: "delete.by_digest",
        asks: "deletes only the state of the digest that is given",
        level: Level::Complete,
        needs: Need::Nothing,
        run: by_digest,
    },
];

pub(super) fn delete(backend: &dyn Backend, items: &[Delete<'_>], expected: &[Deleted]) -> Result<(), Unmet> {
    let answers = call_ok("delete", backend.delete(&call(), items))?;
    expect(answers == expected, &format!("{expected:?}"), || format!("{answers:?}"))
}

fn removes(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let ids = trial.ids(4);
    let state = note(1);
    merge(&*backend, &[(&ids[0], &state), (&ids[1], &state), (&ids[3], &state)])?;
    let items = [3, 2, 0].map(|index| Delete { id: &ids[index], digest: None });
    delete(&*backend, &items, &[Deleted::Deleted, Deleted::Absent, Deleted::Deleted])?;
    delete(&*backend, &items, &[Deleted::Absent, Deleted::Absent, Deleted::Absent])?;
    delete(&*backend, &[], &[])?;
    for (id, expected) in ids.iter().zip([None, Some(&state), None, None]) {
        expect_stored(&*backend, id, expected)?;
    }
    if trial.capabilities.list_by_id && !trial.subject().has_others() {
        let listed = trial.walk(&*backend, &Query { limit: 10, ..Query::default() })?;
        let listed: Vec<&String> = listed.iter().map(|(id, _)| id).collect();
        expect(listed == [&ids[1]], &format!("only `{}` is listed", ids[1]), || format!("{listed:?}"))?;
    }
    Ok(())
}

fn leaves_no_trace(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let id = trial.id();
    let (first, second): (State, State) = (note(2), note(1));
    merge_one(&*backend, &id, &first)?;
    delete(&*backend, &[Delete { id: &id, digest: None }], &[Deleted::Deleted])?;
    let outcome = merge_one(&*backend, &id, &second)?.outcome;
    let is_right = matches!(outcome, Outcome::Created | Outcome::Accepted);
    expect(is_right, "a deleted id is Created again", || format!("{outcome:?}"))?;
    expect_stored(&*backend, &id, Some(&second))
}

fn by_digest(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let ids = trial.ids(3);
    let (one, other) = (note(1), note(2));
    merge(&*backend, &[(&ids[0], &one), (&ids[1], &other)])?;
    let digest = one.digest();
    let items = [0, 1, 2].map(|index| Delete { id: &ids[index], digest: Some(&digest) });
    delete(&*backend, &items, &[Deleted::Deleted, Deleted::Differs, Deleted::Absent])?;
    expect_stored(&*backend, &ids[0], None)?;
    expect_stored(&*backend, &ids[1], Some(&other))
}
