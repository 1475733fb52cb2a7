//! Lends out connections, each to one call at a time.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_plugin_api::{Call, Error, Result};
use tracing::warn;

use crate::failure;
use crate::files::Files;
use crate::session::{Place, Purpose, Session};

/// Connections of one kind; opened when they are needed.
pub(crate) struct Pool {
    place: Place,
    purpose: Purpose,
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Session>,
    lent: usize,
}

/// A connection that is given back when this is dropped.
pub(crate) struct Lease<'a> {
    pool: &'a Pool,
    session: Option<Session>,
}

impl Pool {
    /// A pool of at most so many connections, of which one is open already.
    pub(crate) fn new(place: Place, purpose: Purpose, most: usize, first: Option<Session>) -> Self {
        let state = State { idle: first.into_iter().collect(), lent: 0 };
        Self { place, purpose, most, state: Mutex::new(state), returned: Condvar::new() }
    }

    /// A connection whose files are in place, and that gives up at the call's deadline.
    ///
    /// # Errors
    /// `Overloaded` if all are lent until then; else what opening one gives.
    pub(crate) fn lend(&self, call: &Call) -> Result<Lease<'_>> {
        let mut lease = self.wait(call.deadline)?;
        let files = Files::of(&self.place.path);
        if lease.session.as_ref().is_some_and(|session| !session.is_in_place(&files)) {
            warn!(path = %self.place.path.display(), "the database was moved or replaced, opening what is there now");
            lease.session = None;
        }
        match &lease.session {
            Some(session) => session.give_until(call.deadline),
            None => lease.session = Some(Session::open(&self.place, self.purpose, call.deadline)?),
        }
        Ok(lease)
    }

    /// Closes what is not lent.
    ///
    /// # Errors
    /// When a connection cannot be closed; the others are.
    pub(crate) fn close(&self) -> Result<()> {
        let idle = std::mem::take(&mut self.lock().idle);
        let mut closed = Ok(());
        for session in idle {
            session.give_until(Instant::now() + Duration::from_secs(3600));
            if let Err((_, cause)) = session.connection.close() {
                closed = Err(failure::of_database(&self.place.path, &cause));
            }
        }
        closed
    }

    /// Takes a place, and a connection if one is open.
    fn wait(&self, deadline: Instant) -> Result<Lease<'_>> {
        let mut state = self.lock();
        loop {
            if state.lent < self.most {
                state.lent += 1;
                return Ok(Lease { pool: self, session: state.idle.pop() });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::overloaded("all connections to the database are in use; send less, or wait longer"));
            }
            state = self.returned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    // Every change under the lock is one step, so a panic leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // One that could not even roll back would refuse every transaction to come.
        let session = self.session.take().filter(|session| session.connection.is_autocommit());
        let mut state = self.pool.lock();
        state.lent -= 1;
        state.idle.extend(session);
        drop(state);
        self.pool.returned.notify_one();
    }
}

impl Deref for Lease<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("a lease is handed out with a session")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("a lease is handed out with a session")
    }
}
