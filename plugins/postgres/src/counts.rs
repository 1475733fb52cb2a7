//! Counts by status, taken by the index `ix_evaluations_status` alone and kept for a while that grows with what they cost.

use std::time::{Duration, Instant};

use storage_plugin_api::{Call, Counts, Result, Status};
use tokio::sync::Mutex;

use crate::list::TIMED_OUT;
use crate::pool::Pool;
use crate::tables::Query;

/// Longest time for which a count is given again; the contract allows 30 s, of which some is left for the way.
const LONGEST: Duration = Duration::from_secs(25);
/// A count is kept so many times as long as it took, so that counting never takes more than 1 % of the time.
const FACTOR: u32 = 100;

/// The status of a record whose row says this one: the Python service had one that is a way to fail, and may have others.
fn shown(status: &str) -> &'static str {
    match status {
        TIMED_OUT => Status::Failed.as_str(),
        other => Status::parse(other).map_or("unknown", Status::as_str),
    }
}

/// The last count.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    last: Mutex<Option<Counted>>,
}

#[derive(Debug)]
struct Counted {
    counts: Counts,
    at: Instant,
    until: Instant,
}

impl Counter {
    /// Counts, or says what was counted a moment ago. Whoever asks meanwhile waits for the same count.
    pub(crate) async fn counts(&self, pool: &Pool, query: &Query, call: &Call) -> Result<Counts> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(counted) = last.as_ref().filter(|counted| now < counted.until) {
            // Rounded up: what it says is never too young.
            let age_seconds = (now - counted.at).as_secs() + 1;
            return Ok(Counts { age_seconds, ..counted.counts.clone() });
        }
        let rows = pool.read(call, query, &[]).await?;
        let mut counts = Counts::default();
        for row in &rows {
            let count = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
            *counts.by_status.entry(shown(row.get(0)).to_owned()).or_default() += count;
        }
        let done = Instant::now();
        let kept = ((done - now) * FACTOR).min(LONGEST);
        // Whatever takes a blink is counted again each time.
        let until = if kept < Duration::from_secs(1) { done } else { now + kept };
        *last = Some(Counted { counts: counts.clone(), at: now, until });
        Ok(counts)
    }
}
