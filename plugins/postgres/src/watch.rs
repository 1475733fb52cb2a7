//! Whether the database can be written to, as far as the last call or the last look at it tells.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use storage_plugin_api::{Call, Error, ErrorKind, Health};
use tracing::{info, warn};

use crate::errors::Failure;
use crate::pool::Pool;
use crate::tables::{Query, Tables};

/// Pause between two looks while all is well, and while not.
const CALM: Duration = Duration::from_secs(5);
const WORRIED: Duration = Duration::from_millis(500);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of the database.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Why it cannot be used; none if it can.
    trouble: Mutex<Option<String>>,
}

impl Watch {
    /// Learns from what became of a call.
    pub(crate) fn learn<T>(&self, result: &Result<T, Error>) {
        match result {
            Ok(_) => self.set(None),
            Err(error) => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Configuration => self.set(Some(error.message.clone())),
                // Busy, or wrong in itself: that says nothing of the database.
                ErrorKind::Overloaded | ErrorKind::InvalidItem | ErrorKind::Internal => {}
            },
        }
    }

    pub(crate) fn health(&self, pool: &Pool) -> Health {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (connections, in_use) = pool.figures();
        trouble.map_or_else(Health::healthy, Health::unhealthy).with("connections", connections).with("in_use", in_use)
    }

    fn set(&self, trouble: Option<String>) {
        let mut held = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*held, &trouble) {
            (None, Some(reason)) => warn!(reason, "the database cannot be used"),
            (Some(_), None) => info!("the database can be used again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *held = trouble;
    }
}

/// Looks at the database again and again, so that health is right when nobody calls.
pub(crate) async fn watch(watch: Arc<Watch>, pool: Arc<Pool>, tables: Tables) {
    let query = tables.query(
        "SELECT current_setting('transaction_read_only') = 'on', to_regclass($1) IS NULL",
        &[tokio_postgres::types::Type::TEXT],
    );
    loop {
        let result = look(&pool, &query, &tables).await;
        watch.learn(&result);
        tokio::time::sleep(if result.is_ok() { CALM } else { WORRIED }).await;
    }
}

async fn look(pool: &Pool, query: &Query, tables: &Tables) -> Result<(), Error> {
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
    Ok(())
}
