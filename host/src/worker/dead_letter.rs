//! Keeps events that will not be tried again: as letters, durable before the delivery is acknowledged.
//!
//! A disk that is full, or a Redis that is away, holds the delivery back: the letter keeps its room in the budget, and is
//! tried again. What is a letter already is not written; its keeper is told. What can be done with letters is in `letters`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::confirm::Acknowledge;
use super::counters::Counters;
use super::queue::{Budget, Held};
use super::taken::Origin;
use crate::event::decode::Arrival;
use crate::event::identity::{Identity, identify};
use crate::letters::line::letter_text;
use crate::letters::{Destination, Letter, LetterState, Log, id_of};
use crate::source::Token;

/// At most so many letters are written and synced together.
const BATCH_LETTERS: usize = 256;
/// How long to wait before what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An event that will not be tried again by itself.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) origin: Origin,
    /// Which event it is, or would have been.
    pub(super) identity: Identity,
    /// A class from a fixed set.
    pub(super) reason: &'static str,
    pub(super) error: String,
    /// How many calls of a backend failed with it.
    pub(super) attempts: u32,
    /// When it was given up, in microseconds since 1970.
    pub(super) last_at: i64,
    pub(super) generation: u64,
}

impl DeadLetter {
    fn into_letter(self, sources: &Acknowledge) -> Letter {
        let Self { origin, identity, reason, error, attempts, last_at, generation } = self;
        let alone = Arrival { received_at: origin.received_at, entry_time: None, event_id: None };
        let own = identify(&origin.channel, None, &origin.payload, alone).event_id;
        let carried = Some(&*identity.event_id).filter(|event_id| **event_id != *own);
        let entry = origin.token.and_then(|token| sources.sources[origin.source].entry(token));
        Letter {
            id: id_of(&origin.channel, &origin.payload, carried),
            channel: origin.channel.to_string(),
            entry,
            payload: origin.payload,
            edited: None,
            event_id: Some(identity.event_id.to_string()),
            evaluation_id: identity.evaluation_id,
            time: identity.time,
            reason: reason.to_owned(),
            error,
            attempts,
            first_at: origin.received_at,
            last_at,
            generation,
            state: LetterState::Dead,
        }
    }
}

/// The letters that wait to be written. Bounded by the budget, whose room they keep.
#[derive(Debug, Default)]
pub(super) struct Postbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    letters: VecDeque<DeadLetter>,
    closed: bool,
    aborted: bool,
}

impl Postbox {
    pub(super) fn push(&self, letter: DeadLetter) {
        self.lock().letters.push_back(letter);
        self.changed.notify_one();
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Ends every wait.
    pub(super) fn abort(&self) {
        self.lock().aborted = true;
        self.changed.notify_all();
    }

    /// Waits for letters. Empty once it is closed and empty, or given up.
    fn take(&self) -> Vec<DeadLetter> {
        let mut state = self.lock();
        while state.letters.is_empty() && !state.closed && !state.aborted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let count = if state.aborted { 0 } else { state.letters.len().min(BATCH_LETTERS) };
        state.letters.drain(..count).collect()
    }

    /// Lets time pass. False, and at once, if the worker gives up.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.aborted {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that writes them.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) destination: Destination,
    pub(super) postbox: Arc<Postbox>,
    pub(super) budget: Arc<Budget>,
    pub(super) acknowledge: Arc<Acknowledge>,
    pub(super) counters: Arc<Counters>,
}

impl Writer {
    /// Writes until the postbox is closed and empty.
    pub(super) fn run(self) {
        let mut log = self.destination.open();
        // Tried before there is a letter, so that the operator learns early of a place that cannot be written.
        if let Err(error) = log.prepare() {
            let (destination, remedy) = (&self.destination, self.destination.remedy());
            warn!(%destination, %error, remedy, "dead letters could not be written, if there were any");
        }
        loop {
            let letters = self.postbox.take();
            if letters.is_empty() {
                return;
            }
            let settled: Vec<Settled> = letters.iter().map(Settled::of).collect();
            let new = letters.into_iter().filter(|letter| !letter.origin.is_letter);
            let texts = new.map(|letter| letter_text(&letter.into_letter(&self.acknowledge)) + "\n");
            let (mut lines, mut count) = (String::new(), 0);
            for text in texts {
                lines.push_str(&text);
                count += 1;
            }
            if count > 0 && !self.write(&mut log, &lines, count) {
                return;
            }
            self.settle(&settled);
        }
    }

    /// Writes, however long it takes. False if the worker gives up.
    fn write(&self, log: &mut Log, lines: &str, count: usize) -> bool {
        let mut failures = 0_u64;
        loop {
            match log.append(lines) {
                Ok(dropped) => {
                    if failures > 0 {
                        info!(destination = %self.destination, count, "dead letters are written again");
                    }
                    if dropped > 0 {
                        self.counters.dead_letters_dropped(dropped);
                        let destination = &self.destination;
                        warn!(%destination, dropped, "`dead_letters.max_bytes` is reached, the oldest letters were dropped");
                    }
                    return true;
                }
                Err(error) => {
                    failures += 1;
                    if failures.is_power_of_two() {
                        let (destination, remedy) = (&self.destination, self.destination.remedy());
                        error!(%destination, %error, held = count, remedy, "cannot write dead letters, they are held");
                    }
                    if !self.postbox.pause(RETRY_AFTER) {
                        return false;
                    }
                }
            }
        }
    }

    fn settle(&self, letters: &[Settled]) {
        let mut freed = Held::default();
        for Settled { held, token, reason, error } in letters {
            freed = Held { events: freed.events + held.events, bytes: freed.bytes + held.bytes };
            self.counters.dead_letter(reason);
            if let Some((source, token)) = token {
                self.acknowledge.sources[*source].refuse(*token, reason, error);
            }
        }
        self.counters.settled_kept.add(letters.iter().filter(|letter| letter.token.is_some()).count());
        self.budget.release(freed);
    }
}

/// What settling a letter takes, once it is written.
struct Settled {
    held: Held,
    token: Option<(usize, Token)>,
    reason: &'static str,
    error: String,
}

impl Settled {
    fn of(DeadLetter { origin, reason, error, .. }: &DeadLetter) -> Self {
        let token = origin.token.map(|token| (origin.source, token));
        Self { held: origin.held(), token, reason, error: error.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(payload: &str, carried: Option<&str>) -> String {
        let arrival = Arrival { received_at: 7, entry_time: None, event_id: carried };
        let identity = identify("c", None, payload.as_bytes(), arrival);
        let (channel, payload) = ("c".into(), payload.as_bytes().to_vec());
        let origin = Origin { channel, payload, received_at: 7, source: 0, token: None, is_letter: false };
        let (reason, error) = ("missing_field", String::new());
        let letter = DeadLetter { origin, identity, reason, error, attempts: 0, last_at: 7, generation: 1 };
        letter.into_letter(&Acknowledge { sources: Vec::new() }).id
    }

    /// Two entries of a stream with the same fields and ids of their own used to be one letter.
    #[test]
    fn events_with_ids_of_their_own_are_letters_of_their_own() {
        let payload = r#"{"eval_id":"a"}"#;
        let plain = id(payload, None);
        let worked_out =
            identify("c", None, payload.as_bytes(), Arrival { received_at: 7, entry_time: None, event_id: None });

        assert_eq!(plain, id_of("c", payload.as_bytes(), None));
        assert_eq!(id(payload, Some(&worked_out.event_id)), plain, "as a bridge carries it");
        assert_ne!(id(payload, Some("1")), plain);
        assert_ne!(id(payload, Some("1")), id(payload, Some("2")));
        let named = r#"{"eval_id":"a","event_id":"e"}"#;
        assert_eq!(id(named, Some("1")), id(named, Some("2")), "the payload's own id is the event's");
    }
}
