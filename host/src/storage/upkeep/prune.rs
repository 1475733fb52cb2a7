//! Removes evaluations that ended long ago, from any backend.
//!
//! One that offers `prune` does it by itself. From another they are listed and deleted by their digests, so that one that
//! changes meanwhile stays.

use std::time::Instant;

use serde::Serialize;
use storage_plugin_api::{
    Backend, Capabilities, Delete, Deleted, Fields, Order, Prune, Query, Record, Result, State, Status,
};

use super::copy::{Pace, Place};
use super::walk::Walk;
use super::{Patience, Pauses, get, is_passing, parts};

/// A backend that counts for itself what it would remove is asked for so many.
const COUNTED: usize = 1_000_000;

/// What to prune.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pruning {
    /// Terminal evaluations that ended before this time, in microseconds.
    pub(crate) ended_before: i64,
    /// Evaluations removed at once, at most.
    pub(crate) batch: usize,
    /// Evaluations a second, at most.
    pub(crate) rate: Option<u32>,
    /// Nothing is removed.
    pub(crate) dry_run: bool,
}

/// What was pruned so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PrunedSoFar {
    /// Evaluations that were removed (or would be).
    pub(crate) removed: u64,
    /// Those that changed meanwhile and stay.
    pub(crate) changed: u64,
    /// There are more than were counted.
    pub(crate) more: bool,
    /// It went to the end; it does not if it is told to end before.
    pub(crate) complete: bool,
}

/// Prunes. `report` is told after each batch.
///
/// # Errors
/// When the backend fails for good or for too long, or `report` does; what was removed until then is gone.
pub(crate) fn prune(
    backend: &dyn Backend,
    capabilities: &Capabilities,
    pruning: &Pruning,
    patience: &Patience<'_>,
    report: &mut dyn FnMut(&PrunedSoFar) -> Result<()>,
) -> Result<PrunedSoFar> {
    let mut pace = Pace::new(pruning.rate);
    let batch = pruning.rate.map_or(pruning.batch, |rate| pruning.batch.min(rate as usize)).max(1);
    let mut pruned = PrunedSoFar::default();
    if !capabilities.prune {
        return delete_each(backend, pruning, batch, patience, report);
    }
    let Pruning { ended_before, dry_run, .. } = *pruning;
    let limit = if dry_run { COUNTED } else { batch };
    loop {
        pace.wait(batch, patience);
        if (patience.is_told_to_end)() {
            return Ok(pruned);
        }
        let answer = patience.ask(|call| backend.prune(call, &Prune { ended_before, limit, dry_run }))?;
        pruned.removed += answer.removed;
        pruned.more = dry_run && answer.more;
        report(&pruned)?;
        if !answer.more || dry_run {
            pruned.complete = true;
            return Ok(pruned);
        }
    }
}

fn delete_each(
    backend: &dyn Backend,
    pruning: &Pruning,
    batch: usize,
    patience: &Patience<'_>,
    report: &mut dyn FnMut(&PrunedSoFar) -> Result<()>,
) -> Result<PrunedSoFar> {
    let mut pace = Pace::new(pruning.rate);
    let mut pruned = PrunedSoFar::default();
    let has_ended = |state: &State| {
        let is_terminal = Record::status_of(state).is_some_and(Status::is_terminal);
        is_terminal && Record::completed_at_of(state).is_some_and(|at| at < pruning.ended_before)
    };
    for status in Status::TERMINAL {
        let status = Some(status.as_str().to_owned());
        // What ended before that time began before it.
        let until = Some(pruning.ended_before);
        let query = Query { order: Order::Id, fields: Fields::WithoutBodies, status, until, ..Query::default() };
        let mut walk = Walk::of(backend, patience, query, Place::default());
        loop {
            let mut page = walk.page()?;
            // A walk that is told to end has no page more, either.
            if (patience.is_told_to_end)() {
                return Ok(pruned);
            }
            if page.is_empty() {
                break;
            }
            page.retain(|(_, found)| has_ended(&found.state));
            for part in parts(&page, batch) {
                if pruning.dry_run {
                    pruned.removed += part.len() as u64;
                    continue;
                }
                pace.wait(part.len(), patience);
                if (patience.is_told_to_end)() {
                    return Ok(pruned);
                }
                let ids: Vec<&str> = part.iter().map(|(id, _)| id.as_str()).collect();
                let found = get(backend, patience, &ids, Fields::Whole)?;
                let digest = |(id, found): (&&'_ str, &Option<storage_plugin_api::Found>)| {
                    let state = &found.as_ref()?.state;
                    has_ended(state).then(|| ((*id).to_owned(), state.digest()))
                };
                let digests: Vec<_> = ids.iter().zip(&found).filter_map(digest).collect();
                delete(
                    backend,
                    patience,
                    digests.iter().map(|(id, digest)| Delete { id, digest: Some(digest) }).collect(),
                    &mut pruned,
                )?;
            }
            report(&pruned)?;
            if (patience.is_told_to_end)() {
                return Ok(pruned);
            }
        }
    }
    pruned.complete = true;
    Ok(pruned)
}

/// Deletes some, each until it is gone or has failed for good.
fn delete(
    backend: &dyn Backend,
    patience: &Patience<'_>,
    mut left: Vec<Delete<'_>>,
    pruned: &mut PrunedSoFar,
) -> Result<()> {
    let mut pauses = Pauses::until(Instant::now() + patience.limit);
    loop {
        let answers = patience.ask(|call| backend.delete(call, &left))?;
        let (mut again, mut away) = (Vec::new(), None);
        for (item, answer) in left.into_iter().zip(answers) {
            match answer {
                Deleted::Deleted => pruned.removed += 1,
                Deleted::Absent => {}
                Deleted::Differs => pruned.changed += 1,
                Deleted::Failed(error) if is_passing(&error) => {
                    again.push(item);
                    away = Some(error);
                }
                Deleted::Failed(error) => return Err(error),
            }
        }
        let Some(error) = away else { return Ok(()) };
        left = again;
        patience.pause(&mut pauses, error)?;
    }
}
