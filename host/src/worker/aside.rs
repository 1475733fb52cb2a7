//! Events that a backend cannot take now, each by itself, while it takes others: they keep nobody waiting.
//!
//! A large body while the place of large bodies is away is one. They wait beside what is in a lane's hands and are tried
//! again all at once, later and later.

use std::time::{Duration, Instant};

use storage_plugin_api::Error;
use tracing::{info, warn};

use super::queue::Held;
use super::retry::Backoff;
use super::taken::Taken;

/// The events of a lane that wait, and since what.
#[derive(Debug)]
pub(super) struct Aside {
    lane: usize,
    pauses: (Duration, Duration),
    events: Vec<Taken>,
    /// Of their payloads.
    bytes: usize,
    /// Why the last of them waits.
    error: Option<Error>,
    /// When they are tried again; none while they are being tried.
    due: Option<Instant>,
    backoff: Backoff,
}

impl Aside {
    /// None yet. `pauses` are the first and the longest between attempts.
    pub(super) fn new(lane: usize, pauses: (Duration, Duration)) -> Self {
        let backoff = Backoff::new(pauses.0, pauses.1);
        Self { lane, pauses, events: Vec::new(), bytes: 0, error: None, due: None, backoff }
    }

    /// Takes in an event that the backend could not take.
    pub(super) fn put(&mut self, mut taken: Taken, error: Error) {
        taken.attempts = taken.attempts.saturating_add(1);
        self.bytes += taken.origin.payload.len();
        self.events.push(taken);
        self.error = Some(error);
    }

    /// Ends an attempt: what is here waits for its next one.
    pub(super) fn settle(&mut self) {
        let (lane, attempts) = (self.lane, self.backoff.attempts());
        match &self.error {
            Some(error) if self.due.is_none() => {
                let pause = self.backoff.pause(error);
                self.due = Some(Instant::now() + pause);
                if self.backoff.is_worth_a_line() {
                    let (kind, events, pause_ms) = (error.kind.as_str(), self.events.len(), pause.as_millis());
                    warn!(
                        lane, kind, events, attempts, %error, pause_ms,
                        "backend cannot take some events now, they wait while others go on"
                    );
                }
            }
            None if attempts > 0 => {
                info!(lane, attempts, "backend has taken the events that waited");
                self.backoff = Backoff::new(self.pauses.0, self.pauses.1);
            }
            Some(_) | None => {}
        }
    }

    /// Moves the events out if it is time to try them again.
    pub(super) fn take_due(&mut self, into: &mut Vec<Taken>) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            (self.due, self.error, self.bytes) = (None, None, 0);
            into.append(&mut self.events);
        }
    }

    /// When there is something to try again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How many there are, and the bytes of their payloads.
    pub(super) fn held(&self) -> Held {
        Held { events: self.events.len(), bytes: self.bytes }
    }

    /// Why they wait; none if there are none.
    pub(super) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// When the oldest of them was received.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.events.iter().map(|taken| taken.origin.received_at).min()
    }
}
