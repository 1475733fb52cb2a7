//! Whether blobs can be kept, as far as the last call or the last look tells.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_plugin_api::{Error, ErrorKind, Health, Result};
use tracing::{info, warn};

use crate::bucket::Bucket;

/// Pause between two looks while there is trouble.
const PAUSE: Duration = Duration::from_secs(1);
/// How long nobody needs to have called before there is a look while all is well: each costs a request.
const CALM: Duration = Duration::from_secs(30);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what a write met with is believed, if no other write comes and a look finds nothing.
const MEMORY: Duration = Duration::from_secs(15);

/// What is known of the store.
#[derive(Debug)]
pub(crate) struct Watch {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Why it cannot be used; none if it can.
    trouble: Option<Trouble>,
    /// When it was last seen to work.
    worked_at: Instant,
}

#[derive(Debug)]
struct Trouble {
    reason: String,
    /// When a write met with it. A look cannot see that writing is forbidden.
    write_at: Option<Instant>,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    Reading,
    Writing,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(Known { trouble: None, worked_at: Instant::now() }) }
    }

    /// Learns from what became of a call or a look.
    pub(crate) fn learn<T>(&self, tried: Tried, result: &Result<T>) {
        match result {
            Ok(_) => self.worked(tried),
            Err(error) => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => self.failed(tried, error),
                // Wrong in itself: that says nothing of the store.
                ErrorKind::InvalidItem | ErrorKind::Internal => {}
            },
        }
    }

    pub(crate) fn health(&self) -> Health {
        let reason = self.lock().trouble.as_ref().map(|trouble| trouble.reason.clone());
        reason.map_or_else(Health::healthy, Health::unhealthy)
    }

    fn worked(&self, tried: Tried) {
        let mut known = self.lock();
        known.worked_at = Instant::now();
        let is_fresh = |trouble: &Trouble| trouble.write_at.is_some_and(|at| at.elapsed() < MEMORY);
        if tried == Tried::Reading && known.trouble.as_ref().is_some_and(is_fresh) {
            return;
        }
        if known.trouble.take().is_some() {
            info!("blobs can be kept again");
        }
    }

    fn failed(&self, tried: Tried, error: &Error) {
        let mut known = self.lock();
        let write_at = match tried {
            Tried::Writing => Some(Instant::now()),
            Tried::Reading => known.trouble.as_ref().and_then(|trouble| trouble.write_at),
        };
        let trouble = Trouble { reason: error.message.clone(), write_at };
        if known.trouble.replace(trouble).is_none() {
            warn!(reason = error.message, "blobs cannot be kept");
        }
    }

    fn needs_a_look(&self) -> bool {
        let known = self.lock();
        known.trouble.is_some() || known.worked_at.elapsed() >= CALM
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the store again and again, so that health is right when nobody calls.
pub(crate) async fn watch(watch: Arc<Watch>, bucket: Arc<Bucket>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        if !watch.needs_a_look() {
            continue;
        }
        let look = tokio::time::timeout(PATIENCE, bucket.look()).await;
        let result =
            look.unwrap_or_else(|_| Err(Error::unavailable(format_args!("{} does not answer", bucket.place()))));
        watch.learn(Tried::Reading, &result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_does_not_hide_what_a_write_met_with() {
        let watch = Watch::new();

        watch.learn::<()>(Tried::Reading, &Err(Error::unavailable("away")));
        assert_eq!(watch.health().reason, "away");
        watch.learn(Tried::Reading, &Ok(()));
        assert!(watch.health().healthy);

        watch.learn::<()>(Tried::Writing, &Err(Error::configuration("forbidden")));
        watch.learn(Tried::Reading, &Ok(()));
        assert_eq!(watch.health().reason, "forbidden");
        watch.learn(Tried::Writing, &Ok(()));
        assert!(watch.health().healthy);
    }

    #[test]
    fn a_blob_that_cannot_be_stored_says_nothing_of_the_store() {
        let watch = Watch::new();

        watch.learn::<()>(Tried::Writing, &Err(Error::invalid_item("too large")));

        assert!(watch.health().healthy);
    }
}
