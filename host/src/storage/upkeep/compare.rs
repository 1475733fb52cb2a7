//! Compares what two backends hold, and repairs it by merging both ways.
//!
//! Both are walked in id order, so that memory is bounded. Bodies are compared by their hashes, which are part of the
//! registers' ranks, and are not read. Since events are merged meanwhile, what differs is read again until it stands still.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;
use storage_plugin_api::{Backend, Body, Fields, Hash, Reference, Result, State};

use super::copy::{Copied, Pace, Place, merge};
use super::walk::Walk;
use super::{Patience, get};

/// Pauses between two looks at what differs: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// What changes all the time is given so many times the time that it has to stand still.
const PATIENCE: u32 = 3;
/// So many evaluations that differ are looked at together, as each look takes its time.
const SUSPECTS: usize = 10_000;
/// So many are read in one call.
const READ: usize = 256;
/// Progress is told, and the rate kept, every so many evaluations.
const PART: u64 = 64;

/// What differs in one evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    pub(crate) id: String,
    /// Only one of the two has it.
    pub(crate) only_in: Option<Side>,
    /// It was still changing when it was read for the last time.
    pub(crate) changing: bool,
    /// The registers that differ; none if only one has the evaluation.
    pub(crate) registers: Vec<RegisterDifference>,
    /// Both have the same now.
    pub(crate) repaired: bool,
    /// Who did not take what the other has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<Refusal>,
}

/// What one of the two said when it was to take what the other has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    pub(crate) by: Side,
    pub(crate) reason: String,
}

/// A register that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RegisterDifference {
    pub(crate) name: String,
    /// Only one of the two has it.
    pub(crate) only_in: Option<Side>,
}

/// One of two backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    A,
    B,
}

/// What was compared so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Compared {
    /// Evaluations that one or both have.
    pub(crate) compared: u64,
    pub(crate) different: u64,
    pub(crate) only_in_a: u64,
    pub(crate) only_in_b: u64,
    /// Of the different ones: those that are equal now.
    pub(crate) repaired: u64,
    /// Everything was compared; not if it is told to end before.
    pub(crate) complete: bool,
}

/// What a comparison is given.
pub(crate) struct Comparing<'a> {
    pub(crate) a: &'a dyn Backend,
    pub(crate) b: &'a dyn Backend,
    pub(crate) patience: &'a Patience<'a>,
    /// What differs is merged both ways.
    pub(crate) repair: bool,
    /// Evaluations a second, at most.
    pub(crate) rate: Option<u32>,
    /// How long a difference must stand still: at least what a merge may take that has reached only one of the two.
    pub(crate) settle: Duration,
}

impl Comparing<'_> {
    /// Compares. `report` is told of progress, and of each difference.
    ///
    /// # Errors
    /// When a backend fails for good or for too long, or `report` does.
    pub(crate) fn run(&self, report: &mut dyn FnMut(&Compared, Option<&Difference>) -> Result<()>) -> Result<Compared> {
        let mut walks = [self.a, self.b].map(|backend| Walk::new(backend, self.patience, Place::default()));
        let (mut a, mut b) = (walks[0].next()?, walks[1].next()?);
        let mut compared = Compared::default();
        let mut suspects: Vec<String> = Vec::new();
        let mut pace = Pace::new(self.rate);
        loop {
            if (self.patience.is_told_to_end)() {
                // Of these nobody knows yet.
                compared.compared -= suspects.len() as u64;
                return Ok(compared);
            }
            let order = match (&a, &b) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            compared.compared += 1;
            let (left, right) = match order {
                Ordering::Less => (a.take(), None),
                Ordering::Greater => (None, b.take()),
                Ordering::Equal => (a.take(), b.take()),
            };
            if a.is_none() && order.is_le() {
                a = walks[0].next()?;
            }
            if b.is_none() && order.is_ge() {
                b = walks[1].next()?;
            }
            let is_incomplete =
                [&left, &right].iter().any(|side| side.as_ref().is_some_and(|(_, found)| found.incomplete));
            let digests = [&left, &right].map(|side| side.as_ref().map(|(_, found)| digest(&found.state)));
            if (digests[0] != digests[1] || is_incomplete)
                && let Some((id, _)) = left.or(right)
            {
                suspects.push(id);
            }
            if suspects.len() >= SUSPECTS {
                self.look_again(&std::mem::take(&mut suspects), &mut compared, report)?;
            }
            if compared.compared.is_multiple_of(PART) {
                report(&compared, None)?;
                pace.wait(PART as usize, self.patience);
            }
        }
        self.look_again(&suspects, &mut compared, report)?;
        compared.complete = !(self.patience.is_told_to_end)();
        report(&compared, None)?;
        Ok(compared)
    }

    fn look_again(
        &self,
        ids: &[String],
        compared: &mut Compared,
        report: &mut dyn FnMut(&Compared, Option<&Difference>) -> Result<()>,
    ) -> Result<()> {
        let mut differences = self.still_different(ids.iter().map(String::as_str).collect())?;
        // What was found is told whatever becomes of the repair.
        let repaired = if self.repair { self.repair(&mut differences) } else { Ok(()) };
        for difference in differences {
            compared.repaired += u64::from(difference.repaired);
            compared.different += 1;
            match difference.only_in {
                Some(Side::A) => compared.only_in_a += 1,
                Some(Side::B) => compared.only_in_b += 1,
                None => {}
            }
            report(compared, Some(&difference))?;
        }
        repaired
    }

    /// Of some evaluations those that differ when they are read again; each is read until it stands still.
    fn still_different(&self, ids: Vec<&str>) -> Result<Vec<Difference>> {
        let start = Instant::now();
        let mut moving: Vec<Moving<'_>> = ids.into_iter().map(|id| Moving { id, seen: None, since: start }).collect();
        let mut differences = Vec::new();
        let mut pause = PAUSES[0];
        loop {
            let is_last = start.elapsed() >= self.settle * PATIENCE || (self.patience.is_told_to_end)();
            let mut still = Vec::new();
            for part in moving.chunks(READ) {
                self.read_again(part, is_last, &mut still, &mut differences)?;
            }
            moving = still;
            if moving.is_empty() {
                break;
            }
            self.patience.sleep(pause);
            pause = (pause * 2).min(PAUSES[1]);
        }
        differences.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(differences)
    }

    /// Reads some again: what is equal goes, what stands still differs.
    fn read_again<'b>(
        &self,
        part: &[Moving<'b>],
        is_last: bool,
        still: &mut Vec<Moving<'b>>,
        differences: &mut Vec<Difference>,
    ) -> Result<()> {
        let ids: Vec<&str> = part.iter().map(|moving| moving.id).collect();
        let a = get(self.a, self.patience, &ids, Fields::WithoutBodies)?;
        let b = get(self.b, self.patience, &ids, Fields::WithoutBodies)?;
        let now = Instant::now();
        for ((moving, a), b) in part.iter().zip(a).zip(b) {
            let [a, b] = [a, b].map(|found| found.map(|found| found.state));
            let seen = [a.as_ref().map(digest), b.as_ref().map(digest)];
            if seen[0] == seen[1] {
                continue;
            }
            let since = if moving.seen == Some(seen) { moving.since } else { now };
            let stands_still = moving.seen.is_some() && now.duration_since(since) >= self.settle;
            // What was repaired counts as different if there is no time left to see that it is not.
            if stands_still || is_last {
                differences.push(difference(moving.id, a.as_ref(), b.as_ref(), !stands_still));
            } else {
                still.push(Moving { id: moving.id, seen: Some(seen), since });
            }
        }
        Ok(())
    }

    /// Merges each both ways, and says of which both have the same then.
    fn repair(&self, differences: &mut [Difference]) -> Result<()> {
        for difference in &mut *differences {
            difference.refused = self.merge_both_ways(&difference.id)?;
        }
        // Together, since those that still differ are waited for. What was refused does for certain.
        let merged = differences.iter().filter(|difference| difference.refused.is_empty());
        let left = self.still_different(merged.map(|difference| difference.id.as_str()).collect())?;
        let left: BTreeSet<String> = left.into_iter().map(|difference| difference.id).collect();
        for difference in differences {
            difference.repaired = difference.refused.is_empty() && !left.contains(&difference.id);
        }
        Ok(())
    }

    /// Gives each of the two what the other has.
    fn merge_both_ways(&self, id: &str) -> Result<Vec<Refusal>> {
        let mut refused = Vec::new();
        for (from, to, by) in [(self.a, self.b, Side::B), (self.b, self.a, Side::A)] {
            let Some(found) = get(from, self.patience, &[id], Fields::Whole)?.pop().flatten() else { continue };
            let mut merged = Copied::default();
            merge(to, self.patience, &[(id, &found.state)], &mut merged)?;
            refused.extend(merged.rejections.into_iter().map(|rejection| Refusal { by, reason: rejection.reason }));
        }
        Ok(refused)
    }
}

/// An evaluation that differs: what was seen of the two the last time, and since when that is so.
struct Moving<'a> {
    id: &'a str,
    seen: Option<[Option<Hash>; 2]>,
    since: Instant,
}

/// The digest of a state without what a backend may choose of a body: its text or a reference, and to what place.
fn digest(state: &State) -> Hash {
    comparable(state).digest()
}

fn comparable(state: &State) -> State {
    let mut state = state.without_bodies();
    state.map_bodies(|_, body| {
        let reference = body.as_reference()?;
        let is_plain = reference.location.is_none() && reference.preview.is_empty();
        let plain = || Reference { location: None, preview: String::new(), ..reference.clone() };
        (!is_plain).then(|| Body::reference(plain()))
    });
    state
}

fn difference(id: &str, a: Option<&State>, b: Option<&State>, changing: bool) -> Difference {
    let (only_in, registers) = match (a, b) {
        (Some(a), Some(b)) => (None, registers(&comparable(a), &comparable(b))),
        (Some(_), None) => (Some(Side::A), Vec::new()),
        (None, _) => (Some(Side::B), Vec::new()),
    };
    Difference { id: id.to_owned(), only_in, changing, registers, repaired: false, refused: Vec::new() }
}

/// The registers in which two states differ, by name.
fn registers(a: &State, b: &State) -> Vec<RegisterDifference> {
    let difference = |name: &str, only_in| RegisterDifference { name: name.to_owned(), only_in };
    let mut differences = Vec::new();
    for register in a.registers() {
        match b.get(&register.name) {
            None => differences.push(difference(&register.name, Some(Side::A))),
            Some(other) => {
                let alone = |register: &storage_plugin_api::Register| {
                    let mut state = State::new();
                    state.set(register.clone());
                    state.digest()
                };
                if alone(register) != alone(other) {
                    differences.push(difference(&register.name, None));
                }
            }
        }
    }
    let only_b = b.registers().iter().filter(|register| a.get(&register.name).is_none());
    differences.extend(only_b.map(|register| difference(&register.name, Some(Side::B))));
    differences.sort_by(|one, other| one.name.cmp(&other.name));
    differences
}
