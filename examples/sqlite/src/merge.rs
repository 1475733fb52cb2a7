//! What changes evaluations: joins items into the stored states, and deletes. The caller has begun a transaction.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, params};
use storage_plugin_api::{Answer, Delete, Deleted, Durability, Error, Item, Outcome, Record, Result, State, Status};

use crate::failure;
use crate::read::{self, UNKNOWN};

const FIND: &str = "SELECT number, state FROM evaluations WHERE id = ?1";
const CREATE: &str =
    "INSERT INTO evaluations (id, status, language, created_at, ended_at, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
/// What an evaluation goes through: it keeps its places in the orders of creation.
const ADVANCE: &str = "UPDATE evaluations SET status = ?2, ended_at = ?3, state = ?4 WHERE number = ?1";
/// An event that is earlier than all before moves it, too.
const MOVE: &str = "UPDATE evaluations SET status = ?2, ended_at = ?3, state = ?4, language = ?5, created_at = ?6 \
                    WHERE number = ?1";
const DELETE_BY_ID: &str = "DELETE FROM evaluations WHERE id = ?1";
const DELETE: &str = "DELETE FROM evaluations WHERE number = ?1";

/// Every statement above, for the test of their plans.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 6] = [FIND, CREATE, ADVANCE, MOVE, DELETE_BY_ID, DELETE];

/// Joins items into what is stored; one answer for each.
///
/// What is not reached until `stop` is answered as overloaded, so that what was can be committed in time.
pub(crate) fn merge(
    connection: &Connection,
    batch: &[Item<'_>],
    durability: Durability,
    stop: Instant,
) -> rusqlite::Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(batch.len());
    for item in batch {
        if !answers.is_empty() && Instant::now() >= stop {
            answers.push(Answer::rejected(Error::overloaded(
                "the batch is larger than what the disk takes within the time of a call; the rest comes next",
            )));
            continue;
        }
        answers.push(match merge_item(connection, item) {
            Ok(Ok((outcome, status))) => Answer::new(outcome, status, durability),
            Ok(Err(error)) => Answer::rejected(error),
            Err(cause) => Answer::rejected(failure::of_item(item.id(), &cause).ok_or(cause)?),
        });
    }
    Ok(answers)
}

/// Joins one item. Inside: what that did, or why this item alone cannot be stored.
fn merge_item(connection: &Connection, item: &Item<'_>) -> rusqlite::Result<Result<(Outcome, Option<Status>)>> {
    let mut find = connection.prepare_cached(FIND)?;
    let mut rows = find.query([item.id()])?;
    let Some(row) = rows.next()? else {
        drop(rows);
        return create(connection, item.id(), &item.to_state()).map(Ok);
    };
    let number: i64 = row.get(0)?;
    let mut state = match read::state(item.id(), row.get_ref(1)?) {
        Ok(state) => state,
        Err(error) => return Ok(Err(error)),
    };
    drop(rows);
    let before = (Record::created_at_of(&state), Record::language_of(&state));
    if !state.merge_registers(item.registers().iter().copied()) {
        return Ok(Ok((Outcome::Unchanged, Record::status_of(&state))));
    }
    let status = Record::status_of(&state);
    let (created, language) = (Record::created_at_of(&state), Record::language_of(&state));
    let name = status.map_or(UNKNOWN, Status::as_str);
    let (ended, stored) = (Record::completed_at_of(&state), state.to_canonical_json());
    if before.0 == created && before.1 == language {
        connection.prepare_cached(ADVANCE)?.execute(params![number, name, ended, stored])?;
    } else {
        let created = created.unwrap_or(0);
        connection.prepare_cached(MOVE)?.execute(params![number, name, ended, stored, language, created])?;
    }
    Ok(Ok((Outcome::Updated, status)))
}

fn create(connection: &Connection, id: &str, state: &State) -> rusqlite::Result<(Outcome, Option<Status>)> {
    if state.is_empty() {
        return Ok((Outcome::Unchanged, None));
    }
    let status = Record::status_of(state);
    connection.prepare_cached(CREATE)?.execute(params![
        id,
        status.map_or(UNKNOWN, Status::as_str),
        Record::language_of(state),
        Record::created_at_of(state).unwrap_or(0),
        Record::completed_at_of(state),
        state.to_canonical_json(),
    ])?;
    Ok((Outcome::Created, status))
}

/// Deletes evaluations; one answer for each item.
pub(crate) fn delete(connection: &Connection, items: &[Delete<'_>]) -> rusqlite::Result<Vec<Deleted>> {
    items.iter().map(|item| delete_item(connection, item)).collect()
}

fn delete_item(connection: &Connection, item: &Delete<'_>) -> rusqlite::Result<Deleted> {
    let Some(digest) = item.digest else {
        let deleted = connection.prepare_cached(DELETE_BY_ID)?.execute([item.id])?;
        return Ok(if deleted > 0 { Deleted::Deleted } else { Deleted::Absent });
    };
    let mut find = connection.prepare_cached(FIND)?;
    let found = find.query_row([item.id], |row| Ok((row.get::<_, i64>(0)?, read::state(item.id, row.get_ref(1)?))));
    Ok(match found.optional()? {
        None => Deleted::Absent,
        Some((_, Err(error))) => Deleted::Failed(error),
        Some((_, Ok(state))) if state.digest() != *digest => Deleted::Differs,
        Some((number, Ok(_))) => {
            connection.prepare_cached(DELETE)?.execute([number])?;
            Deleted::Deleted
        }
    })
}
