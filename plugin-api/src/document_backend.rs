//! A [`Backend`] over a [`DocumentStore`]: reads, merges, writes if nobody else did meanwhile, else again.
//!
//! The host wraps document stores in it, so no author writes the merge a second time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{Answer, Backend, Call, Delete, Deleted, Durability, Found, Item, Outcome};
use crate::capabilities::Capabilities;
use crate::document_store::{Columns, Document, DocumentStore, Put, PutAnswer, Scan};
use crate::error::{Error, Result};
use crate::model::record::Record;
use crate::model::state::State;
use crate::model::status::Status;
use crate::query::{Counts, Fields, Health, Order, Page, Query};

/// How often one item is read, merged and written again because somebody else was faster.
const MAX_CONFLICTS: usize = 100;
/// How many documents are read at once while filtering or counting.
const SCAN_DOCUMENTS: usize = 256;

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
        for (write, answer) in writes.iter().zip(self.store.put(call, &puts)?) {
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

    fn scan_states(
        &self,
        call: &Call,
        after: &str,
        mut visit: impl FnMut(String, State) -> Result<bool>,
    ) -> Result<()> {
        let mut scan = Scan { after: after.to_owned(), limit: SCAN_DOCUMENTS };
        loop {
            let page = self.store.scan(call, &scan)?;
            let Some((last, _)) = page.documents.last() else { return Ok(()) };
            scan.after.clone_from(last);
            for (id, document) in page.documents {
                let state = read(&id, &document)?;
                if !visit(id, state)? {
                    return Ok(());
                }
            }
            if !page.more {
                return Ok(());
            }
        }
    }
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
    State::from_json(text).map_err(|error| Error::internal(format_args!("document `{id}`: {error}")))
}

fn matches(query: &Query, state: &State) -> bool {
    let created = Record::created_at_of(state).unwrap_or_default();
    query.status.as_deref().is_none_or(|wanted| Record::status_of(state).is_some_and(|found| found.as_str() == wanted))
        && query.language.as_deref().is_none_or(|wanted| Record::language_of(state).as_deref() == Some(wanted))
        && query.since.is_none_or(|since| created >= since)
        && query.until.is_none_or(|until| created < until)
}

fn in_fields(state: State, fields: Fields) -> State {
    match fields {
        Fields::Whole => state,
        Fields::WithoutBodies => state.without_bodies(),
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
            for _ in 0..MAX_CONFLICTS {
                if round.open.is_empty() {
                    break;
                }
                self.merge_round(call, &mut round)?;
            }
            for index in std::mem::take(&mut round.open) {
                let error = Error::overloaded(format_args!("`{}` is written by too many at once", batch[index].id()));
                round.answers[index] = Some(Answer::rejected(error));
            }
        }
        let unanswered = || Answer::rejected(Error::internal("the store gave too few answers"));
        Ok(round.answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect())
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let documents = self.store.get(call, ids)?;
        let found = |(id, document): (&&str, Option<Document>)| {
            let state = document.map(|document| read(id, &document)).transpose()?;
            Ok(state.map(|state| Found { state: in_fields(state, fields), incomplete: false }))
        };
        ids.iter().zip(documents).map(found).collect()
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        if query.order != Order::Id {
            return Err(Error::configuration("a document store lists by id only"));
        }
        let mut page = Page::default();
        let limit = query.limit.max(1);
        self.scan_states(call, query.cursor.as_deref().unwrap_or_default(), |id, state| {
            if !matches(query, &state) {
                return Ok(true);
            }
            if page.entries.len() == limit {
                page.cursor = page.entries.last().map(|(id, _)| id.clone());
                return Ok(false);
            }
            page.entries.push((id, Found { state: in_fields(state, query.fields), incomplete: false }));
            Ok(true)
        })?;
        Ok(page)
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        let mut counts = Counts::default();
        self.scan_states(call, "", |_, state| {
            let status = Record::status_of(&state).map_or("unknown", Status::as_str);
            *counts.by_status.entry(status.to_owned()).or_default() += 1;
            Ok(true)
        })?;
        Ok(counts)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let ids: Vec<&str> = items.iter().map(|item| item.id).collect();
        let documents = self.store.get(call, &ids)?;
        let mut answers = Vec::with_capacity(items.len());
        for (item, document) in items.iter().zip(documents) {
            let Some(document) = document else {
                answers.push(Deleted::Absent);
                continue;
            };
            if item.digest.is_some_and(|digest| read(item.id, &document).map(|state| state.digest()) != Ok(*digest)) {
                answers.push(Deleted::Differs);
                continue;
            }
            let answer = self.store.delete(call, &[(item.id, document.version)])?.into_iter().next();
            answers.push(match answer {
                Some(PutAnswer::Done) => Deleted::Deleted,
                Some(PutAnswer::Conflict) => Deleted::Differs,
                Some(PutAnswer::Failed(error)) => Deleted::Failed(error),
                None => Deleted::Failed(Error::internal("the store gave no answer")),
            });
        }
        Ok(answers)
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
