//! Collects what a batch writes, as arrays for the statements in `statements.rs`, and sends it all at once.
//!
//! The order of the statements is that in which they depend on each other; none waits for the answer of another.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;

use futures_util::future::join_all;
use storage_plugin_api::names::{self, Name};
use storage_plugin_api::{Body, Record, State, Status, json};
use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::errors::Failure;
use crate::escape::{escape, escape_key};
use crate::pool::{Parameter, Ready, Session};
use crate::shown::{Line, Place, Shown, body, place, take_texts};
use crate::state_form::{self, is_stored};
use crate::statements::Statements;
use crate::tables::Query;
use crate::timestamp::Timestamp;

/// What stays in its column and is not sent; of an update only.
const KEEPS_OUTPUT: i32 = 1;
const KEEPS_ERROR: i32 = 2;
/// Of what is sent, that it is not the whole text.
const CUTS_OUTPUT: i32 = 4;
const CUTS_ERROR: i32 = 8;

/// Everything that a transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Writes<'a> {
    inserts: Rows<'a>,
    insert_lines: Lines<'a>,
    updates: Rows<'a>,
    update_lines: Lines<'a>,
    lines_gone: Names,
    moves_aside: Moves,
    aside: Moves,
    aside_of_new: Moves,
    back_to_output: Names,
    back_to_error: Names,
}

impl<'a> Writes<'a> {
    /// A state of an id that is new.
    pub(crate) fn insert(&mut self, id: &'a str, mut state: State) {
        let texts = take_texts(&mut state);
        self.add_lines(id, &state, None);
        let status = Record::status_of(&state);
        self.inserts.push(id, &state, status, &texts, 0);
        self.aside_of_new.push_texts(id, &texts, status);
    }

    /// A state that takes the place of another, which is locked.
    ///
    /// `before` has references to what is stored; of what somebody else wrote it has the texts, and then all are written.
    pub(crate) fn update(&mut self, id: &'a str, mut state: State, before: &State) {
        let texts = take_texts(&mut state);
        self.add_lines(id, &state, Some(before));
        let (old_status, status) = (Record::status_of(before), Record::status_of(&state));
        let mut keep = KEEPS_OUTPUT | KEEPS_ERROR;
        for (shown, bit) in [(Place::Output, KEEPS_OUTPUT), (Place::Error, KEEPS_ERROR)] {
            let held = body_at(before, old_status, shown).filter(|(_, body)| is_stored(body));
            let wanted = body_at(&state, status, shown);
            let is_kept = match (&held, &wanted) {
                (Some((held_name, held)), Some((name, body))) => {
                    held_name == name && held.hash() == body.hash() && is_stored(body)
                }
                _ => false,
            };
            if !is_kept {
                keep &= !bit;
                self.swap(id, shown, held, wanted, &state, &texts);
            }
        }
        self.updates.push(id, &state, status, &texts, keep);
        self.aside.push_texts(id, &texts, status);
    }

    /// A column gets another body: the one in it goes aside if it is still part of the state, the other may come back.
    fn swap(
        &mut self,
        id: &str,
        shown: Place,
        held: Option<(Name, &Body)>,
        wanted: Option<(Name, &Body)>,
        state: &State,
        texts: &[(String, Body)],
    ) {
        let source = if shown == Place::Output { "output" } else { "error" };
        if let Some((name, held)) = held
            && wanted.as_ref().is_none_or(|(wanted, _)| *wanted != name)
            && body(state, &name).is_some_and(|body| body.hash() == held.hash() && is_stored(body))
        {
            self.moves_aside.push(id, &name, source.to_owned());
        }
        if let Some((name, body)) = wanted
            && is_stored(body)
            && !texts.iter().any(|(fresh, _)| *fresh == name)
        {
            if shown == Place::Output { &mut self.back_to_output } else { &mut self.back_to_error }.push(id, &name);
        }
    }

    /// The lines of the history that `before` does not have; those that it had and that are gone go.
    fn add_lines(&mut self, id: &'a str, state: &State, before: Option<&State>) {
        let lines = if before.is_some() { &mut self.update_lines } else { &mut self.insert_lines };
        for register in state.with_prefix(names::HISTORY_PREFIX) {
            let held = before.and_then(|before| before.get(&register.name));
            if held.is_some_and(|held| held.stamp == register.stamp && held.value.as_json() == register.value.as_json())
            {
                continue;
            }
            if held.is_some() {
                self.lines_gone.push(id, &register.name[names::HISTORY_PREFIX.len()..]);
            }
            if let Some(line) = Line::of(register) {
                lines.push(id, line);
            }
        }
        for gone in before.into_iter().flat_map(|before| before.with_prefix(names::HISTORY_PREFIX)) {
            if state.get(&gone.name).is_none() {
                self.lines_gone.push(id, &gone.name[names::HISTORY_PREFIX.len()..]);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inserts.ids.is_empty() && self.updates.ids.is_empty()
    }

    /// Sends everything and the end of the transaction. Answers the ids of `insert` that were there already.
    pub(crate) async fn send(&self, session: &Session, statements: &Statements) -> Result<BTreeSet<&'a str>, Failure> {
        let mut ready: Vec<(Ready<'_>, Vec<Parameter<'_>>)> = Vec::new();
        for (query, parameters) in self.queries(statements) {
            ready.push((session.ready(query).await?, parameters));
        }
        let all = join_all(ready.iter().map(|(ready, parameters)| session.run(ready, parameters)));
        if self.aside_of_new.ids.is_empty() {
            let (results, ended) = tokio::join!(biased; all, session.command("COMMIT"));
            let raced = self.raced(results)?;
            ended?;
            return Ok(raced);
        }
        // Whose row is not ours must not get our bodies, so here the answer is waited for.
        let raced = self.raced(all.await)?;
        let bodies = self.aside_of_new.without(&raced);
        let insert_aside = session.ready(&statements.insert_aside).await?;
        session.run(&insert_aside, &bodies.parameters()).await?;
        session.command("COMMIT").await?;
        Ok(raced)
    }

    /// As [`send`](Self::send), with the beginning of the transaction, in one round trip where that is enough.
    pub(crate) async fn begin_and_send(
        &self,
        session: &mut Session,
        statements: &Statements,
        begin: &str,
    ) -> Result<BTreeSet<&'a str>, Failure> {
        session.enter_transaction();
        if !self.aside_of_new.ids.is_empty() {
            // Outside of a transaction the rows would stay without these bodies if anything went wrong.
            session.command(begin).await?;
            return self.send(session, statements).await;
        }
        let session = &*session;
        let (begun, raced) = tokio::join!(biased; session.command(begin), self.send(session, statements));
        begun?;
        raced
    }

    /// The ids that were to be inserted and that the insert, which is the last statement, did not answer.
    fn raced(&self, results: Vec<Result<Vec<Row>, Failure>>) -> Result<BTreeSet<&'a str>, Failure> {
        let mut rows = Vec::new();
        for result in results {
            rows = result?;
        }
        let ids = &self.inserts.ids;
        let answered = || rows.iter().map(|row| row.get::<_, &str>(0));
        if ids.is_empty() || answered().eq(ids.iter().copied()) {
            return Ok(BTreeSet::new());
        }
        let new: BTreeSet<&str> = answered().collect();
        Ok(ids.iter().copied().filter(|id| !new.contains(id)).collect())
    }

    fn queries<'b>(&'b self, statements: &'b Statements) -> Vec<(&'b Query, Vec<Parameter<'b>>)> {
        let mut queries: Vec<(&Query, Vec<Parameter<'_>>)> = Vec::new();
        if !self.moves_aside.ids.is_empty() {
            queries.push((&statements.move_aside, self.moves_aside.parameters()));
        }
        if !self.updates.ids.is_empty() {
            queries.push((&statements.update, self.updates.parameters()));
        }
        for (names, source) in [(&self.back_to_output, &"output"), (&self.back_to_error, &"error")] {
            if !names.ids.is_empty() {
                let mut parameters = names.parameters();
                parameters.push(source);
                queries.push((&statements.take_back, parameters));
                queries.push((&statements.delete_aside, names.parameters()));
            }
        }
        if !self.lines_gone.ids.is_empty() {
            queries.push((&statements.delete_history, self.lines_gone.parameters()));
        }
        if !self.update_lines.ids.is_empty() {
            queries.push((&statements.insert_history, self.update_lines.parameters()));
        }
        if !self.aside.ids.is_empty() {
            queries.push((&statements.insert_aside, self.aside.parameters()));
        }
        if !self.inserts.ids.is_empty() {
            let parameters = [self.inserts.parameters(), self.insert_lines.parameters()].concat();
            queries.push((&statements.insert, parameters));
        }
        queries
    }
}

/// The body that belongs into a column of an evaluation of that status, and its name.
fn body_at(state: &State, status: Option<Status>, shown: Place) -> Option<(Name, &Body)> {
    let part = if shown == Place::Output { "output" } else { "error" };
    let name = names::outcome(status.filter(|status| status.is_terminal())?, part);
    let found = body(state, &name)?;
    Some((name, found))
}

/// Columns of `evaluations`, one array each, in the order of the statements.
#[derive(Debug, Default)]
struct Rows<'a> {
    ids: Vec<&'a str>,
    statuses: Vec<&'static str>,
    code_hashes: Vec<String>,
    created: Vec<Timestamp>,
    queued: Vec<Option<Timestamp>>,
    started: Vec<Option<Timestamp>>,
    completed: Vec<Option<Timestamp>>,
    engines: Vec<Option<String>>,
    runtimes: Vec<Option<i32>>,
    memories: Vec<Option<i32>>,
    exit_codes: Vec<Option<i32>>,
    languages: Vec<Option<String>>,
    outputs: Vec<Option<Text>>,
    output_sizes: Vec<Option<i64>>,
    errors: Vec<Option<Text>>,
    error_sizes: Vec<Option<i64>>,
    codes: Vec<Option<String>>,
    rests: Vec<String>,
    states: Vec<Vec<u8>>,
    flags: Vec<i32>,
}

impl<'a> Rows<'a> {
    /// `keep` has the flags of what stays in its column.
    fn push(&mut self, id: &'a str, state: &State, status: Option<Status>, texts: &[(String, Body)], keep: i32) {
        let text = |shown: Place| {
            let (_, body) = texts.iter().find(|(name, _)| place(name, status) == shown)?;
            Some(Text(body.clone()))
        };
        let mut flags = keep;
        // Of a text that is elsewhere, or that nobody has, readers of the column get the beginning.
        let mut shown_text = |place: Place, cuts: i32| match body_at(state, status, place) {
            Some((_, body)) if !is_stored(body) => {
                flags |= cuts;
                body.as_reference().filter(|reference| !reference.preview.is_empty()).map(|_| Text(body.clone()))
            }
            _ => text(place),
        };
        let (output, error) = (shown_text(Place::Output, CUTS_OUTPUT), shown_text(Place::Error, CUTS_ERROR));
        let code = match body(state, names::CODE) {
            Some(body) if is_stored(body) => text(Place::Code).map(|code| json::canonical_string(&code.stored())),
            _ => Some("null".to_owned()),
        };
        let shown = Shown::of(id, state);
        self.ids.push(id);
        self.statuses.push(shown.status);
        self.code_hashes.push(shown.code_hash);
        self.created.push(shown.created_at);
        self.queued.push(shown.queued_at);
        self.started.push(shown.started_at);
        self.completed.push(shown.completed_at);
        self.engines.push(shown.engine);
        self.runtimes.push(shown.runtime_ms);
        self.memories.push(shown.memory_used_mb);
        self.exit_codes.push(shown.exit_code);
        self.languages.push(shown.language);
        self.outputs.push(output);
        self.output_sizes.push(shown.output_size);
        self.errors.push(error);
        self.error_sizes.push(shown.error_size);
        self.codes.push(code);
        self.rests.push(shown.rest);
        self.states.push(state_form::write(state));
        self.flags.push(flags);
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![
            &self.ids,
            &self.statuses,
            &self.code_hashes,
            &self.created,
            &self.queued,
            &self.started,
            &self.completed,
            &self.engines,
            &self.runtimes,
            &self.memories,
            &self.exit_codes,
            &self.languages,
            &self.outputs,
            &self.output_sizes,
            &self.errors,
            &self.error_sizes,
            &self.codes,
            &self.rests,
            &self.states,
            &self.flags,
        ]
    }
}

/// The text of a body as it is stored, or its beginning if that is all there is; shared with whoever has the body, and
/// not copied but into what is sent.
#[derive(Debug)]
struct Text(Body);

impl Text {
    fn stored(&self) -> Cow<'_, str> {
        let preview = || self.0.as_reference().map(|reference| &*reference.preview);
        escape(self.0.as_text().or_else(preview).unwrap_or_default())
    }
}

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.stored().as_bytes());
        Ok(IsNull::No)
    }

    accepts!(TEXT);
    to_sql_checked!();
}

/// Lines of the history.
#[derive(Debug, Default)]
struct Lines<'a> {
    ids: Vec<&'a str>,
    event_ids: Vec<String>,
    times: Vec<Timestamp>,
    types: Vec<String>,
    messages: Vec<String>,
    statuses: Vec<String>,
}

impl<'a> Lines<'a> {
    fn push(&mut self, id: &'a str, line: Line) {
        self.ids.push(id);
        self.event_ids.push(line.event_id);
        self.times.push(line.timestamp);
        self.types.push(line.event_type);
        self.messages.push(line.message);
        self.statuses.push(line.new_status);
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![&self.ids, &self.event_ids, &self.times, &self.types, &self.messages, &self.statuses]
    }
}

/// Ids, and a name of something that belongs to each.
#[derive(Debug, Default)]
struct Names {
    ids: Vec<String>,
    names: Vec<String>,
}

impl Names {
    fn push(&mut self, id: &str, name: &str) {
        self.ids.push(id.to_owned());
        self.names.push(escape_key(name).into_owned());
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![&self.ids, &self.names]
    }
}

/// Ids, names, and a text for each: a body, or the column that it comes from.
#[derive(Debug, Default)]
struct Moves {
    ids: Vec<String>,
    names: Vec<String>,
    texts: Vec<String>,
}

impl Moves {
    /// Texts whose place is aside.
    fn push_texts(&mut self, id: &str, texts: &[(String, Body)], status: Option<Status>) {
        for (name, body) in texts.iter().filter(|(name, _)| place(name, status) == Place::Aside) {
            self.push(id, name, escape(body.as_text().unwrap_or_default()).into_owned());
        }
    }

    /// Those of all other ids.
    fn without(&self, ids: &BTreeSet<&str>) -> Self {
        let mut others = Self::default();
        for ((id, name), text) in self.ids.iter().zip(&self.names).zip(&self.texts) {
            if !ids.contains(&**id) {
                others.ids.push(id.clone());
                others.names.push(name.clone());
                others.texts.push(text.clone());
            }
        }
        others
    }

    fn push(&mut self, id: &str, name: &str, text: String) {
        self.ids.push(id.to_owned());
        self.names.push(escape_key(name).into_owned());
        self.texts.push(text);
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![&self.ids, &self.names, &self.texts]
    }
}
