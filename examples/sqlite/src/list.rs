//! Pages of states in order: each follows an index from the place where the last page ended.

use std::time::Instant;

use rusqlite::{Connection, Row, named_params};
use storage_plugin_api::{Error, Order, Page, Query, Result};

use crate::read;

/// Rows between two looks at the clock.
const STRIDE: usize = 64;

/// A page ends where its states exceed this, in bytes as they are stored, however many were asked for.
const PAGE_BYTES: usize = 32 << 20;

// The order is that of the index that is named: without it there is an error, not a slow answer. What the index does not
// have of a query, `matches` looks at.
const BY_ID: &str = "SELECT id, status, language, created_at, state FROM evaluations INDEXED BY evaluations_by_id \
                     WHERE id > :id ORDER BY id";
const BY_CREATED: &str = "SELECT id, status, language, created_at, state FROM evaluations INDEXED BY evaluations_by_created \
     WHERE created_at >= :since AND (created_at, id) < (:created, :id) ORDER BY created_at DESC, id DESC";
const BY_STATUS: &str = "SELECT id, status, language, created_at, state FROM evaluations INDEXED BY evaluations_by_status \
     WHERE status = :key AND created_at >= :since AND (created_at, id) < (:created, :id) \
     ORDER BY created_at DESC, id DESC";
const BY_LANGUAGE: &str = "SELECT id, status, language, created_at, state FROM evaluations INDEXED BY evaluations_by_language \
     WHERE language = :key AND created_at >= :since AND (created_at, id) < (:created, :id) \
     ORDER BY created_at DESC, id DESC";

/// Every statement above, for the test of their plans.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 4] = [BY_ID, BY_CREATED, BY_STATUS, BY_LANGUAGE];

/// Where a page ended: everything up to there was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Id(String),
    Created(i64, String),
}

impl Place {
    /// Where a page of a query begins; none for the first.
    ///
    /// # Errors
    /// `Configuration` for what is no cursor of this order.
    pub(crate) fn of(query: &Query) -> Result<Option<Self>> {
        let Some(cursor) = query.cursor.as_deref() else { return Ok(None) };
        let place = match query.order {
            Order::Id => cursor.strip_prefix("id:").map(|id| Self::Id(id.to_owned())),
            Order::NewestFirst => cursor
                .strip_prefix("created:")
                .and_then(|rest| rest.split_once(':'))
                .and_then(|(created, id)| Some(Self::Created(created.parse().ok()?, id.to_owned()))),
        };
        match place {
            Some(place) => Ok(Some(place)),
            None => Err(Error::configuration(format_args!(
                "the cursor `{cursor}` is not of this list; take it from the last page"
            ))),
        }
    }

    fn of_row(order: Order, row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(match order {
            Order::Id => Self::Id(row.get(0)?),
            Order::NewestFirst => Self::Created(row.get(3)?, row.get(0)?),
        })
    }

    fn to_cursor(&self) -> String {
        match self {
            Self::Id(id) => format!("id:{id}"),
            Self::Created(created, id) => format!("created:{created}:{id}"),
        }
    }
}

/// Collects a page. One that is not full at `stop` ends there, with a cursor.
pub(crate) fn page(
    connection: &Connection,
    query: &Query,
    place: Option<&Place>,
    stop: Instant,
) -> rusqlite::Result<Page> {
    let since = query.since.unwrap_or(i64::MIN);
    // Nothing was created at the end of time, and the empty text comes before every id.
    let (created, id) = match place {
        Some(Place::Created(created, id)) => (*created, id.as_str()),
        Some(Place::Id(id)) => (i64::MAX, id.as_str()),
        None => (i64::MAX, ""),
    };
    let (created, id) = match query.until {
        Some(until) if query.order == Order::NewestFirst && until <= created => (until, ""),
        _ => (created, id),
    };
    let (sql, key) = match (query.order, &query.status, &query.language) {
        (Order::Id, _, _) => (BY_ID, None),
        (Order::NewestFirst, Some(status), _) => (BY_STATUS, Some(status)),
        (Order::NewestFirst, None, Some(language)) => (BY_LANGUAGE, Some(language)),
        (Order::NewestFirst, None, None) => (BY_CREATED, None),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let rows = match (query.order, key) {
        (Order::Id, _) => statement.query(named_params! { ":id": id })?,
        (Order::NewestFirst, None) => {
            statement.query(named_params! { ":since": since, ":created": created, ":id": id })?
        }
        (Order::NewestFirst, Some(key)) => {
            statement.query(named_params! { ":key": key, ":since": since, ":created": created, ":id": id })?
        }
    };
    collect(rows, query, stop)
}

fn collect(mut rows: rusqlite::Rows<'_>, query: &Query, stop: Instant) -> rusqlite::Result<Page> {
    let limit = query.limit.max(1);
    let mut page = Page::default();
    let mut bytes = 0;
    let mut last: Option<Place> = None;
    for seen in 1.. {
        let Some(row) = rows.next()? else { return Ok(page) };
        // There is more, and whether it matches may take long to find out: the next page tells.
        let is_over =
            page.entries.len() >= limit || bytes >= PAGE_BYTES || (seen % STRIDE == 0 && Instant::now() >= stop);
        if is_over && let Some(last) = &last {
            page.cursor = Some(last.to_cursor());
            return Ok(page);
        }
        if matches(query, row)? {
            let id: String = row.get(0)?;
            let stored = row.get_ref(4)?;
            bytes += stored.as_bytes().map_or(0, <[u8]>::len);
            let found = read::found(&id, stored, query.fields);
            page.entries.push((id, found));
        }
        last = Some(Place::of_row(query.order, row)?);
    }
    Ok(page)
}

fn matches(query: &Query, row: &Row<'_>) -> rusqlite::Result<bool> {
    let created: i64 = row.get(3)?;
    let is_text = |column, wanted: &Option<String>| match wanted {
        Some(wanted) => row.get_ref(column).map(|found| found.as_str().is_ok_and(|found| found == wanted)),
        None => Ok(true),
    };
    Ok(query.since.is_none_or(|since| created >= since)
        && query.until.is_none_or(|until| created < until)
        && is_text(1, &query.status)?
        && is_text(2, &query.language)?)
}
