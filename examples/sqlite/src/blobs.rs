//! Blobs: bytes under a key, with the time at which they were last stored.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use storage_plugin_api::{BlobEntry, BlobPage};

const TOUCH: &str = "UPDATE blobs SET touched_at = max(touched_at, ?2) WHERE key = ?1";
const PUT: &str = "INSERT INTO blobs (key, touched_at, bytes) VALUES (?1, ?2, ?3)";
const GET: &str = "SELECT bytes FROM blobs WHERE key = ?1";
const SCAN: &str = "SELECT key, length(bytes), touched_at FROM blobs WHERE key > ?1 ORDER BY key LIMIT ?2";
const DELETE: &str = "DELETE FROM blobs WHERE key = ?1 AND touched_at < ?2";
const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM blobs WHERE key = ?1)";

/// Every statement above, for the test of their plans.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 6] = [TOUCH, PUT, GET, SCAN, DELETE, EXISTS];

/// Stores a blob. One that is there only becomes younger.
pub(crate) fn put(connection: &Connection, key: &str, bytes: &[u8]) -> rusqlite::Result<()> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX);
    if connection.prepare_cached(TOUCH)?.execute(params![key, now])? == 0 {
        connection.prepare_cached(PUT)?.execute(params![key, now, bytes])?;
    }
    Ok(())
}

/// Reads a blob.
pub(crate) fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection.prepare_cached(GET)?.query_row([key], |row| row.get(0)).optional()
}

/// A page of blobs behind a key.
pub(crate) fn scan(connection: &Connection, after: &str, limit: usize) -> rusqlite::Result<BlobPage> {
    let limit = limit.clamp(1, 10_000);
    let mut statement = connection.prepare_cached(SCAN)?;
    let mut rows = statement.query(params![after, limit as i64 + 1])?;
    let mut page = BlobPage::default();
    while let Some(row) = rows.next()? {
        if page.blobs.len() == limit {
            page.more = true;
            break;
        }
        let size = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        page.blobs.push(BlobEntry { key: row.get(0)?, size, touched_at: row.get(2)? });
    }
    Ok(page)
}

/// Removes a blob that was not stored again since a time in microseconds. True if it is gone.
pub(crate) fn delete(connection: &Connection, key: &str, untouched_since: i64) -> rusqlite::Result<bool> {
    if connection.prepare_cached(DELETE)?.execute(params![key, untouched_since])? > 0 {
        return Ok(true);
    }
    connection.prepare_cached(EXISTS)?.query_row([key], |row| row.get(0)).map(|exists: bool| !exists)
}
