//! Removes old evaluations, in parts that merges go in between of.

use std::time::Instant;

use rusqlite::Connection;
use storage_plugin_api::{Prune, Pruned};

/// Most evaluations that are removed in one transaction.
const PART: u64 = 256;

const FIND: &str = "SELECT count(*) FROM (SELECT 1 FROM evaluations INDEXED BY evaluations_by_end \
                    WHERE ended_at IS NOT NULL AND ended_at < ?1 LIMIT ?2)";
const REMOVE: &str = "DELETE FROM evaluations WHERE number IN (SELECT number FROM evaluations \
                      INDEXED BY evaluations_by_end WHERE ended_at IS NOT NULL AND ended_at < ?1 \
                      ORDER BY ended_at LIMIT ?2)";

/// Every statement above, for the test of their plans.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [FIND, REMOVE];

/// How many evaluations would be removed.
pub(crate) fn count(connection: &Connection, prune: &Prune) -> rusqlite::Result<Pruned> {
    let limit = i64::try_from(prune.limit).unwrap_or(i64::MAX - 1);
    let mut find = connection.prepare_cached(FIND)?;
    let found: i64 = find.query_row([prune.ended_before, limit + 1], |row| row.get(0))?;
    Ok(Pruned { removed: u64::try_from(found.min(limit)).unwrap_or(0), more: found > limit })
}

/// Removes evaluations until none is left, as many as asked are gone, or it is time to stop. `remove` runs [`part`] in a
/// transaction.
pub(crate) fn in_parts<E>(
    prune: &Prune,
    stop: Instant,
    mut remove: impl FnMut(u64) -> Result<u64, E>,
    is_more: impl FnOnce() -> Result<bool, E>,
) -> Result<Pruned, E> {
    let limit = prune.limit as u64;
    let mut removed = 0;
    while removed < limit {
        let wanted = PART.min(limit - removed);
        let part = remove(wanted)?;
        removed += part;
        if part < wanted {
            return Ok(Pruned { removed, more: false });
        }
        if Instant::now() >= stop {
            break;
        }
    }
    Ok(Pruned { removed, more: is_more()? })
}

/// Removes the earliest evaluations that ended before a time, at most so many. Gives how many.
pub(crate) fn part(connection: &Connection, ended_before: i64, limit: u64) -> rusqlite::Result<u64> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection.prepare_cached(REMOVE)?.execute([ended_before, limit]).map(|removed| removed as u64)
}
