//! Whether the database can be written to, as far as the last call or the last look at it tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_plugin_api::{Call, Durability, Error, ErrorKind, Health};
use tracing::{info, warn};

use crate::errors::Failure;
use crate::options::Durability as Promise;
use crate::pool::Pool;
use crate::tables::{Query, Tables};

/// Pause between two looks while all is well, and while not.
const CALM: Duration = Duration::from_secs(5);
const WORRIED: Duration = Duration::from_millis(500);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long what a merge met with is believed at least, if no other merge comes and a look finds nothing.
const MEMORY: Duration = Duration::from_secs(15);
/// The same in budgets of that merge: until the next one has ended, too.
const MEMORY_BUDGETS: u32 = 2;

/// What is known of the database.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Why it cannot be used; none if it can.
    trouble: Mutex<Option<Trouble>>,
    /// What is promised of what is stored.
    promise: Promise,
    /// The server syncs, as far as that is looked at.
    syncs: AtomicBool,
}

#[derive(Debug)]
struct Trouble {
    reason: String,
    /// Until when it is believed though a look finds nothing: a look cannot see a full disk, nor a locked table.
    believed_until: Option<Instant>,
}

impl Watch {
    pub(crate) fn new(promise: Promise) -> Self {
        Self { trouble: Mutex::default(), promise, syncs: AtomicBool::new(true) }
    }

    /// What a crash leaves of what is committed now.
    pub(crate) fn durability(&self) -> Durability {
        match self.promise {
            Promise::Durable => Durability::Durable,
            Promise::Check if self.syncs.load(Ordering::Relaxed) => Durability::Durable,
            Promise::Check | Promise::Volatile => Durability::Volatile,
        }
    }

    /// Learns from what became of a merge that had some time.
    pub(crate) fn learn_of_merge<T>(&self, result: &Result<T, Error>, budget: Duration) {
        match result {
            Ok(_) => self.set(None),
            Err(error) => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => {
                    let believed_until = Some(Instant::now() + MEMORY.max(budget * MEMORY_BUDGETS));
                    self.set(Some(Trouble { reason: error.message.clone(), believed_until }));
                }
                // Wrong in itself: that says nothing of the database.
                ErrorKind::InvalidItem | ErrorKind::Internal => {}
            },
        }
    }

    /// Learns from a look.
    fn learn_of_look(&self, result: &Result<(), Error>) {
        match result {
            Ok(()) => {
                let is_believed =
                    |trouble: &Trouble| trouble.believed_until.is_some_and(|until| Instant::now() < until);
                if !self.lock().as_ref().is_some_and(is_believed) {
                    self.set(None);
                }
            }
            // Every connection is in use, so somebody else will know.
            Err(error) if error.kind == ErrorKind::Overloaded => {}
            Err(error) => self.set(Some(Trouble { reason: error.message.clone(), believed_until: None })),
        }
    }

    pub(crate) fn health(&self, pool: &Pool) -> Health {
        let reason = self.lock().as_ref().map(|trouble| trouble.reason.clone());
        let (connections, in_use) = pool.figures();
        reason.map_or_else(Health::healthy, Health::unhealthy).with("connections", connections).with("in_use", in_use)
    }

    fn set(&self, trouble: Option<Trouble>) {
        let mut held = self.lock();
        match (&*held, &trouble) {
            (None, Some(Trouble { reason, .. })) => warn!(reason, "the database cannot be used"),
            (Some(_), None) => info!("the database can be used again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *held = trouble;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the database again and again, so that health is right when nobody calls.
pub(crate) async fn watch(watch: Arc<Watch>, pool: Arc<Pool>, tables: Tables) {
    let query = tables.query(
        "SELECT current_setting('transaction_read_only') = 'on', to_regclass($1) IS NULL, current_setting('fsync') = 'on'",
        &[tokio_postgres::types::Type::TEXT],
    );
    loop {
        let result = look(&watch, &pool, &query, &tables).await;
        watch.learn_of_look(&result);
        tokio::time::sleep(if result.is_ok() { CALM } else { WORRIED }).await;
    }
}

async fn look(watch: &Watch, pool: &Pool, query: &Query, tables: &Tables) -> Result<(), Error> {
    let call = Call::with_budget(PATIENCE);
    let look = async {
        let session = pool.session(call.deadline).await?;
        let ready = session.ready(query).await?;
        session.run(&ready, &[&tables.qualified("evaluations")]).await
    };
    let timed_out = |_| Err(Failure::Other(Error::unavailable("the database does not answer")));
    let deadline = call.deadline.saturating_duration_since(Instant::now());
    let rows = tokio::time::timeout(deadline, look).await.unwrap_or_else(timed_out).map_err(Failure::into_error)?;
    let Some(row) = rows.first() else { return Ok(()) };
    if row.get(0) {
        return Err(Error::unavailable("the database can only be read"));
    }
    if row.get(1) {
        return Err(Error::configuration("the tables are gone; start again, so that they are made"));
    }
    let syncs = row.get(2);
    watch.syncs.store(syncs, Ordering::Relaxed);
    if !syncs && watch.promise == Promise::Check {
        return Err(Error::configuration(
            "the server was set to `fsync = off`, a crash loses what it stores; turn it on",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a budget of 15 s and more health was green between two merges that failed.
    #[test]
    fn what_a_merge_met_with_is_believed_until_the_next_one_has_ended() {
        let watch = Watch::new(Promise::Durable);
        for (budget, least) in [(1, 14), (15, 29), (60, 119)] {
            watch.learn_of_merge::<()>(&Err(Error::unavailable("locked")), Duration::from_secs(budget));
            watch.learn_of_look(&Ok(()));

            let until = watch.lock().as_ref().and_then(|trouble| trouble.believed_until).expect("it is believed");
            assert!(until > Instant::now() + Duration::from_secs(least), "{budget} s");
        }

        watch.learn_of_merge(&Ok(()), Duration::from_secs(1));
        assert!(watch.lock().is_none());
    }
}
