//! Calls of the storage tree from async code: on threads of their own, a bounded number at once, each with a deadline.
//!
//! A call that hangs keeps its thread and its place; whoever asked is answered at the deadline all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::{Call, ErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::storage::read::ReadError;
use crate::storage::{Current, Tree};

/// How long an answer may be late: backends look at the deadline themselves and answer with a better reason.
const GRACE: Duration = Duration::from_millis(250);

/// The places for calls.
pub(crate) struct Calls {
    places: Arc<Semaphore>,
    timeout: Duration,
}

/// A call that has its place, and the time in which it is to be done.
pub(crate) struct Place {
    permit: OwnedSemaphorePermit,
    tree: Arc<Tree>,
    pub(crate) deadline: Instant,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Storage is away or too slow; the text is for people.
    Unavailable(String, Option<Duration>),
    /// Storage cannot do that.
    NotOffered(String),
    /// The question was wrong.
    Invalid(String),
    /// A defect.
    Internal(String),
}

impl Calls {
    pub(crate) fn new(places: usize, timeout: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))), timeout }
    }

    /// Reads something of the tree and waits for the answer.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        current: &Current,
        work: impl FnOnce(&Tree, &Call) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Refused> {
        let place = self.place(current, self.timeout).await?;
        place.run(work).await?.map_err(Refused::from)
    }

    /// Waits for a place; the time that this takes is part of the call's.
    pub(crate) async fn place(&self, current: &Current, timeout: Duration) -> Result<Place, Refused> {
        let timeout = timeout.min(self.timeout);
        let deadline = Instant::now() + timeout;
        let place = timeout_at(deadline.into(), Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(permit)) = place else {
            return Err(too_late("storage is busy with other calls and had no place for this one", timeout));
        };
        // Not before, since the tree may be changed while a call waits for its place.
        let tree = current.tree().map_err(|reason| Refused::Unavailable(reason, None))?;
        Ok(Place { permit, tree, deadline, timeout })
    }
}

impl Place {
    /// Runs a call of the tree and waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&Tree, &Call) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let Self { permit, tree, deadline, timeout } = self;
        let call = Call { deadline, attempt: 0 };
        let running = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&tree, &call)
        });
        match timeout_at((deadline + GRACE).into(), running).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Refused::Internal(format!("the call failed: {error}"))),
            Err(_) => Err(too_late("storage did not answer", timeout)),
        }
    }
}

fn too_late(what: &str, timeout: Duration) -> Refused {
    Refused::Unavailable(format!("{what} within {timeout:?}"), None)
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::NotOffered(_) => Self::NotOffered(message),
            ReadError::Cursor(_) => Self::Invalid(message),
            ReadError::Storage(error) => match error.kind {
                // Configuration is what the operator must repair; for the reader it is an outage.
                ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => {
                    Self::Unavailable(message, error.retry_after)
                }
                ErrorKind::InvalidItem => Self::Invalid(message),
                ErrorKind::Internal => Self::Internal(message),
            },
        }
    }
}
