//! Merges events into a backend that is named, without a worker between: decoded as the worker does, joined by evaluation,
//! and tried until the backend has taken them.

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
/// So often an item may be answered `internal` before it is given up.
const STRIKES: u32 = 3;

/// Why an event was not merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The class, as dead letters have it.
    pub reason: String,
    /// What was wrong.
    pub error: String,
}

/// What events mean and how they reach a backend.
#[allow(missing_debug_implementations, reason = "a backend has none")]
pub struct Into<'a> {
    /// The event rows.
    pub rows: &'a EventRows,
    /// The limits of decoding.
    pub limits: Limits,
    /// The backend.
    pub backend: &'a dyn Backend,
    /// How long a call may take.
    pub call_timeout: Duration,
}

impl Into<'_> {
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
    pub fn merge(&self, records: &[Record], no_time: i64) -> Vec<Option<Refused>> {
        let mut refused: Vec<Option<Refused>> = Vec::with_capacity(records.len());
        let mut joined: BTreeMap<String, (State, Vec<usize>)> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            match Self::decode(self.rows, &self.limits, record, no_time) {
                Ok(event) => {
                    refused.push(None);
                    let (state, events) = joined.entry(event.evaluation_id.to_string()).or_default();
                    state.merge(&event.state);
                    events.push(index);
                }
                Err(reject) => refused.push(Some(reject)),
            }
        }
        let mut items: Vec<(String, State, Vec<usize>)> =
            joined.into_iter().map(|(id, (state, events))| (id, state, events)).collect();
        let mut pauses = pauses();
        for attempt in 0_u32.. {
            let answers = self.call(&items, attempt);
            let mut left = Vec::new();
            let mut reason = None;
            for ((id, state, events), answer) in items.into_iter().zip(answers) {
                let Err(error) = answer else { continue };
                let is_final = match error.kind {
                    ErrorKind::InvalidItem => true,
                    ErrorKind::Internal => attempt + 1 >= STRIKES,
                    ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => false,
                };
                if is_final {
                    for event in events {
                        let (reason, error) = (error.kind.as_str().to_owned(), error.message.clone());
                        refused[event] = Some(Refused { reason, error });
                    }
                } else {
                    reason = Some(error);
                    left.push((id, state, events));
                }
            }
            items = left;
            let Some(error) = reason else { break };
            if attempt.is_multiple_of(8) {
                warn!(%error, items = items.len(), "the backend did not take events, will try again");
            }
            let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
            std::thread::sleep(error.retry_after.map_or(pause, |hint| hint.clamp(pause, LONGEST_PAUSE)));
        }
        refused
    }

    fn call(&self, items: &[(String, State, Vec<usize>)], attempt: u32) -> Vec<Result<(), Error>> {
        let lent: Vec<(&str, &State)> = items.iter().map(|(id, state, _)| (id.as_str(), state)).collect();
        let call = Call { attempt, ..Call::with_budget(self.call_timeout) };
        let taken = |answer: Answer| match answer.outcome {
            Outcome::Rejected(error) => Err(error),
            Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::Accepted => Ok(()),
        };
        match with_items(&lent, |batch| self.backend.merge(&call, batch)) {
            Ok(answers) if answers.len() == items.len() => answers.into_iter().map(taken).collect(),
            Ok(answers) => {
                let message = format_args!("it gave {} answers to {} items", answers.len(), items.len());
                vec![Err(Error::internal(message)); items.len()]
            }
            Err(error) => vec![Err(error); items.len()],
        }
    }
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
