//! A [`Backend`] over a [`DocumentStore`]: reads, merges, writes if nobody else did meanwhile, else again.
//!
//! The host wraps document stores in it, so no author writes the merge a second time. A document that cannot be read is
//! never taken for one that is not there, nor replaced: it is logged, read and listed as an empty state that is
//! incomplete, and what would be merged into it is rejected. Deleting it is how an operator gets rid of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::{Answer, Backend, Call, Delete, Deleted, Durability, Found, Item, Outcome};
use crate::capabilities::Capabilities;
use crate::convert::check_count;
use crate::document_store::{Columns, Document, DocumentStore, Put, PutAnswer, Scan};
use crate::error::{Error, Result};
use crate::model::record::Record;
use crate::model::state::State;
use crate::model::status::Status;
use crate::model::stored::StoredError;
use crate::query::{Counts, Fields, Health, Order, Page, Query};

/// How often one item is read, merged and written again because somebody else was faster.
const MAX_CONFLICTS: usize = 100;
/// How many documents are read at once while filtering or counting.
const SCAN_DOCUMENTS: usize = 256;
/// A scan that has used up this share of its time stops, so that what it has read is answered in time.
const SCAN_SHARE: f64 = 0.75;

/// A backend that keeps its states as documents of a store.
pub struct DocumentBackend {
    store: Arc<dyn DocumentStore>,
    durability: Durability,
}

impl std::fmt::Debug for DocumentBackend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DocumentBackend").field("durability", &self.durability).finish_non_exhaustive()
    }
}

impl DocumentBackend {
    /// Wraps a store whose writes have this durability.
    #[must_use]
    pub fn new(store: Arc<dyn DocumentStore>, durability: Durability) -> Self {
        Self { store, durability }
    }

    /// What such a backend offers over a store that says this of itself: the lists and counts are not the store's to say.
    #[must_use]
    pub fn capabilities(store: &Capabilities) -> Capabilities {
        let Capabilities { durable, exclusive, parallel_calls, .. } = *store;
        Capabilities { durable, exclusive, parallel_calls, list_by_id: true, counts: true, ..Capabilities::default() }
    }

    /// Merges some items once; what met a conflict stays in `open`.
    fn merge_round(&self, call: &Call, round: &mut Round<'_, '_>) -> Result<()> {
        let ids: Vec<&str> = round.open.iter().map(|index| round.batch[*index].id()).collect();
        let stored = self.store.get(call, &ids)?;
        check_count(stored.len(), ids.len())?;
        let mut writes = Vec::new();
        for (index, document) in std::mem::take(&mut round.open).into_iter().zip(stored) {
            match merged(&round.batch[index], document.as_ref()) {
                Ok(Merged { state, changed: false, .. }) => {
                    let answer = Answer::new(Outcome::Unchanged, Record::status_of(&state), self.durability);
                    round.answers[index] = Some(answer);
                }
                Ok(Merged { state, created, .. }) => {
                    let expected = document.map_or(0, |document| document.version);
                    writes.push(Write { index, created, expected, bytes: state.to_canonical_json(), state });
                }
                Err(error) => round.answers[index] = Some(Answer::rejected(error)),
            }
        }
        if writes.is_empty() {
            return Ok(());
        }
        let languages: Vec<String> =
            writes.iter().map(|write| Record::language_of(&write.state).unwrap_or_default()).collect();
        let puts: Vec<Put<'_>> = writes
            .iter()
            .zip(&languages)
            .map(|(write, language)| Put {
                id: round.batch[write.index].id(),
                expected: write.expected,
                bytes: write.bytes.as_bytes(),
                columns: Columns {
                    status: Record::status_of(&write.state).map_or("", Status::as_str),
                    language,
                    created_at: Record::created_at_of(&write.state).unwrap_or_default(),
                },
            })
            .collect();
        let answered = self.store.put(call, &puts)?;
        check_count(answered.len(), puts.len())?;
        for (write, answer) in writes.iter().zip(answered) {
            match answer {
                PutAnswer::Conflict => round.open.push(write.index),
                PutAnswer::Failed(error) => round.answers[write.index] = Some(Answer::rejected(error)),
                PutAnswer::Done => {
                    let outcome = if write.created { Outcome::Created } else { Outcome::Updated };
                    let answer = Answer::new(outcome, Record::status_of(&write.state), self.durability);
                    round.answers[write.index] = Some(answer);
                }
            }
        }
        Ok(())
    }

    /// Visits what is stored behind an id, until the visitor has enough, the end, or the time for it is over.
    fn scan_states(&self, call: &Call, after: &str, mut visit: impl FnMut(String, Found) -> bool) -> Result<Scanned> {
        let stop = Instant::now() + call.remaining().mul_f64(SCAN_SHARE);
        let mut scan = Scan { after: after.to_owned(), limit: SCAN_DOCUMENTS };
        loop {
            let page = self.store.scan(call, &scan)?;
            let Some((last, _)) = page.documents.last() else { return Ok(Scanned::All) };
            scan.after.clone_from(last);
            for (id, document) in page.documents {
                let found = found(&id, &document);
                if !visit(id, found) {
                    return Ok(Scanned::Enough);
                }
            }
            if !page.more {
                return Ok(Scanned::All);
            }
            if Instant::now() >= stop {
                return Ok(Scanned::UpTo(scan.after));
            }
        }
    }

    /// Deletes some items once; what met a conflict stays open.
    fn delete_round(
        &self,
        call: &Call,
        items: &[Delete<'_>],
        open: &mut Vec<usize>,
        answers: &mut [Option<Deleted>],
    ) -> Result<()> {
        let ids: Vec<&str> = open.iter().map(|index| items[*index].id).collect();
        let documents = self.store.get(call, &ids)?;
        check_count(documents.len(), ids.len())?;
        let mut deletes = Vec::new();
        for (index, document) in std::mem::take(open).into_iter().zip(documents) {
            match may_delete(&items[index], document.as_ref()) {
                Ok(version) => deletes.push((index, version)),
                Err(answer) => answers[index] = Some(answer),
            }
        }
        if deletes.is_empty() {
            return Ok(());
        }
        let raw: Vec<(&str, u64)> = deletes.iter().map(|(index, version)| (items[*index].id, *version)).collect();
        let answered = self.store.delete(call, &raw)?;
        check_count(answered.len(), raw.len())?;
        for ((index, _), answer) in deletes.into_iter().zip(answered) {
            match answer {
                PutAnswer::Conflict => open.push(index),
                PutAnswer::Done => answers[index] = Some(Deleted::Deleted),
                PutAnswer::Failed(error) => answers[index] = Some(Deleted::Failed(error)),
            }
        }
        Ok(())
    }
}

/// How a scan ended.
enum Scanned {
    /// At the end of what is stored.
    All,
    /// The visitor wanted no more.
    Enough,
    /// Behind this id there is more, but no time.
    UpTo(String),
}

struct Round<'a, 'b> {
    batch: &'a [Item<'b>],
    open: Vec<usize>,
    answers: Vec<Option<Answer>>,
}

struct Write {
    index: usize,
    created: bool,
    expected: u64,
    bytes: String,
    state: State,
}

struct Merged {
    state: State,
    created: bool,
    changed: bool,
}

fn merged(item: &Item<'_>, document: Option<&Document>) -> Result<Merged> {
    let mut state = document.map(|document| read(item.id(), document)).transpose()?.unwrap_or_default();
    let changed = state.merge_registers(item.registers().iter().copied());
    // What nothing is known of is not stored.
    Ok(Merged { state, created: document.is_none(), changed })
}

fn read(id: &str, document: &Document) -> Result<State> {
    let text = std::str::from_utf8(&document.bytes);
    let text = text.map_err(|error| Error::internal(format_args!("document `{id}`: {error}")))?;
    State::from_json(text).map_err(|error| match error {
        // Nothing is wrong with the document, nor with the event that would be merged into it.
        StoredError::NewerFormat { .. } => Error::configuration(format_args!("document `{id}`: {error}")),
        StoredError::Malformed { .. } => Error::internal(format_args!("document `{id}`: {error}")),
    })
}

/// What is seen of a document: its state, or that there is one which cannot be read.
fn found(id: &str, document: &Document) -> Found {
    match read(id, document) {
        Ok(state) => Found { state, incomplete: false },
        Err(error) => {
            tracing::error!(id, %error, "a stored document cannot be read; restore it from a backup, or delete it");
            Found { state: State::new(), incomplete: true }
        }
    }
}

/// The version of a document that may be deleted, or the answer if it may not.
fn may_delete(item: &Delete<'_>, document: Option<&Document>) -> Result<u64, Deleted> {
    let document = document.ok_or(Deleted::Absent)?;
    let Some(digest) = item.digest else { return Ok(document.version) };
    let state = read(item.id, document).map_err(Deleted::Failed)?;
    if state.digest() == *digest { Ok(document.version) } else { Err(Deleted::Differs) }
}

fn too_many_writers(id: &str) -> Error {
    Error::overloaded(format_args!("`{id}` is written by too many at once"))
}

fn matches(query: &Query, state: &State) -> bool {
    let created = Record::created_at_of(state).unwrap_or_default();
    query.status.as_deref().is_none_or(|wanted| Record::status_of(state).is_some_and(|found| found.as_str() == wanted))
        && query.language.as_deref().is_none_or(|wanted| Record::language_of(state).as_deref() == Some(wanted))
        && query.since.is_none_or(|since| created >= since)
        && query.until.is_none_or(|until| created < until)
}

fn in_fields(found: Found, fields: Fields) -> Found {
    match fields {
        Fields::Whole => found,
        Fields::WithoutBodies => Found { state: found.state.without_bodies(), ..found },
    }
}

impl Backend for DocumentBackend {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let mut round = Round { batch, open: Vec::new(), answers: vec![None; batch.len()] };
        // An id that occurs twice goes into a later round, which reads what the first one wrote.
        let mut waves: Vec<Vec<usize>> = Vec::new();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, item) in batch.iter().enumerate() {
            let wave = seen.entry(item.id()).and_modify(|wave| *wave += 1).or_insert(0);
            if waves.len() <= *wave {
                waves.push(Vec::new());
            }
            waves[*wave].push(index);
        }
        for wave in waves {
            round.open = wave;
            for attempt in 0..MAX_CONFLICTS {
                if round.open.is_empty() || (attempt > 0 && call.remaining().is_zero()) {
                    break;
                }
                self.merge_round(call, &mut round)?;
            }
            for index in std::mem::take(&mut round.open) {
                round.answers[index] = Some(Answer::rejected(too_many_writers(batch[index].id())));
            }
        }
        Ok(round.answers.into_iter().map(|answer| answer.expect("every round answers its items")).collect())
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let documents = self.store.get(call, ids)?;
        check_count(documents.len(), ids.len())?;
        let seen = |(id, document): (&&str, Option<Document>)| {
            document.map(|document| in_fields(found(id, &document), fields))
        };
        Ok(ids.iter().zip(documents).map(seen).collect())
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        if query.order != Order::Id {
            return Err(Error::configuration("a document store lists by id only"));
        }
        let mut page = Page::default();
        let limit = query.limit.max(1);
        let after = query.cursor.as_deref().unwrap_or_default();
        let scanned = self.scan_states(call, after, |id, found| {
            if !matches(query, &found.state) {
                return true;
            }
            if page.entries.len() == limit {
                page.cursor = page.entries.last().map(|(id, _)| id.clone());
                return false;
            }
            page.entries.push((id, in_fields(found, query.fields)));
            true
        })?;
        // A filter that hardly anything passes may take longer than a call: then the next page goes on from there.
        if let Scanned::UpTo(id) = scanned {
            page.cursor = Some(id);
        }
        Ok(page)
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        let mut counts = Counts::default();
        let scanned = self.scan_states(call, "", |_, found| {
            let status = Record::status_of(&found.state).map_or("unknown", Status::as_str);
            *counts.by_status.entry(status.to_owned()).or_default() += 1;
            true
        })?;
        match scanned {
            Scanned::All | Scanned::Enough => Ok(counts),
            Scanned::UpTo(id) => {
                let seen = counts.by_status.values().sum::<u64>();
                let message = format_args!("counting took too long: {seen} documents up to `{id}` were read in time");
                Err(Error::unavailable(message))
            }
        }
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let mut answers = vec![None; items.len()];
        let mut open: Vec<usize> = (0..items.len()).collect();
        // What somebody else writes meanwhile is read again; only a digest makes a difference of it.
        for attempt in 0..MAX_CONFLICTS {
            if open.is_empty() || (attempt > 0 && call.remaining().is_zero()) {
                break;
            }
            self.delete_round(call, items, &mut open, &mut answers)?;
        }
        let unanswered = |(item, answer): (&Delete<'_>, Option<Deleted>)| {
            answer.unwrap_or_else(|| Deleted::Failed(too_many_writers(item.id)))
        };
        Ok(items.iter().zip(answers).map(unanswered).collect())
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.store.flush(call)
    }

    fn close(&self, call: &Call) -> Result<()> {
        self.store.close(call)
    }
}
