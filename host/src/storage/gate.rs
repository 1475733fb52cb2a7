//! The way to a backend: bounds the calls that are in it at once, knows which one hangs, and shuts for good.
//!
//! Calls wait in the order in which they came, each at most until its deadline. A call that is inside cannot be ended
//! from outside; it keeps its place until it is back.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use storage_plugin_api::Backend;

use super::lock;

/// The way to one backend.
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    places: usize,
}

struct State {
    /// None once the gate is shut and the backend released.
    backend: Option<Arc<dyn Backend>>,
    shut: bool,
    waiting: VecDeque<u64>,
    inside: Vec<Inside>,
    next_ticket: u64,
}

struct Inside {
    ticket: u64,
    call: &'static str,
    since: Instant,
    deadline: Instant,
}

/// Why a call did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEntry {
    /// The gate is shut.
    Shut,
    /// All places were taken until the deadline.
    Full,
}

/// A call that is in the backend past its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Which call.
    pub call: &'static str,
    /// How long it has been in the backend.
    pub running: Duration,
    /// How long ago it should have been back.
    pub late: Duration,
}

/// A call that is inside; it is out when this is dropped.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    ticket: u64,
    backend: Option<Arc<dyn Backend>>,
}

impl Gate {
    pub(crate) fn new(backend: Arc<dyn Backend>, places: usize) -> Self {
        let state =
            State { backend: Some(backend), shut: false, waiting: VecDeque::new(), inside: Vec::new(), next_ticket: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), places: places.max(1) }
    }

    /// Waits for a place, at most until the deadline.
    pub(crate) fn enter(&self, call: &'static str, deadline: Instant) -> Result<Pass<'_>, NoEntry> {
        let mut state = lock(&self.state);
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        loop {
            let now = Instant::now();
            let next = state.waiting.front() == Some(&ticket) && state.inside.len() < self.places;
            let refused = if state.shut {
                Some(NoEntry::Shut)
            } else if !next && now >= deadline {
                Some(NoEntry::Full)
            } else {
                None
            };
            if next || refused.is_some() {
                state.waiting.retain(|waiting| *waiting != ticket);
            }
            if let Some(refused) = refused {
                drop(state);
                self.changed.notify_all();
                return Err(refused);
            }
            if next {
                state.inside.push(Inside { ticket, call, since: now, deadline });
                let backend = state.backend.clone();
                let others_fit = !state.waiting.is_empty() && state.inside.len() < self.places;
                drop(state);
                if others_fit {
                    self.changed.notify_all();
                }
                return Ok(Pass { gate: self, ticket, backend });
            }
            let waited = self.changed.wait_timeout(state, deadline.saturating_duration_since(now));
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// The backend, for the one question that takes no place; none if it was released.
    pub(crate) fn backend(&self) -> Option<Arc<dyn Backend>> {
        lock(&self.state).backend.clone()
    }

    /// The call that is latest, if one is past its deadline.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Overdue> {
        let state = lock(&self.state);
        let latest = state.inside.iter().min_by_key(|inside| inside.deadline)?;
        (now > latest.deadline).then(|| Overdue {
            call: latest.call,
            running: now.duration_since(latest.since),
            late: now.duration_since(latest.deadline),
        })
    }

    /// Lets nobody in any more and waits until all are out. How many are still inside at the deadline.
    pub(crate) fn shut(&self, deadline: Instant) -> usize {
        let mut state = lock(&self.state);
        state.shut = true;
        self.changed.notify_all();
        while !state.inside.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        state.inside.len()
    }

    /// Gives the backend away, to be dropped by the caller; none if that was done before.
    pub(crate) fn release(&self) -> Option<Arc<dyn Backend>> {
        lock(&self.state).backend.take()
    }
}

impl Pass<'_> {
    pub(crate) fn backend(&self) -> &dyn Backend {
        &**self.backend.as_ref().expect("an open gate has its backend, and only drop takes it out of the pass")
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        state.inside.retain(|inside| inside.ticket != self.ticket);
        let awaited = state.shut || !state.waiting.is_empty();
        drop(state);
        if awaited {
            self.gate.changed.notify_all();
        }
        // The gate may have been shut and released meanwhile: then the backend's own drop runs here.
        drop_caught(self.backend.take());
    }
}

/// Drops what a plugin made; a panic ends here. What it said, if it did.
pub(crate) fn drop_caught<T>(value: T) -> Option<String> {
    catch_unwind(AssertUnwindSafe(move || drop(value))).err().map(panic_message)
}

/// What a panic said. The payload is forgotten, since its drop may panic as well.
pub(crate) fn panic_message(payload: Box<dyn std::any::Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    std::mem::forget(payload);
    text.unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::super::testing::{TestBackend, eventually};
    use super::*;

    fn gate(places: usize) -> Gate {
        Gate::new(TestBackend::new(), places)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(1)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn so_many_calls_are_inside_and_no_more() {
        let gate = gate(2);
        let (most, inside) = (AtomicUsize::new(0), AtomicUsize::new(0));

        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let pass = gate.enter("merge", late()).expect("there is time");
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(pass);
                    }
                });
            }
        });

        assert_eq!(most.into_inner(), 2);
    }

    #[test]
    fn who_finds_no_place_until_the_deadline_is_sent_away() {
        let gate = gate(1);
        let pass = gate.enter("merge", late()).expect("it is empty");

        assert_eq!(gate.enter("merge", soon()).err(), Some(NoEntry::Full));

        drop(pass);
        assert!(gate.enter("merge", soon()).is_ok());
    }

    #[test]
    fn who_came_first_enters_first() {
        let gate = gate(1);
        let order = Mutex::new(Vec::new());
        let pass = gate.enter("merge", late()).expect("it is empty");

        thread::scope(|scope| {
            for number in 0..4 {
                let (gate, order) = (&gate, &order);
                scope.spawn(move || {
                    let _pass = gate.enter("merge", late()).expect("there is time");
                    lock(order).push(number);
                });
                eventually("it waits", || lock(&gate.state).waiting.len() == number + 1);
            }
            drop(pass);
        });

        assert_eq!(*lock(&order), [0, 1, 2, 3]);
    }

    #[test]
    fn a_call_past_its_deadline_is_named() {
        let gate = gate(2);
        let _other = gate.enter("get", late()).expect("it is empty");
        let now = Instant::now();
        let _pass = gate.enter("merge", now + Duration::from_secs(1)).expect("there is a place");

        assert_eq!(gate.overdue(now), None);

        let overdue = gate.overdue(now + Duration::from_secs(5)).expect("it is late");
        assert_eq!((overdue.call, overdue.late), ("merge", Duration::from_secs(4)));
    }

    #[test]
    fn a_shut_gate_waits_for_those_inside_and_lets_nobody_in() {
        let gate = gate(1);
        let pass = gate.enter("merge", late()).expect("it is empty");

        assert_eq!(gate.shut(soon()), 1);
        assert_eq!(gate.enter("get", late()).err(), Some(NoEntry::Shut));
        drop(pass);
        assert_eq!(gate.shut(soon()), 0);
        assert!(gate.release().is_some());
        assert!(gate.backend().is_none());
    }
}
