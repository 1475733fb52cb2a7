//! The bounded queues between the threads that read sources and the lanes.
//!
//! `Budget` bounds everything that was taken and is not settled, over all lanes, in events and bytes: who reads a source
//! waits for it, so a full budget stops the reading. A `LaneQueue` therefore needs no bound of its own.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::taken::Taken;

/// So long after room was released the last time, who waits longest for it keeps all others from it no more.
const TURN: Duration = Duration::from_secs(1);

/// What may be held unsettled, and what is.
#[derive(Debug)]
pub(super) struct Budget {
    limit: Held,
    state: Mutex<BudgetState>,
    freed: Condvar,
}

/// A number of events, and about how many bytes they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Held {
    /// What is left of it.
    pub(super) fn minus(self, other: Self) -> Self {
        let Self { events, bytes } = self;
        Self { events: events.saturating_sub(other.events), bytes: bytes.saturating_sub(other.bytes) }
    }
}

#[derive(Debug, Default)]
struct BudgetState {
    held: Held,
    /// The numbers of those who wait, in the order of their coming, and since when the first of them is the first.
    waiting: VecDeque<u64>,
    first_since: Option<Instant>,
    released_at: Option<Instant>,
    next_number: u64,
    aborted: bool,
}

impl BudgetState {
    /// Whether somebody may take room: the first of those who wait, as long as any is released. Else a large event would
    /// wait for ever beside small ones. When nothing moves all may: what is held may be waiting for their company.
    fn may_take(&self, number: Option<u64>) -> bool {
        let first = self.waiting.front().copied();
        let moved_at = self.first_since.max(self.released_at);
        first.is_none() || first == number || moved_at.is_none_or(|moved_at| moved_at.elapsed() >= TURN)
    }

    fn leave(&mut self, number: u64) {
        let was_first = self.waiting.front() == Some(&number);
        self.waiting.retain(|waiting| *waiting != number);
        if was_first {
            self.first_since = (!self.waiting.is_empty()).then(Instant::now);
        }
    }
}

impl Budget {
    pub(super) fn new(limit: Held) -> Self {
        Self { limit, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Takes room for one event if there is some, and nobody waits for it.
    pub(super) fn try_acquire(&self, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        state.may_take(None) && self.take(&mut state, bytes)
    }

    /// Waits for room for one event and takes it. False if there will be none, because the worker gives up.
    pub(super) fn acquire(&self, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.push_back(number);
        state.first_since.get_or_insert_with(Instant::now);
        while !state.aborted {
            if state.may_take(Some(number)) && self.take(&mut state, bytes) {
                state.leave(number);
                self.freed.notify_all();
                return true;
            }
            state = self.freed.wait_timeout(state, TURN).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// An event that is larger than the limit passes when it is alone.
    fn take(&self, state: &mut BudgetState, bytes: usize) -> bool {
        let Held { events, bytes: held } = state.held;
        let fits = events < self.limit.events && held + bytes <= self.limit.bytes;
        if !fits && events > 0 {
            return false;
        }
        state.held = Held { events: events + 1, bytes: held + bytes };
        true
    }

    /// Gives back the room of events that hold nothing any more.
    pub(super) fn release(&self, freed: Held) {
        let mut state = lock(&self.state);
        state.held = state.held.minus(freed);
        state.released_at = Some(Instant::now());
        if !state.waiting.is_empty() {
            self.freed.notify_all();
        }
    }

    pub(super) fn held(&self) -> Held {
        lock(&self.state).held
    }

    /// Wakes everybody who waits; nothing more is given out.
    pub(super) fn abort(&self) {
        lock(&self.state).aborted = true;
        self.freed.notify_all();
    }
}

/// The events that wait for one lane.
#[derive(Debug, Default)]
pub(super) struct LaneQueue {
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LaneState {
    events: VecDeque<Taken>,
    waiting: bool,
    closed: bool,
    aborted: bool,
}

impl LaneQueue {
    pub(super) fn push_all(&self, events: &mut Vec<Taken>) {
        let mut state = lock(&self.state);
        state.events.extend(events.drain(..));
        if state.waiting {
            self.changed.notify_one();
        }
    }

    /// Waits until something is in hand, or until a moment if one is given, and moves what is there, up to the limit. False
    /// once it is closed with nothing to come, or given up.
    pub(super) fn gather(&self, into: &mut Vec<Taken>, limit: Held, until: Option<Instant>) -> bool {
        let mut state = lock(&self.state);
        while into.is_empty() && state.events.is_empty() && !state.aborted && (until.is_some() || !state.closed) {
            let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
            if rest.is_some_and(|rest| rest.is_zero()) {
                break;
            }
            state.waiting = true;
            state = match rest {
                Some(rest) => self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.waiting = false;
        }
        if state.aborted {
            return false;
        }
        state.take(into, limit);
        !into.is_empty() || until.is_some()
    }

    /// Moves what is there, up to the limit, and does not wait.
    pub(super) fn gather_more(&self, into: &mut Vec<Taken>, limit: Held) {
        lock(&self.state).take(into, limit);
    }

    /// Lets time pass. False, and at once, if the worker gives up.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        self.wait(pause, |_| false)
    }

    /// Lets time pass until there are events. False, and at once, if the worker gives up.
    pub(super) fn pause_until_events(&self, pause: Duration) -> bool {
        self.wait(pause, |state| !state.events.is_empty())
    }

    fn wait(&self, pause: Duration, enough: impl Fn(&LaneState) -> bool) -> bool {
        let until = Instant::now() + pause;
        let mut state = lock(&self.state);
        while !state.aborted {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() || enough(&state) {
                return true;
            }
            state.waiting = true;
            state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting = false;
        }
        false
    }

    /// How many events wait here.
    pub(super) fn len(&self) -> usize {
        lock(&self.state).events.len()
    }

    /// When the oldest event that waits here was received.
    pub(super) fn oldest(&self) -> Option<i64> {
        lock(&self.state).events.front().map(|taken| taken.origin.received_at)
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Ends every wait; what is queued stays.
    pub(super) fn abort(&self) {
        lock(&self.state).aborted = true;
        self.changed.notify_all();
    }
}

impl LaneState {
    fn take(&mut self, into: &mut Vec<Taken>, limit: Held) {
        let mut bytes: usize = into.iter().map(|taken| taken.origin.payload.len()).sum();
        let mut count = 0;
        for taken in &self.events {
            bytes += taken.origin.payload.len();
            let is_first = into.is_empty() && count == 0;
            if !is_first && (into.len() + count >= limit.events || bytes > limit.bytes) {
                break;
            }
            count += 1;
        }
        into.extend(self.events.drain(..count));
    }
}

/// A thread that panicked with the lock held left nothing half done: every change here is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_full_budget_holds_back_until_something_is_settled() {
        let budget = Arc::new(Budget::new(Held { events: 2, bytes: 100 }));
        assert!(budget.try_acquire(60));

        assert!(!budget.try_acquire(60), "too many bytes");
        assert!(budget.try_acquire(40));
        assert!(!budget.try_acquire(0), "too many events");

        let waiter = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.acquire(60)
        });
        budget.release(Held { events: 1, bytes: 60 });
        assert!(waiter.join().expect("it does not panic"));
        assert_eq!(budget.held(), Held { events: 2, bytes: 100 });
    }

    /// A large one used to wait as long as small ones came.
    #[test]
    fn who_waits_is_not_passed_by_somebody_who_needs_less() {
        let budget = Arc::new(Budget::new(Held { events: 9, bytes: 100 }));
        assert!(budget.try_acquire(60));
        let waiter = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.acquire(80)
        });
        while lock(&budget.state).waiting.is_empty() {
            std::thread::yield_now();
        }

        assert!(!budget.try_acquire(10));

        budget.release(Held { events: 1, bytes: 60 });
        assert!(waiter.join().expect("it does not panic"));
        assert!(budget.try_acquire(10));
    }

    #[test]
    fn an_event_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(Held { events: 2, bytes: 100 });

        assert!(budget.try_acquire(1000));
        assert!(!budget.try_acquire(1));
    }

    #[test]
    fn giving_up_wakes_who_waits() {
        let budget = Arc::new(Budget::new(Held { events: 1, bytes: 100 }));
        assert!(budget.try_acquire(1));

        let waiter = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || budget.acquire(1)
        });
        budget.abort();

        assert!(!waiter.join().expect("it does not panic"));
    }
}
