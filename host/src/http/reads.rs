//! Calls of the storage tree from async code: on threads of their own, a bounded number at once, each with a deadline.
//!
//! A call that hangs keeps its thread and its place; whoever asked is answered at the deadline all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::{Call, ErrorKind};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::storage::read::ReadError;
use crate::storage::{Current, Tree};

/// How long an answer may be late: backends look at the deadline themselves and answer with a better reason.
const GRACE: Duration = Duration::from_millis(250);

/// The places for calls.
pub(crate) struct Reads {
    places: Arc<Semaphore>,
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

impl Reads {
    pub(crate) fn new(places: usize, timeout: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))), timeout }
    }

    /// Runs a call of the tree and waits for its answer.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        current: &Current,
        work: impl FnOnce(&Tree, &Call) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Refused> {
        let deadline = Instant::now() + self.timeout;
        let place = timeout_at(deadline.into(), Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(self.too_late("storage is busy with other reads and had no place for this one"));
        };
        // Not before, since the tree may be changed while a read waits for its place.
        let tree = current.tree().map_err(|reason| Refused::Unavailable(reason, None))?;
        let call = Call { deadline, attempt: 0 };
        let running = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&tree, &call)
        });
        match timeout_at((deadline + GRACE).into(), running).await {
            Ok(Ok(answer)) => answer.map_err(Refused::from),
            Ok(Err(error)) => Err(Refused::Internal(format!("reading failed: {error}"))),
            Err(_) => Err(self.too_late("storage did not answer")),
        }
    }

    fn too_late(&self, what: &str) -> Refused {
        Refused::Unavailable(format!("{what} within {:?}", self.timeout), None)
    }
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
