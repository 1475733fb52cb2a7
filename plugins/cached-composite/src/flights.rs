//! Reads of the primary that are under way: concurrent misses of one id ask once.
//!
//! Nobody joins a read that began before a merge that is answered by now: the merge has marked it as outdated.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use storage_plugin_api::{Error, Fields, Found, Result};

use crate::lock;

/// The reads that are under way, by id: those of whole states, and those without bodies.
#[derive(Debug, Default)]
pub(crate) struct Flights([Mutex<HashMap<String, Arc<Flight>>>; 2]);

/// One read of one id.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    outdated: AtomicBool,
    answer: Mutex<Option<Result<Option<Found>>>>,
    answered: Condvar,
}

/// What a reader of an id does.
pub(crate) enum Boarding<'a> {
    /// Reads, and tells the others.
    Lead(Lead<'a>),
    /// Waits for who reads.
    Follow(Arc<Flight>),
}

/// The duty to answer those who wait. Dropping it ends the read.
#[derive(Debug)]
pub(crate) struct Lead<'a> {
    flights: &'a Mutex<HashMap<String, Arc<Flight>>>,
    id: String,
    flight: Arc<Flight>,
}

impl Flights {
    /// Joins the read of an id that is under way, or begins one.
    pub(crate) fn board(&self, id: &str, fields: Fields) -> Boarding<'_> {
        let [whole, without_bodies] = &self.0;
        let of_fields = match fields {
            Fields::Whole => whole,
            Fields::WithoutBodies => without_bodies,
        };
        let mut flights = lock(of_fields);
        if let Some(flight) = flights.get(id).filter(|flight| !flight.is_outdated()) {
            return Boarding::Follow(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::default());
        flights.insert(id.to_owned(), Arc::clone(&flight));
        Boarding::Lead(Lead { flights: of_fields, id: id.to_owned(), flight })
    }

    /// Reads of these ids that are under way may have missed something.
    pub(crate) fn outdate<'i>(&self, ids: impl Iterator<Item = &'i str> + Clone) {
        for flights in &self.0 {
            let flights = lock(flights);
            if flights.is_empty() {
                continue;
            }
            for flight in ids.clone().filter_map(|id| flights.get(id)) {
                flight.outdated.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl Flight {
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::SeqCst)
    }

    /// Waits for the answer of who reads.
    pub(crate) fn wait(&self, deadline: Instant) -> Result<Option<Found>> {
        let mut answer = lock(&self.answer);
        loop {
            if let Some(answer) = &*answer {
                return answer.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::unavailable("the read of the primary that was under way was not back in time"));
            }
            answer = self.answered.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Lead<'_> {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// True if something was merged since the read began.
    pub(crate) fn is_outdated(&self) -> bool {
        self.flight.is_outdated()
    }

    /// Tells those who wait.
    pub(crate) fn answer(&self, found: Result<Option<Found>>) {
        lock(&self.flight.answer).get_or_insert(found);
        self.flight.answered.notify_all();
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.answer(Err(Error::internal("the read of the primary that was under way ended without an answer")));
        let mut flights = lock(self.flights);
        if flights.get(&self.id).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead<'a>(flights: &'a Flights, id: &str) -> Lead<'a> {
        match flights.board(id, Fields::Whole) {
            Boarding::Lead(lead) => lead,
            Boarding::Follow(_) => panic!("somebody reads `{id}` already"),
        }
    }

    fn follow(flights: &Flights, id: &str) -> Arc<Flight> {
        match flights.board(id, Fields::Whole) {
            Boarding::Lead(_) => panic!("nobody reads `{id}`"),
            Boarding::Follow(flight) => flight,
        }
    }

    #[test]
    fn who_comes_during_a_read_gets_its_answer() {
        let flights = Flights::default();
        let first = lead(&flights, "a");
        let follower = follow(&flights, "a");

        first.answer(Ok(None));

        assert!(follower.wait(Instant::now()).expect("it is answered").is_none());
        drop(first);
        drop(lead(&flights, "a"));
    }

    #[test]
    fn a_read_without_bodies_is_not_joined_by_one_that_wants_them() {
        let flights = Flights::default();
        let part = flights.board("a", Fields::WithoutBodies);
        let whole = lead(&flights, "a");

        flights.outdate(["a"].into_iter());

        let Boarding::Lead(part) = part else { panic!("nobody reads `a`") };
        assert!(part.is_outdated() && whole.is_outdated());
    }

    #[test]
    fn nobody_joins_an_outdated_read() {
        let flights = Flights::default();
        let first = lead(&flights, "a");

        flights.outdate(["a", "b"].into_iter());

        assert!(first.is_outdated());
        let second = lead(&flights, "a");
        drop(first);
        // The end of the first does not end the second.
        follow(&flights, "a");
        assert!(!second.is_outdated());
    }

    #[test]
    fn a_read_without_an_answer_keeps_nobody_waiting() {
        let flights = Flights::default();
        let first = lead(&flights, "a");
        let follower = follow(&flights, "a");

        drop(first);

        assert!(follower.wait(Instant::now()).is_err());
    }
}
