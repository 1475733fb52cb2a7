//! Events that a backend cannot take now, each by itself, while it answers: they keep nobody waiting.
//!
//! A large body while the place of large bodies is away is one. They wait beside what is in a lane's hands and are tried
//! again in turn, later and later. The budget of the worker bounds them with all else.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use storage_plugin_api::{Error, ErrorKind};
use tracing::{error, info, warn};

use super::queue::Held;
use super::retry::Backoff;
use super::taken::Taken;

/// The events of a lane that wait, and since what.
#[derive(Debug)]
pub(super) struct Aside {
    lane: usize,
    pauses: (Duration, Duration),
    events: VecDeque<Taken>,
    /// So many of them, the first, have not had their turn in the attempt under way.
    turn: usize,
    /// When the next attempt begins; none while one is under way.
    due: Option<Instant>,
    /// Why the last of them waits.
    error: Option<Error>,
    backoff: Backoff,
}

impl Aside {
    /// None yet. `pauses` are the first and the longest between attempts.
    pub(super) fn new(lane: usize, pauses: (Duration, Duration)) -> Self {
        let backoff = Backoff::new(pauses.0, pauses.1);
        Self { lane, pauses, events: VecDeque::new(), turn: 0, due: None, error: None, backoff }
    }

    /// Takes in an event that the backend could not take.
    pub(super) fn put(&mut self, mut taken: Taken, error: Error) {
        taken.attempts = taken.attempts.saturating_add(1);
        self.events.push_back(taken);
        self.error = Some(error);
    }

    /// Ends an attempt in which all had their turn: what is here waits for the next one.
    pub(super) fn settle(&mut self) {
        if self.turn > 0 || self.due.is_some() {
            return;
        }
        match self.error.as_ref().filter(|_| !self.events.is_empty()) {
            Some(error) => {
                let pause = self.backoff.pause(error);
                self.due = Some(Instant::now() + pause);
                self.log(error, pause);
            }
            None if self.backoff.attempts() > 0 => {
                info!(lane = self.lane, attempts = self.backoff.attempts(), "backend has taken the events that waited");
                self.backoff = Backoff::new(self.pauses.0, self.pauses.1);
            }
            None => {}
        }
    }

    /// Moves events out if it is time to try them again, up to the limit; one at least.
    pub(super) fn take_due(&mut self, into: &mut Vec<Taken>, limit: Held) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            (self.due, self.turn) = (None, self.events.len());
        }
        let mut bytes: usize = into.iter().map(|taken| taken.origin.payload.len()).sum();
        let mut is_first = true;
        while self.turn > 0
            && let Some(next) = self.events.front()
        {
            bytes += next.origin.payload.len();
            if !std::mem::take(&mut is_first) && (into.len() >= limit.events || bytes > limit.bytes) {
                return;
            }
            into.extend(self.events.pop_front());
            self.turn -= 1;
        }
    }

    /// When there is something to try again; at once while an attempt is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.turn > 0 { Some(Instant::now()) } else { self.due }
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Why they wait; none if there are none.
    pub(super) fn error(&self) -> Option<&Error> {
        self.error.as_ref().filter(|_| !self.events.is_empty())
    }

    /// When the oldest of them was received.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.events.iter().map(|taken| taken.origin.received_at).min()
    }

    fn log(&self, error: &Error, pause: Duration) {
        if !self.backoff.is_worth_a_line() {
            return;
        }
        let (lane, kind, events) = (self.lane, error.kind.as_str(), self.events.len());
        let (attempt, pause_ms) = (self.backoff.attempts(), pause.as_millis());
        if error.kind == ErrorKind::Configuration {
            error!(lane, kind, events, attempt, %error, pause_ms, "backend needs a change for some events, will retry these");
        } else {
            warn!(lane, kind, events, attempt, %error, pause_ms, "backend cannot take some events now, will retry these");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::test_kit::taken;

    const LIMIT: Held = Held { events: 2, bytes: 100 };
    const LONG: Duration = Duration::from_secs(30);

    fn aside(ids: &[&str]) -> Aside {
        let mut aside = Aside::new(0, (Duration::from_millis(1), Duration::from_millis(1)));
        ids.iter().for_each(|id| aside.put(taken(id, id, 1), Error::unavailable("away")));
        aside.settle();
        std::thread::sleep(Duration::from_millis(5));
        aside
    }

    fn ids(hand: &[Taken]) -> Vec<&str> {
        hand.iter().map(|taken| &*taken.event.event_id).collect()
    }

    #[test]
    fn in_an_attempt_each_has_its_turn_once() {
        let (mut aside, mut hand) = (aside(&["a", "b", "c"]), Vec::new());

        aside.take_due(&mut hand, LIMIT);
        assert_eq!(ids(&hand), ["a", "b"]);
        hand.drain(..).for_each(|taken| aside.put(taken, Error::unavailable("away")));
        aside.settle();
        aside.take_due(&mut hand, LIMIT);
        assert_eq!(ids(&hand), ["c"]);
        hand.drain(..).for_each(|taken| aside.put(taken, Error::overloaded("busy").with_retry_after(LONG)));
        aside.settle();

        aside.take_due(&mut hand, LIMIT);
        assert!(hand.is_empty() && aside.due().is_some_and(|due| due > Instant::now()));
        assert_eq!((aside.len(), aside.oldest()), (3, Some(1)));
    }

    /// It used to be waited for without a pause, and never tried.
    #[test]
    fn one_comes_even_into_a_full_hand() {
        let (mut aside, mut hand) = (aside(&["a", "b"]), vec![taken("x", "x", 1), taken("y", "y", 1)]);

        aside.take_due(&mut hand, LIMIT);

        assert_eq!(ids(&hand), ["x", "y", "a"]);
    }
}
