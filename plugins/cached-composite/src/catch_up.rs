//! Merges the fallback back into the primary: in id order, in bounded batches, again and again until it is empty.
//!
//! Each state is deleted from the fallback only if its digest is still the one that was merged, after the cache has it,
//! too. A crash at any point leaves what was not deleted, which is merged again; that changes nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use storage_plugin_api::{
    Call, Delete, Deleted, Error, ErrorKind, Fields, Found, Hash, Order, Outcome, Query, Result, State, with_items,
};
use tracing::{error, info, warn};

use crate::composite::{Fallback, Layer};
use crate::primary::{Tried, unavailable};
use crate::signal::Ended;
use crate::suspects::Suspects;

/// About how many characters of bodies go through memory at once.
const BATCH_CHARACTERS: u64 = 4 * 1024 * 1024;
/// How long a call of a child may take.
const CALL_BUDGET: Duration = Duration::from_secs(10);
/// Between two looks at a fallback that is empty, in case that a merge whose answer was lost arrived late.
const IDLE: Duration = Duration::from_secs(30);
/// Until what the primary refused is tried again.
const REFUSED: Duration = Duration::from_secs(10);
/// So many of a batch are named in the log.
const LOGGED: u64 = 3;
/// Pauses where nobody says how long.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What came of one way through the fallback.
pub(crate) enum Pass {
    /// It holds nothing.
    Empty,
    /// All was tried; so many were refused, so many left it.
    Through { moved: u64, refused: u64 },
    /// A child is away, or it is another instance that catches up.
    Later(Duration),
    /// The instance before has a batch under way.
    NotYet,
    /// It shall stop.
    Stopped,
}

/// What came of one batch.
#[derive(Default)]
pub(crate) struct Moved {
    pub(crate) moved: u64,
    pub(crate) refused: u64,
}

/// Catches up until it is told to stop.
pub(crate) fn run(layer: &Layer) {
    let Some(fallback) = &layer.fallback else { return };
    let _ended = Ended::of(&fallback.signal);
    // After a failure one evaluation finds out whether the primary is back.
    let mut limit = layer.options.catch_up_batch;
    let (mut total, mut began) = (0, Instant::now());
    let mut suspects = Suspects::default();
    loop {
        let is_empty = fallback.holding.is_empty();
        let passed = catch_unwind(AssertUnwindSafe(|| pass(layer, fallback, limit, &mut total, &mut suspects)));
        suspects.end_pass(layer);
        fallback.signal.set_panicked(passed.is_err());
        // The panic is in the log already.
        let passed = passed.unwrap_or(Pass::Later(LONGEST_PAUSE));
        if fallback.signal.set_waiting(matches!(passed, Pass::NotYet), Instant::now()) {
            warn!(fallback = %fallback.name, "not caught up: the instance before, which this one took the place of, has not come back from a call yet");
        }
        let (pause, is_idle) = match passed {
            Pass::Empty => {
                if total > 0 {
                    info!(fallback = %fallback.name, evaluations = total, seconds = began.elapsed().as_secs_f64(), "caught up");
                    total = 0;
                }
                let seems_away = layer.primary.is_away_for_reads() || !layer.primary.child.backend.health().healthy;
                match seems_away.then(|| probe(layer)).flatten() {
                    Some(pause) => (pause, false),
                    None => (IDLE, true),
                }
            }
            Pass::Through { moved: 0, refused: 1.. } => (REFUSED, false),
            Pass::Through { .. } => {
                limit = layer.options.catch_up_batch;
                (Duration::ZERO, false)
            }
            Pass::Later(pause) => {
                limit = 1;
                (pause, false)
            }
            Pass::NotYet => (PAUSE, false),
            Pass::Stopped => return,
        };
        if is_empty || total == 0 {
            began = Instant::now();
        }
        layer.gauge_holding();
        if fallback.signal.wait(pause, is_idle) {
            return;
        }
    }
}

/// Reads from a primary that nothing else is heard of, so that its state is told as it is. When to try again, if it is away.
pub(crate) fn probe(layer: &Layer) -> Option<Duration> {
    let error = layer.primary.get(&Call::with_budget(CALL_BUDGET), &["0"], Fields::WithoutBodies).err()?;
    Some(error.retry_after.unwrap_or(LONGEST_PAUSE / 5).clamp(PAUSE, LONGEST_PAUSE))
}

impl Layer {
    /// Finds out whether the fallback holds anything. An error leaves it at "may hold something".
    pub(crate) fn look_at(&self, fallback: &Fallback, call: &Call) {
        if let Some(look) = fallback.holding.look()
            && fallback.child.backend.list(call, &query(1, None)).is_ok_and(|page| page.entries.is_empty())
        {
            fallback.holding.found_empty(look);
        }
        if !fallback.holding.is_empty()
            && fallback.child.description.capabilities.counts
            && let Ok(counts) = fallback.child.backend.counts(call)
        {
            let held: u64 = counts.by_status.values().sum();
            fallback.holding.count(i64::try_from(held).unwrap_or(i64::MAX));
        }
    }
}

/// Goes once through the fallback. After a failure it begins with one evaluation, then takes more and more. The one that
/// failed alone is a suspect: the next time all others come first, so that it holds up none of them.
fn pass(layer: &Layer, fallback: &Fallback, mut limit: usize, total: &mut u64, suspects: &mut Suspects) -> Pass {
    let Some(_owner) = fallback.holding.own() else {
        return if fallback.holding.may_move() { Pass::NotYet } else { Pass::Later(PAUSE) };
    };
    let look = fallback.holding.look();
    let mut sum = Moved::default();
    let (mut cursor, mut is_empty) = (None, true);
    loop {
        let page = match fallback
            .child
            .backend
            .list(&Call::with_budget(CALL_BUDGET), &query(limit + suspects.len(), cursor))
        {
            Ok(page) => page,
            Err(error) => return later(&fallback.name, &error),
        };
        is_empty &= page.entries.is_empty();
        let entries: Vec<_> = page.entries.iter().filter(|(id, _)| !suspects.has(id)).collect();
        for batch in entries.chunks(limit).flat_map(batches) {
            if let Some(end) = is_over(fallback) {
                return end;
            }
            match move_some(layer, fallback, &batch, Tried::Ordinary) {
                Ok(moved) => {
                    if moved.moved > 0 && *total == 0 {
                        info!(fallback = %fallback.name, primary = layer.primary.child.name, "catching up");
                    }
                    *total += moved.moved;
                    sum.moved += moved.moved;
                    sum.refused += moved.refused;
                }
                Err(error) => {
                    // It may be this one that is too much for the primary; others will tell.
                    if let [id] = *batch {
                        suspects.add(id.to_owned());
                    }
                    return later(&layer.primary.child.name, &error);
                }
            }
        }
        limit = (limit * 2).min(layer.options.catch_up_batch);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    if let Some(end) = suspects.try_all(layer, fallback, total, &mut sum).or_else(|| is_over(fallback)) {
        return end;
    }
    fallback.signal.set_refused(sum.refused);
    match (is_empty, look) {
        (true, Some(look)) => {
            fallback.holding.found_empty(look);
            Pass::Empty
        }
        // Something was on its way into it.
        (true, None) => Pass::Later(PAUSE / 10),
        (false, _) => Pass::Through { moved: sum.moved, refused: sum.refused },
    }
}

/// Whether somebody else goes on, or nobody.
pub(crate) fn is_over(fallback: &Fallback) -> Option<Pass> {
    match fallback.holding.may_move() {
        _ if fallback.signal.is_stopped() => Some(Pass::Stopped),
        true => None,
        // Another instance goes on.
        false => Some(Pass::Later(PAUSE)),
    }
}

pub(crate) fn later(child: &str, error: &Error) -> Pass {
    if !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Overloaded) {
        warn!(child, %error, "cannot catch up, tried again");
        return Pass::Later(LONGEST_PAUSE);
    }
    Pass::Later(error.retry_after.unwrap_or(PAUSE).clamp(PAUSE / 10, LONGEST_PAUSE))
}

fn query(limit: usize, cursor: Option<String>) -> Query {
    Query { order: Order::Id, fields: Fields::WithoutBodies, limit, cursor, ..Query::default() }
}

/// The ids of a page, in parts whose bodies fit into memory.
fn batches<'a>(entries: &[&'a (String, Found)]) -> Vec<Vec<&'a str>> {
    let mut batches: Vec<Vec<&str>> = Vec::new();
    let mut characters = u64::MAX;
    for (id, found) in entries {
        let own = body_characters(&found.state);
        characters = characters.saturating_add(own);
        match batches.last_mut() {
            Some(batch) if characters <= BATCH_CHARACTERS => batch.push(id),
            _ => {
                batches.push(vec![id]);
                characters = own;
            }
        }
    }
    batches
}

fn body_characters(state: &State) -> u64 {
    state.registers().iter().filter_map(|register| register.value.as_body()).map(|body| body.characters()).sum()
}

/// Moves the states of some ids, alone where they fail together. An error means that a child is away; the rest is then
/// left for later.
pub(crate) fn move_some(layer: &Layer, fallback: &Fallback, ids: &[&str], tried: Tried) -> Result<Moved> {
    let failed = match move_caught(layer, fallback, ids, tried) {
        Err(error) if !is_outage(&error) => error,
        moved => return moved,
    };
    let mut sum = Moved::default();
    if let [id] = ids {
        refused(layer, fallback, id, &failed, &mut sum);
        return Ok(sum);
    }
    for id in ids {
        if is_over(fallback).is_some() {
            break;
        }
        match move_caught(layer, fallback, &[id], tried) {
            Ok(moved) => {
                sum.moved += moved.moved;
                sum.refused += moved.refused;
            }
            Err(error) if is_outage(&error) => return Err(error),
            Err(error) => refused(layer, fallback, id, &error, &mut sum),
        }
    }
    Ok(sum)
}

fn move_caught(layer: &Layer, fallback: &Fallback, ids: &[&str], tried: Tried) -> Result<Moved> {
    let panicked = |_| Err(Error::internal("merging it back panicked"));
    catch_unwind(AssertUnwindSafe(|| move_batch(layer, fallback, ids, tried))).unwrap_or_else(panicked)
}

/// True for a failure of a whole call that says nothing of its items.
fn is_outage(error: &Error) -> bool {
    is_passing(error) || error.kind == ErrorKind::Configuration
}

/// Moves the states of some ids in one call of each child.
fn move_batch(layer: &Layer, fallback: &Fallback, ids: &[&str], tried: Tried) -> Result<Moved> {
    let call = Call::with_budget(CALL_BUDGET);
    // A delete that comes meanwhile waits, so that what it deletes is not merged back.
    let claimed = fallback.holding.moves().claim(ids.iter().copied(), call.deadline);
    let _claimed = claimed.ok_or_else(|| Error::overloaded("deletes of the same evaluations take long"))?;
    let found = fallback.child.backend.get(&call, ids, Fields::Whole)?;
    // What is gone was deleted since it was listed; a part must not be taken for the whole.
    let held: Vec<(&str, &State)> = ids
        .iter()
        .zip(&found)
        .filter_map(|(id, found)| Some((*id, &found.as_ref().filter(|found| !found.incomplete)?.state)))
        .collect();
    let incomplete = found.iter().flatten().filter(|found| found.incomplete).count() as u64;
    let mut moved = Moved { moved: 0, refused: incomplete };
    if held.is_empty() {
        return Ok(moved);
    }
    let mut away = None;
    let taken: Vec<(&str, Hash)> = with_items(&held, |items| -> Result<_> {
        let answers = layer.primary.merge_back(&call, items, tried)?;
        layer.taken_by_primary(&call, items, &answers);
        let mut taken = Vec::with_capacity(items.len());
        for ((item, (id, state)), answer) in items.iter().zip(&held).zip(&answers) {
            match &answer.outcome {
                Outcome::Rejected(error) if is_passing(error) => away = Some(error.clone()),
                Outcome::Rejected(error) => refused(layer, fallback, item.id(), error, &mut moved),
                _ if !layer.primary.is_kept(answer.durability) => moved.refused += 1,
                _ => taken.push((*id, state.digest())),
            }
        }
        debug_assert!(answers.iter().all(|answer| unavailable(answer).is_none()) || away.is_some());
        Ok(taken)
    })?;
    // Once another instance has begun, what is accepted is for its primary, and it may be in what was read above.
    if !fallback.holding.may_move() {
        return Ok(moved);
    }
    let items: Vec<Delete<'_>> = taken.iter().map(|(id, digest)| Delete { id, digest: Some(digest) }).collect();
    if !items.is_empty() {
        for answer in fallback.child.backend.delete(&call, &items)? {
            match answer {
                Deleted::Deleted => moved.moved += 1,
                // It grew meanwhile, and is merged again.
                Deleted::Absent | Deleted::Differs => {}
                Deleted::Failed(error) => away = Some(error),
            }
        }
        fallback.holding.count(-i64::try_from(moved.moved).unwrap_or(i64::MAX));
        layer.host.count("caught_up", moved.moved);
    }
    away.map_or(Ok(moved), Err)
}

fn is_passing(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Overloaded)
}

/// What the primary does not take stays in the fallback, where reads find it.
pub(crate) fn refused(layer: &Layer, fallback: &Fallback, id: &str, cause: &Error, moved: &mut Moved) {
    moved.refused += 1;
    layer.host.count("refused", 1);
    if moved.refused > LOGGED {
        return;
    }
    error!(
        id,
        primary = layer.primary.child.name,
        fallback = %fallback.name,
        error = %cause,
        "primary refuses what the fallback holds; it stays there and is tried again, see to the reason or delete it"
    );
}
