//! How the thread that catches up is told to stop or to go on, and what it tells of itself.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::lock;

/// How the thread is told to stop or go on, and what it tells.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SignalState {
    is_stopped: bool,
    is_woken: bool,
    has_ended: bool,
    /// Evaluations that the primary did not take when they were last tried, for other reasons than being away.
    refused: u64,
    /// The last pass did not come to its end.
    has_panicked: bool,
    /// Since when it waits for the instance before, if it does.
    waits_since: Option<Instant>,
    /// It has waited for so long that people are told.
    is_waiting: bool,
}

/// The instance before ends after its present call, which takes no longer if all is well.
const TOLD_AFTER: Duration = Duration::from_secs(60);

impl Signal {
    pub(crate) fn stop(&self) {
        lock(&self.state).is_stopped = true;
        self.changed.notify_all();
    }

    /// The fallback holds something new.
    pub(crate) fn wake(&self) {
        lock(&self.state).is_woken = true;
        self.changed.notify_all();
    }

    /// Evaluations that the primary refuses.
    pub(crate) fn refused(&self) -> u64 {
        lock(&self.state).refused
    }

    /// Waits until the thread has ended; false if the deadline comes first.
    pub(crate) fn wait_for_end(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let state = self.changed.wait_timeout_while(lock(&self.state), left, |state| !state.has_ended);
        state.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    /// True if the last pass through the fallback did not come to its end.
    pub(crate) fn has_panicked(&self) -> bool {
        lock(&self.state).has_panicked
    }

    pub(crate) fn set_panicked(&self, has_panicked: bool) {
        lock(&self.state).has_panicked = has_panicked;
    }

    /// True if it has waited for the instance before for so long that people are told.
    pub(crate) fn is_waiting(&self) -> bool {
        lock(&self.state).is_waiting
    }

    /// Whether it waits for the instance before. True when it is time to say so.
    pub(crate) fn set_waiting(&self, waits: bool, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if !waits {
            (state.waits_since, state.is_waiting) = (None, false);
            return false;
        }
        let since = *state.waits_since.get_or_insert(now);
        let is_long = now.saturating_duration_since(since) >= TOLD_AFTER;
        is_long && !std::mem::replace(&mut state.is_waiting, true)
    }

    pub(crate) fn set_refused(&self, refused: u64) {
        lock(&self.state).refused = refused;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.state).is_stopped
    }

    /// Waits so long, or where there is nothing else to do until it is woken. True if it shall stop.
    pub(crate) fn wait(&self, pause: Duration, is_idle: bool) -> bool {
        let goes_on = |state: &mut SignalState| !(state.is_stopped || is_idle && state.is_woken);
        let waited = self.changed.wait_timeout_while(lock(&self.state), pause, goes_on);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.is_woken = false;
        state.is_stopped
    }
}

/// Tells that the thread has ended, however it did.
pub(crate) struct Ended<'a>(&'a Signal);

impl<'a> Ended<'a> {
    pub(crate) fn of(signal: &'a Signal) -> Self {
        Self(signal)
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).has_ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reload away from a backend that hangs left the fallback as it was, and nobody was told why.
    #[test]
    fn a_long_wait_for_the_instance_before_is_told_once() {
        let (signal, now) = (Signal::default(), Instant::now());

        assert!(!signal.set_waiting(true, now) && !signal.is_waiting());
        assert!(signal.set_waiting(true, now + TOLD_AFTER) && signal.is_waiting());
        assert!(!signal.set_waiting(true, now + 2 * TOLD_AFTER) && signal.is_waiting());
        assert!(!signal.set_waiting(false, now + 3 * TOLD_AFTER) && !signal.is_waiting());
        assert!(!signal.set_waiting(true, now + 4 * TOLD_AFTER));
    }
}
