//! Merges everything that one backend holds into another.
//!
//! The order is that of the ids; each part is read whole, merged, and reported with the place behind it. What is merged
//! into the source meanwhile behind that place is not seen: a mirror carries it over, or a second copy.

use std::time::{Duration, Instant};

use serde::Serialize;
use storage_plugin_api::{Backend, Error, ErrorKind, Fields, Found, Item, Outcome, Result, State, with_items};

pub(crate) use super::walk::Place;
use super::walk::Walk;
use super::{Patience, Pauses, get, is_passing, parts, whole_bytes};

/// So many refusals are kept with their reasons; more are only counted.
const REFUSALS: usize = 1000;

/// How to copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copying {
    /// States merged at once, at most.
    pub(crate) batch: usize,
    /// States a second, at most.
    pub(crate) rate: Option<u32>,
    /// Nothing is merged.
    pub(crate) dry_run: bool,
    /// Where to begin.
    pub(crate) place: Place,
}

/// What was copied so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Copied {
    /// Evaluations that were read (or would be).
    pub(crate) copied: u64,
    /// About how many bytes they have.
    pub(crate) bytes: u64,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    pub(crate) unchanged: u64,
    /// Taken for later.
    pub(crate) accepted: u64,
    /// Deleted since they were listed.
    pub(crate) gone: u64,
    /// Not taken.
    pub(crate) rejected: u64,
    /// The first of those.
    pub(crate) rejections: Vec<Rejection>,
    /// It went to the end; it does not if it is told to end before.
    pub(crate) complete: bool,
}

/// A state that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Rejection {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
}

/// Copies. `report` is told after each part what was done, and where another copy would go on.
///
/// # Errors
/// When a backend fails for good or for too long, or `report` does; what was copied until then stays.
pub(crate) fn copy(
    from: &dyn Backend,
    to: &dyn Backend,
    copying: &Copying,
    patience: &Patience<'_>,
    report: &mut dyn FnMut(&Copied, &Place) -> Result<()>,
) -> Result<Copied> {
    let mut walk = Walk::new(from, patience, copying.place.clone());
    let mut copied = Copied::default();
    let batch = copying.rate.map_or(copying.batch, |rate| copying.batch.min(rate as usize)).max(1);
    let mut pace = Pace::new(copying.rate);
    loop {
        let page = walk.page()?;
        let Some((_, _)) = page.last() else { break };
        for part in parts(&page, batch) {
            pace.wait(part.len(), patience);
            if (patience.is_told_to_end)() {
                // Another copy goes on behind what this one has.
                if !copying.dry_run {
                    patience.ask(|call| to.flush(call))?;
                }
                return Ok(copied);
            }
            copied.copied += part.len() as u64;
            copied.bytes += part.iter().map(|(_, found)| whole_bytes(found)).sum::<u64>();
            if !copying.dry_run {
                copy_part(from, to, patience, part, &mut copied)?;
            }
            let (last, _) = part.last().expect("a part is not empty");
            report(&copied, &walk.behind(last))?;
        }
    }
    if !copying.dry_run {
        patience.ask(|call| to.flush(call))?;
    }
    copied.complete = true;
    Ok(copied)
}

fn copy_part(
    from: &dyn Backend,
    to: &dyn Backend,
    patience: &Patience<'_>,
    part: &[(String, Found)],
    copied: &mut Copied,
) -> Result<()> {
    let ids: Vec<&str> = part.iter().map(|(id, _)| id.as_str()).collect();
    let found = get(from, patience, &ids, Fields::Whole)?;
    let states: Vec<(&str, &State)> =
        ids.iter().zip(&found).filter_map(|(id, found)| Some((*id, &found.as_ref()?.state))).collect();
    copied.gone += (ids.len() - states.len()) as u64;
    merge(to, patience, &states, copied)
}

/// Merges states, each until it is taken or refused for good.
pub(super) fn merge(
    to: &dyn Backend,
    patience: &Patience<'_>,
    states: &[(&str, &State)],
    copied: &mut Copied,
) -> Result<()> {
    let mut pauses = Pauses::until(Instant::now() + patience.limit);
    let mut left = states.to_vec();
    while !left.is_empty() {
        let merged = patience.ask(|call| with_items(&left, |items: &[Item<'_>]| to.merge(call, items)));
        let answers = match merged {
            Ok(answers) => answers,
            Err(error) if !matches!(error.kind, ErrorKind::InvalidItem | ErrorKind::Internal) => return Err(error),
            Err(error) => match left.as_slice() {
                [(id, _)] => {
                    copied.reject(id, &error);
                    return Ok(());
                }
                // One of them is guilty, and nothing is known of the others.
                several => return several.iter().try_for_each(|one| merge(to, patience, &[*one], copied)),
            },
        };
        let mut again = Vec::new();
        let mut away = None;
        for (state, answer) in left.into_iter().zip(answers) {
            match answer.outcome {
                Outcome::Created => copied.created += 1,
                Outcome::Updated => copied.updated += 1,
                Outcome::Unchanged => copied.unchanged += 1,
                Outcome::Accepted => copied.accepted += 1,
                Outcome::Rejected(error) if is_passing(&error) => {
                    again.push(state);
                    away = Some(error);
                }
                Outcome::Rejected(error) => copied.reject(state.0, &error),
            }
        }
        left = again;
        if let Some(error) = away {
            patience.pause(&mut pauses, error)?;
        }
    }
    Ok(())
}

impl Copied {
    fn reject(&mut self, id: &str, error: &Error) {
        self.rejected += 1;
        if self.rejections.len() < REFUSALS {
            let (kind, reason) = (error.kind.as_str(), error.message.clone());
            self.rejections.push(Rejection { id: id.to_owned(), kind, reason });
        }
    }
}

/// Keeps to a number of states a second.
pub(super) struct Pace {
    rate: Option<u32>,
    free_at: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<u32>) -> Self {
        Self { rate, free_at: Instant::now() }
    }

    /// Waits until so many more may go.
    pub(super) fn wait(&mut self, count: usize, patience: &Patience<'_>) {
        let Some(rate) = self.rate else { return };
        let now = Instant::now();
        patience.sleep(self.free_at.saturating_duration_since(now));
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        let takes = Duration::from_secs_f64(count as f64 / f64::from(rate));
        self.free_at = self.free_at.max(now) + takes;
    }
}
