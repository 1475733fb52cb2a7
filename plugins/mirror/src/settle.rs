//! Brings a shadow one piece of work. What it could not do now is put back, what it will never do is refused. What alone it
//! could not do is set aside.

use std::time::Duration;

use storage_plugin_api::{
    Call, Child, Delete, Deleted, Error, ErrorKind, Fields, Item, Outcome, Prune, Result, State, with_items,
};

use crate::mirror::Layer;
use crate::queue::{Merge, Work};
use crate::shadow::Shadow;

/// How long a call of a child may take.
const CALL_BUDGET: Duration = Duration::from_secs(10);
/// About how many characters of bodies are read from the primary at once.
const READ_CHARACTERS: u64 = 4 * 1024 * 1024;

/// So many of those that were set aside are looked at alone where they failed together.
const ALONE: usize = 16;

/// What came of some work.
pub(crate) enum Came {
    /// All of it is done, or refused for good.
    Through,
    /// Some of it is, and the rest is set aside.
    Partly(Error),
    /// Nothing of it is, though the children are there.
    Aside(Error),
    /// Nothing of it is, and it had been set aside before.
    Still(Error),
    /// A child is away.
    Away(Error),
}

/// What is left of some work.
struct Left<T> {
    /// It could not be done now, with what comes behind it.
    rest: Vec<T>,
    /// These could not, while others could.
    aside: Vec<Box<str>>,
    error: Option<Error>,
    /// Something was done.
    is_through: bool,
}

/// Does the work, and tells the queue.
pub(crate) fn settle(layer: &Layer, shadow: &Shadow, work: Work) -> Came {
    match work {
        Work::Merge(merges) => tell(shadow, merge(layer, shadow, merges), Work::Merge),
        Work::Look(ids) => tell(shadow, look(layer, shadow, ids), Work::Look),
        Work::Owed(ids) => tell(shadow, look(layer, shadow, ids), Work::Owed),
        Work::Aside(ids) => look_aside(layer, shadow, ids),
        Work::Prune(one) => match prune(shadow, &one) {
            Err(error) if is_passing(&error) => {
                shadow.queue.settled(Some(Work::Prune(one)), Vec::new());
                Came::Away(error)
            }
            pruned => {
                if let Err(error) = pruned {
                    shadow.queue.lose(1);
                    shadow.does_not_prune(&error);
                }
                shadow.queue.settled(None, Vec::new());
                Came::Through
            }
        },
    }
}

fn tell<T>(shadow: &Shadow, left: Left<T>, work: fn(Vec<T>) -> Work) -> Came {
    let Left { rest, aside, error, is_through } = left;
    let is_away = !rest.is_empty();
    shadow.queue.settled(is_away.then(|| work(rest)), aside);
    match error {
        None => Came::Through,
        Some(error) if is_away => Came::Away(error),
        Some(error) if is_through => Came::Partly(error),
        Some(error) => Came::Aside(error),
    }
}

/// Looks at those that were set aside: together, and at some of them alone where one may be at fault.
fn look_aside(layer: &Layer, shadow: &Shadow, ids: Vec<Box<str>>) -> Came {
    let mut left = look(layer, shadow, ids);
    if left.rest.len() > 1 {
        let later = left.rest.split_off(left.rest.len().min(ALONE));
        for id in std::mem::take(&mut left.rest) {
            match left.rest.is_empty() {
                true => left.join(look(layer, shadow, vec![id])),
                false => left.rest.push(id),
            }
        }
        left.rest.extend(later);
    }
    left.aside.append(&mut left.rest);
    shadow.queue.settled(Some(Work::Aside(left.aside)), Vec::new());
    match left.error {
        None => Came::Through,
        Some(error) if left.is_through => Came::Partly(error),
        Some(error) => Came::Still(error),
    }
}

impl<T> Left<T> {
    fn nothing() -> Self {
        Self { rest: Vec::new(), aside: Vec::new(), error: None, is_through: false }
    }

    fn join(&mut self, other: Self) {
        self.rest.extend(other.rest);
        self.aside.extend(other.aside);
        self.error = other.error.or(self.error.take());
        self.is_through |= other.is_through;
    }
}

/// True for a failure that says nothing of the items. `Configuration` is an outage that the operator must end.
pub(crate) fn is_passing(error: &Error) -> bool {
    match error.kind {
        ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => true,
        ErrorKind::InvalidItem | ErrorKind::Internal => false,
    }
}

/// Merges; alone what fails together.
fn merge(layer: &Layer, shadow: &Shadow, merges: Vec<Merge>) -> Left<Merge> {
    let lent: Vec<(&str, &State)> = merges.iter().map(|merge| (&*merge.id, &*merge.state)).collect();
    let outcomes = with_items(&lent, |items| merge_each(shadow, items));
    let mut left = Left::nothing();
    let mut taken = 0;
    for (one, outcome) in merges.into_iter().zip(outcomes) {
        match outcome {
            Ok(()) => taken += 1,
            Err(error) if is_passing(&error) => {
                left.rest.push(one);
                left.error.get_or_insert(error);
                continue;
            }
            Err(error) => refuses(layer, shadow, &one.id, &error),
        }
        left.is_through = true;
    }
    layer.host.count("shadow_merged", taken);
    let is_one = left.rest.len() == 1;
    if left.is_through || is_one && is_there(&shadow.child, &call(shadow)) {
        left.aside.extend(left.rest.drain(..).map(|one| Box::from(&*one.id)));
    }
    left
}

/// Whether a child that failed for one evaluation answers for another.
fn is_there(child: &Child, call: &Call) -> bool {
    child.backend.get(call, &["0"], Fields::WithoutBodies).is_ok()
}

/// What became of each item. A failure of the whole call that is not an outage is due to one of them, so each is tried alone.
fn merge_each(shadow: &Shadow, items: &[Item<'_>]) -> Vec<Result<()>> {
    match shadow.child.backend.merge(&call(shadow), items) {
        Ok(answers) => answers
            .into_iter()
            .map(|answer| match answer.outcome {
                Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::Accepted => Ok(()),
                Outcome::Rejected(error) => Err(error),
            })
            .collect(),
        Err(error) if is_passing(&error) || items.len() == 1 => items.iter().map(|_| Err(error.clone())).collect(),
        Err(_) => {
            let mut outcomes: Vec<Result<()>> = Vec::with_capacity(items.len());
            for item in items {
                // Who is away for one is away for the rest.
                let outcome = match outcomes.last() {
                    Some(Err(error)) if is_passing(error) => Err(error.clone()),
                    _ => merge_each(shadow, std::slice::from_ref(item)).remove(0),
                };
                outcomes.push(outcome);
            }
            outcomes
        }
    }
}

/// Brings the shadow to what the primary has of some ids.
fn look(layer: &Layer, shadow: &Shadow, mut ids: Vec<Box<str>>) -> Left<Box<str>> {
    let mut left = Left::nothing();
    let is_one = ids.len() == 1;
    while !ids.is_empty() && left.rest.is_empty() {
        match look_at_some(layer, shadow, &ids) {
            Ok(Looked { done, unsettled, error }) => {
                left.is_through |= unsettled.len() < done;
                left.aside.extend(unsettled);
                left.error = error.or(left.error);
                ids.drain(..done);
            }
            Err(error) if is_passing(&error) => {
                let are_there = || [&layer.primary, &shadow.child].map(|child| is_there(child, &call(shadow)));
                match is_one && are_there() == [true; 2] {
                    true => left.aside.append(&mut ids),
                    false => left.rest.append(&mut ids),
                }
                left.error = Some(error);
            }
            // One of them is at fault, and which one is found by looking at each alone.
            Err(error) if ids.len() == 1 => {
                refuses(layer, shadow, &ids[0], &error);
                left.is_through = true;
                ids.clear();
            }
            Err(_) => {
                for id in std::mem::take(&mut ids) {
                    match left.rest.is_empty() {
                        true => left.join(look(layer, shadow, vec![id])),
                        false => left.rest.push(id),
                    }
                }
            }
        }
    }
    left
}

/// What came of the first of some ids.
struct Looked {
    /// So many of them.
    done: usize,
    /// Among these there is no telling yet, or the shadow fails for them while it does not for others.
    unsettled: Vec<Box<str>>,
    error: Option<Error>,
}

/// Looks at as many as fit into memory.
fn look_at_some(layer: &Layer, shadow: &Shadow, ids: &[Box<str>]) -> Result<Looked> {
    let primary = &layer.primary.backend;
    let all: Vec<&str> = ids.iter().map(|id| &**id).collect();
    let seen = primary.get(&call(shadow), &all, Fields::WithoutBodies)?;
    let mut characters = 0;
    let fits = |state: &State| {
        let own = state.registers().iter().filter_map(|register| register.value.as_body());
        characters += own.map(|body| body.characters()).sum::<u64>();
        characters <= READ_CHARACTERS
    };
    let mut fits = fits;
    let done =
        1 + seen.iter().skip(1).take_while(|found| found.as_ref().is_none_or(|found| fits(&found.state))).count();
    let some = &all[..done.min(all.len())];
    let found = primary.get(&call(shadow), some, Fields::Whole)?;
    let (mut held, mut absent, mut unsettled) = (Vec::new(), Vec::new(), Vec::new());
    for (id, found) in some.iter().zip(&found) {
        match found {
            Some(found) => {
                held.push((*id, &found.state));
                if found.incomplete {
                    unsettled.push((*id).into());
                }
            }
            None => absent.push(*id),
        }
    }
    let mut error = None;
    if !unsettled.is_empty() {
        error = Some(Error::unavailable("the primary cannot tell all of it now"));
    }
    let outcomes = if held.is_empty() { Vec::new() } else { with_items(&held, |items| merge_each(shadow, items)) };
    let mut failed = Vec::new();
    for ((id, _), outcome) in held.iter().zip(outcomes) {
        match outcome {
            Ok(()) => {}
            Err(error) if is_passing(&error) => failed.push((*id, error)),
            Err(error) => refuses(layer, shadow, id, &error),
        }
    }
    let back = delete(layer, shadow, &absent, &mut failed)?;
    if !back.is_empty() {
        error = Some(Error::unavailable("it changes meanwhile"));
    }
    unsettled.extend(back);
    if failed.len() == some.len() {
        return Err(failed.swap_remove(0).1);
    }
    for (id, cause) in failed {
        unsettled.push(id.into());
        error = Some(cause);
    }
    unsettled.sort_unstable();
    unsettled.dedup();
    layer.host.count("shadow_repaired", (some.len() - unsettled.len()) as u64);
    Ok(Looked { done: some.len(), unsettled, error })
}

/// Deletes what the primary does not have; gives those that it has after all, since somebody merged them meanwhile. Those
/// that the shadow cannot delete now are added to `failed`.
fn delete<'i>(
    layer: &Layer,
    shadow: &Shadow,
    absent: &[&'i str],
    failed: &mut Vec<(&'i str, Error)>,
) -> Result<Vec<Box<str>>> {
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let items: Vec<Delete<'_>> = absent.iter().map(|id| Delete { id, digest: None }).collect();
    for (id, answer) in absent.iter().zip(shadow.child.backend.delete(&call(shadow), &items)?) {
        match answer {
            Deleted::Deleted | Deleted::Absent | Deleted::Differs => {}
            Deleted::Failed(error) if is_passing(&error) => failed.push((id, error)),
            Deleted::Failed(error) => refuses(layer, shadow, id, &error),
        }
    }
    let after = layer.primary.backend.get(&call(shadow), absent, Fields::WithoutBodies)?;
    let is_back = absent.iter().zip(after).filter(|(_, found)| found.is_some());
    Ok(is_back.map(|(id, _)| (*id).into()).collect())
}

fn prune(shadow: &Shadow, prune: &Prune) -> Result<()> {
    loop {
        match shadow.child.backend.prune(&call(shadow), prune) {
            Ok(pruned) if pruned.more && !shadow.queue.is_ending() => {}
            // What is left goes with the next prune.
            Ok(_) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn call(shadow: &Shadow) -> Call {
    Call::with_budget(shadow.queue.budget(CALL_BUDGET))
}

fn refuses(layer: &Layer, shadow: &Shadow, id: &str, error: &Error) {
    layer.host.count("shadow_refused", 1);
    shadow.refuses(id, error);
}
