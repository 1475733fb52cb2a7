//! Merges events into a backend that is named, without a worker between: decoded as the worker does, joined by evaluation,
//! and tried until the backend has taken them, or is found to refuse them for themselves.
//!
//! As the worker does (`worker/retry.rs`): an outage is waited out, and what fails in company is tried alone before anything
//! is held against it. No more events come by to show whether a backend still works, so one that it took before is merged again.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use storage_plugin_api::{Answer, Backend, Call, Error, ErrorKind, Outcome, State, with_items};
use tracing::warn;

use super::record::Record;
use crate::event::Event;
use crate::event::decode::{Arrival, Limits, decode};
use crate::event::row::EventRows;

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often an event may alone be answered `internal`, while others pass, before it is given up.
const STRIKES: u32 = 3;
/// So many events are tried alone, one after the other, while none passes.
const PROBES: usize = 16;
/// So often in a row a backend may answer `internal` and take nothing at all.
const FRUITLESS_ROUNDS: u32 = 8;

/// Why an event was not merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The class, as dead letters have it.
    pub reason: String,
    /// What was wrong.
    pub error: String,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { reason: error.kind.as_str().to_owned(), error: error.message }
    }
}

/// The backend fails whatever it is given, which is no event's fault.
#[derive(Debug, thiserror::Error)]
#[error("the backend takes nothing, so the events are not to blame: {0}; see its log")]
pub struct TakesNothing(Error);

/// What events mean and how they reach a backend.
#[allow(missing_debug_implementations, reason = "a backend has none")]
pub struct Into<'a> {
    rows: &'a EventRows,
    limits: Limits,
    backend: &'a dyn Backend,
    call_timeout: Duration,
    /// An event that the backend has taken.
    witness: RefCell<Option<(String, State)>>,
}

/// An event on its way.
struct Tried {
    /// Its place among the records.
    index: usize,
    id: String,
    state: State,
    /// It goes in calls of its own.
    alone: bool,
    /// How often it alone was answered `internal`, while others passed.
    strikes: u32,
}

/// An event that was not taken.
struct Failed {
    event: Tried,
    error: Error,
    /// The error is about this event and no other.
    is_own: bool,
}

/// What came of trying events once.
#[derive(Default)]
struct Round {
    passed: bool,
    failed: Vec<Failed>,
    /// Those whose turn did not come.
    left: Vec<Tried>,
}

impl<'a> Into<'a> {
    /// The way into a backend; a call of it may take so long.
    #[must_use]
    pub fn new(rows: &'a EventRows, limits: Limits, backend: &'a dyn Backend, call_timeout: Duration) -> Self {
        Self { rows, limits, backend, call_timeout, witness: RefCell::default() }
    }

    /// Decodes an event; an error says why it is none. One that tells no time, and with which none travels, is at `no_time`.
    ///
    /// # Errors
    /// As a dead letter would say.
    pub fn decode(rows: &EventRows, limits: &Limits, record: &Record, no_time: i64) -> Result<Event, Refused> {
        let Some(row) = rows.get(&record.channel) else {
            let error = format!("channel `{}` has no row in `[events]`; add one, or leave it out", record.channel);
            return Err(Refused { reason: "unknown_channel".to_owned(), error });
        };
        let arrival = Arrival { received_at: no_time, entry_time: record.time, event_id: record.event_id.as_deref() };
        decode(&record.channel, row, &record.payload, arrival, limits)
            .map_err(|reject| Refused { reason: reject.class().to_owned(), error: reject.to_string() })
    }

    /// Merges events, however long the backend is away. Says of each why it was not merged, if it was not.
    ///
    /// # Errors
    /// When the backend answers `internal` to everything, for some seconds; some events may have been merged before.
    pub fn merge(&self, records: &[Record], no_time: i64) -> Result<Vec<Option<Refused>>, TakesNothing> {
        let mut refused: Vec<Option<Refused>> = vec![None; records.len()];
        let mut events = Vec::with_capacity(records.len());
        for (index, record) in records.iter().enumerate() {
            match Self::decode(self.rows, &self.limits, record, no_time) {
                Ok(Event { evaluation_id, state, .. }) => {
                    let id = evaluation_id.to_string();
                    events.push(Tried { index, id, state, alone: false, strikes: 0 });
                }
                Err(reject) => refused[index] = Some(reject),
            }
        }
        let (mut pauses, mut attempt, mut fruitless) = (pauses(), 0_u32, 0);
        while !events.is_empty() {
            let round = self.round(events, attempt);
            let passed = round.passed;
            let (left, pause_for, witness) = self.judge(round, attempt, &mut refused);
            events = left;
            if passed || witness == Some(true) {
                (pauses, attempt, fruitless) = (self::pauses(), 0, 0);
            }
            let Some(error) = pause_for else { continue };
            fruitless += u32::from(witness == Some(false));
            if fruitless >= FRUITLESS_ROUNDS {
                return Err(TakesNothing(error));
            }
            if attempt.is_multiple_of(8) {
                warn!(%error, events = events.len(), "the backend did not take events, will try again");
            }
            attempt = attempt.saturating_add(1);
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
            std::thread::sleep(error.retry_after.map_or(pause, |hint| hint.clamp(pause, LONGEST_PAUSE)));
        }
        Ok(refused)
    }

    /// Decides on what was not taken: what is tried again, what to pause for, and whether anything still passed where that
    /// was to be known.
    fn judge(
        &self,
        round: Round,
        attempt: u32,
        refused: &mut [Option<Refused>],
    ) -> (Vec<Tried>, Option<Error>, Option<bool>) {
        let Round { passed, failed, mut left } = round;
        let (mut pause_for, mut witness) = (None, None);
        for Failed { mut event, error, is_own } in failed {
            match error.kind {
                ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => pause_for = Some(error),
                ErrorKind::InvalidItem | ErrorKind::Internal if !is_own => event.alone = true,
                ErrorKind::InvalidItem => {
                    refused[event.index] = Some(error.into());
                    continue;
                }
                ErrorKind::Internal => {
                    let passes = *witness.get_or_insert_with(|| passed || self.witness_passes(attempt));
                    event.strikes = if passes { event.strikes + 1 } else { 0 };
                    if event.strikes >= STRIKES {
                        refused[event.index] = Some(error.into());
                        continue;
                    }
                    pause_for = Some(error);
                }
            }
            // Behind what was not tried, so that it cannot keep the others from their turn.
            left.push(event);
        }
        (left, pause_for, witness)
    }

    /// Tries all events once: what may be together in one call, joined by evaluation, the rest one by one.
    fn round(&self, events: Vec<Tried>, attempt: u32) -> Round {
        let mut round = Round::default();
        let (alone, together): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.alone);
        let mut joined: BTreeMap<String, Vec<Tried>> = BTreeMap::new();
        for event in together {
            joined.entry(event.id.clone()).or_default().push(event);
        }
        let mut goes_on = joined.is_empty() || self.try_once(joined.into_values().collect(), attempt, &mut round);
        for (probes, event) in alone.into_iter().enumerate() {
            if goes_on && (round.passed || probes < PROBES) {
                goes_on = self.try_once(vec![vec![event]], attempt, &mut round);
            } else {
                round.left.push(event);
            }
        }
        round
    }

    /// Makes one call with items that are made of events. False if further calls would fail the same way.
    fn try_once(&self, items: Vec<Vec<Tried>>, attempt: u32, round: &mut Round) -> bool {
        let states: Vec<Cow<'_, State>> = items.iter().map(|events| joined_state(events)).collect();
        let lent: Vec<(&str, &State)> =
            items.iter().zip(&states).map(|(events, state)| (events[0].id.as_str(), &**state)).collect();
        let answers = self.call(&lent, attempt);
        drop(states);
        let fail = |events: Vec<Tried>, error: &Error, is_own: bool| {
            events.into_iter().map(|event| Failed { event, error: error.clone(), is_own }).collect::<Vec<_>>()
        };
        match answers {
            Ok(answers) => {
                for (mut events, answer) in items.into_iter().zip(answers) {
                    if let Outcome::Rejected(error) = answer.outcome {
                        let is_own = events.len() == 1;
                        round.failed.extend(fail(events, &error, is_own));
                    } else if !std::mem::replace(&mut round.passed, true) {
                        let Tried { id, state, .. } = events.swap_remove(0);
                        *self.witness.borrow_mut() = Some((id, state));
                    }
                }
                true
            }
            Err(error) => {
                let is_one = items.len() == 1;
                for events in items {
                    let is_own = is_one && events.len() == 1;
                    round.failed.extend(fail(events, &error, is_own));
                }
                matches!(error.kind, ErrorKind::Internal | ErrorKind::InvalidItem)
            }
        }
    }

    /// Whether the backend takes again what it took before.
    fn witness_passes(&self, attempt: u32) -> bool {
        let witness = self.witness.borrow();
        let Some((id, state)) = &*witness else { return false };
        let answers = self.call(&[(id, state)], attempt);
        answers.is_ok_and(|answers| answers.iter().all(|answer| !matches!(answer.outcome, Outcome::Rejected(_))))
    }

    fn call(&self, items: &[(&str, &State)], attempt: u32) -> Result<Vec<Answer>, Error> {
        let call = Call { attempt, ..Call::with_budget(self.call_timeout) };
        let answers = with_items(items, |batch| self.backend.merge(&call, batch))?;
        if answers.len() == items.len() {
            return Ok(answers);
        }
        Err(Error::internal(format_args!("it gave {} answers to {} items", answers.len(), items.len())))
    }
}

/// The state of an item that is made of events.
fn joined_state(events: &[Tried]) -> Cow<'_, State> {
    let mut state = Cow::Borrowed(&events[0].state);
    for event in &events[1..] {
        state.to_mut().merge(&event.state);
    }
    state
}

fn pauses() -> impl Iterator<Item = Duration> {
    let longest = LONGEST_PAUSE / 2;
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}
