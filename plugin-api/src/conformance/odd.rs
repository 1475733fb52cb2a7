//! The family *panics*: no call panics, whatever it is asked.

use crate::backend::{Call, Delete, Outcome};
use crate::error::{Error, ErrorKind};
use crate::query::{Fields, Order, Prune, Query};

use super::events::{begun, note};
use super::trial::{Trial, Unmet, call, expect, merge, short};
use super::{Behavior, Level, Need};
use crate::model::status::Status;

pub(super) const BEHAVIORS: &[Behavior] = &[Behavior {
    name: "panics.never",
    asks: "answers odd ids, limits, cursors, times and deadlines without a panic",
    level: Level::Basic,
    needs: Need::Nothing,
    run: never,
}];

/// A caught panic is `internal` and says so.
pub(super) fn judge<T>(what: &str, result: crate::Result<T>) -> Result<(), Unmet> {
    match result {
        Err(error) => judge_error(what, &error),
        Ok(_) => Ok(()),
    }
}

fn judge_error(what: &str, error: &Error) -> Result<(), Unmet> {
    let is_panic = error.kind == ErrorKind::Internal && error.message.contains("panicked");
    expect(!is_panic, &format!("no panic in {what}"), || short(&error.message))
}

fn never(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let backend = &*backend;
    let state = begun(1, Status::Completed, &trial.prefix);
    let known = trial.id();
    merge(backend, &[(&known, &state)])?;
    let long = "x".repeat(100_000);
    for id in ["", "\0", "/", "..", "👻", &long, "%s", "a\nb", &trial.id()] {
        judge("`get` of an odd id", backend.get(&call(), &[id], Fields::Whole))?;
        judge("`delete` of an odd id", backend.delete(&call(), &[Delete { id, digest: Some(&[7; 32]) }]))?;
        if !id.is_empty() && !trial.subject().has_others() {
            let answers = crate::with_items(&[(id, &note(1))], |batch| backend.merge(&call(), batch));
            if let Ok([Outcome::Rejected(error)]) = answers
                .as_ref()
                .map(|answers| answers.iter().map(|answer| answer.outcome.clone()).collect::<Vec<_>>())
                .as_deref()
            {
                judge_error("`merge` of an odd id", error)?;
            }
            judge("`merge` of an odd id", answers)?;
        }
    }
    for order in [Order::Id, Order::NewestFirst] {
        for limit in [1, usize::MAX, usize::MAX / 2] {
            for cursor in [None, Some("👻"), Some("-9223372036854775808"), Some(&*long)] {
                let query = Query { order, cursor: cursor.map(str::to_owned), ..trial.query(limit) };
                judge(
                    &format!("`list` with the limit {limit} and the cursor {}", short(&format!("{cursor:?}"))),
                    backend.list(&call(), &query),
                )?;
            }
        }
        let query = Query {
            order,
            since: Some(i64::MIN),
            until: Some(i64::MAX),
            status: Some("👻".to_owned()),
            ..trial.query(1)
        };
        judge("`list` with odd filters", backend.list(&call(), &query))?;
        let query = Query { order, since: Some(i64::MAX), until: Some(i64::MIN), ..trial.query(1) };
        judge("`list` of a time that ends before it begins", backend.list(&call(), &query))?;
    }
    for ended_before in [i64::MIN, 0] {
        for limit in [1, usize::MAX] {
            let prune = Prune { ended_before, limit, dry_run: true };
            judge("`prune` with odd limits", backend.prune(&call(), &prune))?;
        }
    }
    for key in ["", "\0", "/", "..", "👻", &long] {
        judge("`get_blob` of an odd key", backend.get_blob(&call(), key))?;
        judge("`delete_blob` of an odd key", backend.delete_blob(&call(), key, i64::MIN))?;
    }
    judge("`scan_blobs` with an odd limit", backend.scan_blobs(&call(), "👻", usize::MAX))?;
    let late = Call { deadline: std::time::Instant::now(), attempt: u32::MAX };
    judge("`get` past its deadline", backend.get(&late, &[&known], Fields::Whole))?;
    judge("`flush` past its deadline", backend.flush(&late))?;
    judge("`merge` past its deadline", crate::with_items(&[(&known, &state)], |batch| backend.merge(&late, batch)))?;
    judge("`counts`", backend.counts(&call()))
}
