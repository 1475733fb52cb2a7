//! Brings a shadow one piece of work. What it could not do now is put back, what it will never do is refused.

use std::time::Duration;

use storage_plugin_api::{
    Call, Delete, Deleted, Error, ErrorKind, Fields, Item, Outcome, Prune, Result, State, with_items,
};

use crate::mirror::Layer;
use crate::queue::{Merge, Work};
use crate::shadow::Shadow;

/// How long a call of a child may take.
const CALL_BUDGET: Duration = Duration::from_secs(10);
/// About how many characters of bodies are read from the primary at once.
const READ_CHARACTERS: u64 = 4 * 1024 * 1024;

/// What could not be done now, and why.
type Rest<T> = Option<(Vec<T>, Error)>;

/// Does the work, and tells the queue. An error means that a child is away.
pub(crate) fn settle(layer: &Layer, shadow: &Shadow, work: Work) -> Option<Error> {
    let (rest, error) = match work {
        Work::Merge(merges) => split(merge(layer, shadow, merges), Work::Merge),
        Work::Look(ids) => split(look(layer, shadow, ids), Work::Look),
        Work::Owed(ids) => split(look(layer, shadow, ids), Work::Owed),
        Work::Prune(one) => match prune(shadow, &one) {
            Ok(()) => (None, None),
            Err(error) => (Some(Work::Prune(one)), Some(error)),
        },
    };
    shadow.queue.settled(rest);
    error
}

fn split<T>(rest: Rest<T>, work: fn(Vec<T>) -> Work) -> (Option<Work>, Option<Error>) {
    rest.map_or((None, None), |(rest, error)| (Some(work(rest)), Some(error)))
}

/// True for a failure that says nothing of the items. `Configuration` is an outage that the operator must end.
pub(crate) fn is_passing(error: &Error) -> bool {
    match error.kind {
        ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => true,
        ErrorKind::InvalidItem | ErrorKind::Internal => false,
    }
}

/// Merges; alone what fails together.
fn merge(layer: &Layer, shadow: &Shadow, merges: Vec<Merge>) -> Rest<Merge> {
    let lent: Vec<(&str, &State)> = merges.iter().map(|merge| (&*merge.id, &*merge.state)).collect();
    let refuse = |id: &str, error: &Error| refuses(layer, shadow, id, error);
    let outcomes = with_items(&lent, |items| merge_each(shadow, items));
    let mut away = None;
    let mut taken = 0;
    let mut rest = Vec::new();
    for (one, outcome) in merges.into_iter().zip(outcomes) {
        match outcome {
            Ok(()) => taken += 1,
            Err(error) if is_passing(&error) => {
                rest.push(one);
                away.get_or_insert(error);
            }
            Err(error) => refuse(&one.id, &error),
        }
    }
    layer.host.count("shadow_merged", taken);
    away.map(|error| (rest, error))
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
fn look(layer: &Layer, shadow: &Shadow, mut ids: Vec<Box<str>>) -> Rest<Box<str>> {
    let mut failure = None;
    let mut again: Vec<Box<str>> = Vec::new();
    while !ids.is_empty() && failure.is_none() {
        let looked = look_at_some(layer, shadow, &ids);
        match looked {
            Ok(Looked { done, unsettled }) => {
                again.extend(unsettled);
                ids.drain(..done);
            }
            Err(error) if is_passing(&error) => failure = Some(error),
            // One of them is at fault, and which one is found by looking at each alone.
            Err(error) if ids.len() == 1 => {
                refuses(layer, shadow, &ids[0], &error);
                ids.clear();
            }
            Err(_) => {
                for id in std::mem::take(&mut ids) {
                    match failure {
                        Some(_) => ids.push(id),
                        None => {
                            if let Some((rest, error)) = look(layer, shadow, vec![id]) {
                                ids.extend(rest);
                                failure = Some(error);
                            }
                        }
                    }
                }
            }
        }
    }
    again.extend(ids);
    if failure.is_none() && !again.is_empty() {
        failure = Some(Error::unavailable("the primary cannot tell all of it now, or it changes meanwhile"));
    }
    failure.map(|error| (again, error))
}

/// What came of the first of some ids.
struct Looked {
    /// So many of them.
    done: usize,
    /// Among these there is no telling yet.
    unsettled: Vec<Box<str>>,
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
    let outcomes = if held.is_empty() { Vec::new() } else { with_items(&held, |items| merge_each(shadow, items)) };
    for ((id, _), outcome) in held.iter().zip(outcomes) {
        match outcome {
            Ok(()) => {}
            Err(error) if is_passing(&error) => return Err(error),
            Err(error) => refuses(layer, shadow, id, &error),
        }
    }
    unsettled.extend(delete(layer, shadow, &absent)?);
    layer.host.count("shadow_repaired", (some.len() - unsettled.len()) as u64);
    Ok(Looked { done: some.len(), unsettled })
}

/// Deletes what the primary does not have; gives those that it has after all, since somebody merged them meanwhile.
fn delete(layer: &Layer, shadow: &Shadow, absent: &[&str]) -> Result<Vec<Box<str>>> {
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let items: Vec<Delete<'_>> = absent.iter().map(|id| Delete { id, digest: None }).collect();
    for (id, answer) in absent.iter().zip(shadow.child.backend.delete(&call(shadow), &items)?) {
        match answer {
            Deleted::Deleted | Deleted::Absent | Deleted::Differs => {}
            Deleted::Failed(error) if is_passing(&error) => return Err(error),
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
