//! Reads states by their ids, and counts.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};
use storage_plugin_api::{Counts, Error, Fields, Found, Result, State};
use tracing::error;

/// The status of a state that says none.
pub(crate) const UNKNOWN: &str = "unknown";

const GET: &str = "SELECT state FROM evaluations WHERE id = ?1";
/// Goes through the whole index, and nothing but the index: 50 ms for a million evaluations.
///
/// Totals that triggers keep would make a merge cost twice as much, and ones that are kept beside the table would be wrong
/// after the first change by hand.
const COUNTS: &str = "SELECT status, count(*) FROM evaluations INDEXED BY evaluations_by_status GROUP BY status";

/// The statements above, for the test of their plans.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [GET, COUNTS];

/// Reads states; one answer for each id.
pub(crate) fn get(connection: &Connection, ids: &[&str], fields: Fields) -> rusqlite::Result<Vec<Option<Found>>> {
    let mut get = connection.prepare_cached(GET)?;
    ids.iter().map(|id| get.query_row([id], |row| Ok(found(id, row.get_ref(0)?, fields))).optional()).collect()
}

/// How many evaluations there are in each status.
pub(crate) fn counts(connection: &Connection) -> rusqlite::Result<Counts> {
    let mut counts = Counts::default();
    let mut statement = connection.prepare_cached(COUNTS)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let evaluations = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        counts.by_status.insert(row.get(0)?, evaluations);
    }
    Ok(counts)
}

/// The answer to a read. What cannot be read is there all the same, so it is answered as incomplete.
pub(crate) fn found(id: &str, stored: ValueRef<'_>, fields: Fields) -> Found {
    match (state(id, stored), fields) {
        (Ok(state), Fields::Whole) => Found { state, incomplete: false },
        (Ok(state), Fields::WithoutBodies) => Found { state: state.without_bodies(), incomplete: false },
        (Err(error), _) => {
            error!(id, %error, "a stored state cannot be read");
            Found { state: State::new(), incomplete: true }
        }
    }
}

/// The state of a row.
///
/// # Errors
/// `Configuration` if somebody has damaged it, or a newer program wrote it: it is left as it is.
pub(crate) fn state(id: &str, stored: ValueRef<'_>) -> Result<State> {
    let unreadable = |reason: &dyn std::fmt::Display| {
        Error::configuration(format_args!(
            "the row of `{id}` in the table `evaluations` cannot be read: {reason}; repair its `state`, or delete the row"
        ))
    };
    let text = stored.as_str().map_err(|error| unreadable(&error))?;
    State::from_json(text).map_err(|error| unreadable(&error))
}
