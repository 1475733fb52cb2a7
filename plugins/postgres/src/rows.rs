//! Reads states by id: our own from the column `state` and the bodies' places, others from what their columns show.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};
use storage_plugin_api::{Body, Call, Error, Fields, Found, Record, Reference, State, adopt, format_time};
use tokio_postgres::Row;

use crate::errors::{Failure, unreadable};
use crate::escape::{escape_key, unescape};
use crate::pool::{Parameter, Pool, Session, begin_snapshot};
use crate::shown::{Place, place};
use crate::state_form::{self, is_escaped, is_stored};
use crate::statements::Statements;
use crate::tables::Query;
use crate::timestamp::Timestamp;

/// Where statements that read are run.
pub(crate) enum Reader<'a> {
    /// Each in a transaction of its own.
    Pool(&'a Pool, &'a Call),
    /// In the transaction that is open.
    Session(&'a Session),
}

impl Reader<'_> {
    pub(crate) async fn run(&self, query: &Query, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        match self {
            Self::Pool(pool, call) => pool.read(call, query, parameters).await,
            Self::Session(session) => session.query(query, parameters).await,
        }
    }
}

/// The states of some ids; whoever is not there has none.
pub(crate) async fn get(
    reader: &Reader<'_>,
    statements: &Statements,
    ids: &[&str],
    fields: Fields,
) -> Result<HashMap<String, Result<State, Error>>, Failure> {
    let rows = reader.run(query_of(statements, fields), &[&ids]).await?;
    of_rows(reader, statements, &rows, fields).await
}

/// What is seen of a stored state: all of it, a part, or that there is one which cannot be read.
pub(crate) fn found(read: Result<State, Error>) -> Found {
    match read {
        Ok(state) => {
            let incomplete = state.registers().iter().any(|register| register.value.as_body().is_some_and(is_stored));
            let mut state = state;
            leave_out(&mut state);
            Found { state, incomplete }
        }
        Err(error) => {
            tracing::error!(%error, "a stored state cannot be read; restore it from a backup, or delete it");
            Found { state: State::new(), incomplete: true }
        }
    }
}

/// The states of rows that begin with the columns of `get_states`, or of `get_whole`; or why one cannot be read. A body
/// whose text is not where it belongs still refers to its place.
pub(crate) async fn of_rows(
    reader: &Reader<'_>,
    statements: &Statements,
    rows: &[Row],
    fields: Fields,
) -> Result<HashMap<String, Result<State, Error>>, Failure> {
    let mut read = Read::of(rows, fields);
    if read.others.is_empty() && read.with_aside.is_empty() {
        return Ok(read.states);
    }
    match reader {
        Reader::Session(session) => read.complete(session, statements, fields).await,
        Reader::Pool(pool, call) => {
            let apart: Vec<&str> = read.others.iter().chain(&read.with_aside).copied().collect();
            apart.iter().for_each(|id| drop(read.states.remove(*id)));
            read.states.extend(get_at_once(pool, call, statements, &apart, fields).await?);
            Ok(read.states)
        }
    }
}

/// The states of ids that take several statements, as of one moment: a merge between two statements may move a body, or
/// take over a row that somebody else wrote.
async fn get_at_once(
    pool: &Pool,
    call: &Call,
    statements: &Statements,
    ids: &[&str],
    fields: Fields,
) -> Result<HashMap<String, Result<State, Error>>, Failure> {
    let mut tries = 0;
    loop {
        let mut session = pool.session(call.deadline).await?;
        match get_in_snapshot(&mut session, call, statements, ids, fields).await {
            Err(Failure::Conflict(_)) if tries < 3 => tries += 1,
            result => return result,
        }
    }
}

async fn get_in_snapshot(
    session: &mut Session,
    call: &Call,
    statements: &Statements,
    ids: &[&str],
    fields: Fields,
) -> Result<HashMap<String, Result<State, Error>>, Failure> {
    let rows = session.begin_with(&begin_snapshot(call), query_of(statements, fields), &[&ids]).await?;
    let states = Read::of(&rows, fields).complete(session, statements, fields).await?;
    session.command("COMMIT").await?;
    session.leave_transaction();
    Ok(states)
}

fn query_of(statements: &Statements, fields: Fields) -> &Query {
    match fields {
        Fields::Whole => &statements.get_whole,
        Fields::WithoutBodies => &statements.get_states,
    }
}

/// What rows say by themselves.
struct Read<'a> {
    states: HashMap<String, Result<State, Error>>,
    /// Whose row somebody else wrote.
    others: Vec<&'a str>,
    /// Who has bodies that are not in the row.
    with_aside: Vec<&'a str>,
}

impl<'a> Read<'a> {
    fn of(rows: &'a [Row], fields: Fields) -> Self {
        let mut read = Self { states: HashMap::with_capacity(rows.len()), others: vec![], with_aside: vec![] };
        for row in rows {
            let id: &str = row.get(0);
            let Some(bytes) = row.get::<_, Option<&[u8]>>(1) else {
                read.others.push(id);
                continue;
            };
            let state = state_form::read(bytes).map_err(|error| unreadable(id, &error)).map(|mut state| {
                match fields {
                    Fields::WithoutBodies => leave_out(&mut state),
                    Fields::Whole if !fill_in(&mut state, [row.get(2), row.get(3), row.get(4)]) => {
                        read.with_aside.push(id);
                    }
                    Fields::Whole => {}
                }
                state
            });
            read.states.insert(id.to_owned(), state);
        }
        read
    }

    /// Reads what is elsewhere. The transaction that the rows were read in is still open, and sees what it saw.
    async fn complete(
        mut self,
        session: &Session,
        statements: &Statements,
        fields: Fields,
    ) -> Result<HashMap<String, Result<State, Error>>, Failure> {
        if !self.with_aside.is_empty() {
            fill_in_aside(session, statements, &self.with_aside, &mut self.states).await?;
        }
        if !self.others.is_empty() {
            for (id, state) in adopted(&Reader::Session(session), statements, &self.others).await? {
                let state = if fields == Fields::Whole { state } else { state.without_bodies() };
                self.states.insert(id, Ok(state));
            }
        }
        Ok(self.states)
    }
}

/// The bodies that are stored become references to nowhere.
fn leave_out(state: &mut State) {
    state.map_bodies(|_, body| {
        let reference = body.as_reference().filter(|_| is_stored(body))?;
        Some(Body::reference(Reference { location: None, ..reference.clone() }))
    });
}

/// Puts the bodies of a row into its state: code, output, error. False if some are elsewhere.
fn fill_in(state: &mut State, columns: [Option<&str>; 3]) -> bool {
    let status = Record::status_of(state);
    let mut is_whole = true;
    state.map_bodies(|name, body| {
        if !is_stored(body) {
            return None;
        }
        let column = match place(name, status) {
            Place::Code => columns[0],
            Place::Output => columns[1],
            Place::Error => columns[2],
            Place::Aside => {
                is_whole = false;
                return None;
            }
        };
        whole(body, column)
    });
    is_whole
}

/// A stored body with its text; none if somebody took that away.
fn whole(body: &Body, text: Option<&str>) -> Option<Body> {
    text.map(|text| match is_escaped(body) {
        true => Body::text_with_hash(unescape(text), *body.hash()),
        false => Body::text_with_hash(text, *body.hash()),
    })
}

async fn fill_in_aside(
    session: &Session,
    statements: &Statements,
    ids: &[&str],
    states: &mut HashMap<String, Result<State, Error>>,
) -> Result<(), Failure> {
    let rows = session.query(&statements.get_aside, &[&ids]).await?;
    let texts: HashMap<(&str, &str), &str> = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    for id in ids {
        if let Some(Ok(state)) = states.get_mut(*id) {
            state.map_bodies(|name, body| {
                whole(body, texts.get(&(*id, &*escape_key(name))).copied()).filter(|_| is_stored(body))
            });
        }
    }
    Ok(())
}

/// The states of rows that somebody else wrote, with their texts: each is one event `adopted`.
pub(crate) async fn adopted(
    reader: &Reader<'_>,
    statements: &Statements,
    ids: &[&str],
) -> Result<HashMap<String, State>, Failure> {
    adopted_by(reader, statements, &statements.get_adopted, ids).await
}

/// When rows that somebody else wrote ended; who has not is not in the answer.
pub(crate) async fn adopted_ends(
    reader: &Reader<'_>,
    statements: &Statements,
    ids: &[&str],
) -> Result<HashMap<String, i64>, Failure> {
    let states = adopted_by(reader, statements, &statements.get_adopted_ends, ids).await?;
    Ok(states.into_iter().filter_map(|(id, state)| Some((id, Record::completed_at_of(&state)?))).collect())
}

async fn adopted_by(
    reader: &Reader<'_>,
    statements: &Statements,
    query: &Query,
    ids: &[&str],
) -> Result<HashMap<String, State>, Failure> {
    let rows = reader.run(query, &[&ids]).await?;
    let history = reader.run(&statements.get_adopted_history, &[&ids]).await?;
    let mut events: HashMap<String, Vec<Json>> = HashMap::new();
    for row in &history {
        events.entry(row.get(0)).or_default().push(Json::Object(event(row)));
    }
    let state = |row: &Row| {
        let id: String = row.get(0);
        let state = adopt(&record(row), events.get(&id).map_or(&[], Vec::as_slice));
        (id, state)
    };
    Ok(rows.iter().map(state).collect())
}

/// The record of a row as the Python service's reader makes it: columns, and over them the keys of the JSON.
fn record(row: &Row) -> Map<String, Json> {
    let mut record = Map::new();
    let mut set = |key: &str, value: Json| {
        if !value.is_null() {
            record.insert(key.to_owned(), value);
        }
    };
    set("status", row.get::<_, &str>("status").into());
    set("code_hash", row.get::<_, &str>("code_hash").into());
    set("created_at", time(row, "created_at"));
    for column in ["engine", "worker_id", "output", "error", "code_location", "output_location", "error_location"] {
        set(column, row.get::<_, Option<&str>>(column).into());
    }
    for column in ["runtime_ms", "memory_used_mb", "exit_code"] {
        set(column, row.get::<_, Option<i32>>(column).into());
    }
    for column in ["output_size", "error_size"] {
        set(column, row.get::<_, Option<i64>>(column).into());
    }
    for column in ["output_truncated", "error_truncated"] {
        set(column, row.get::<_, Option<bool>>(column).into());
    }
    let overlaid = row.get::<_, Option<&str>>("metadata").and_then(|text| serde_json::from_str(text).ok());
    if let Some(Json::Object(overlaid)) = overlaid {
        for (key, value) in overlaid {
            set(&key, value);
        }
    }
    record
}

/// A line of the history as that reader makes it: the keys of the JSON stand beside the columns.
fn event(row: &Row) -> Map<String, Json> {
    let overlaid = row.get::<_, Option<&str>>("metadata").and_then(|text| serde_json::from_str(text).ok());
    let mut event = match overlaid {
        Some(Json::Object(overlaid)) => overlaid,
        _ => Map::new(),
    };
    event.insert("type".to_owned(), row.get::<_, &str>("event_type").into());
    event.insert("timestamp".to_owned(), time(row, "timestamp"));
    event.insert("message".to_owned(), row.get::<_, Option<&str>>("message").into());
    event
}

fn time(row: &Row, column: &str) -> Json {
    row.get::<_, Option<Timestamp>>(column).map(|Timestamp(time)| format_time(time)).into()
}
