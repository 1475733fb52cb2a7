//! What a behavior works with: places, opened instances, ids of its own, and what it compares.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::abi::with_items;
use crate::backend::{Answer, Backend, Call, Found, Outcome};
use crate::capabilities::Capabilities;
use crate::error::Result;
use crate::model::register::{Register, Value};
use crate::model::state::State;
use crate::query::{Fields, Query};

use super::{Place, Subject};

/// How long a call may take.
pub(super) const CALL_BUDGET: Duration = Duration::from_secs(10);

/// Most pages that a list is followed for.
const MAX_PAGES: usize = 100_000;

/// Why a behavior did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The backend did something else.
    Failed {
        /// What was expected.
        expected: String,
        /// What was seen instead.
        seen: String,
    },
    /// It cannot be found out here.
    NotRun(String),
}

/// One run of one behavior.
pub struct Trial<'a> {
    subject: &'a dyn Subject,
    pub(super) capabilities: Capabilities,
    pub(super) random: RefCell<fastrand::Rng>,
    /// What the ids of this run begin with: lower-case letters and digits.
    pub(super) prefix: String,
    next_id: Cell<usize>,
    notes: RefCell<Vec<String>>,
}

impl std::fmt::Debug for Trial<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Trial").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// An instance that is closed when it goes out of scope.
pub(super) struct Opened {
    backend: Arc<dyn Backend>,
    is_open: bool,
    /// A place that nobody else holds goes after the instance.
    place: Option<Box<dyn Place>>,
}

impl Opened {
    pub(super) fn end(mut self) -> Result<(), Unmet> {
        self.is_open = false;
        call_ok("close", self.backend.close(&call()))
    }

    /// Closes it, and keeps it to be called.
    pub(super) fn close_once(mut self) -> Result<Closed, Unmet> {
        let (backend, place) = (Arc::clone(&self.backend), self.place.take());
        self.end()?;
        Ok(Closed { backend, _place: place })
    }
}

/// An instance that was closed, and the place that it was opened at.
pub(super) struct Closed {
    backend: Arc<dyn Backend>,
    _place: Option<Box<dyn Place>>,
}

impl Deref for Closed {
    type Target = dyn Backend;

    fn deref(&self) -> &(dyn Backend + 'static) {
        &*self.backend
    }
}

impl Deref for Opened {
    type Target = dyn Backend;

    fn deref(&self) -> &(dyn Backend + 'static) {
        &*self.backend
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.is_open {
            // The behavior has its verdict; what its end says would only hide that.
            let _ = self.backend.close(&call());
        }
    }
}

impl<'a> Trial<'a> {
    pub(super) fn new(subject: &'a dyn Subject, capabilities: Capabilities, name: &str, seed: u64) -> Self {
        // A behavior draws the same numbers whether it is run alone or among the others.
        let own = name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
        // Not from the seed: a far side may still hold what an earlier run of the same seed has stored.
        let prefix = format!("k{:010x}", fastrand::u64(..) >> 24);
        Self {
            subject,
            capabilities,
            random: RefCell::new(fastrand::Rng::with_seed(own)),
            prefix,
            next_id: Cell::new(0),
            notes: RefCell::default(),
        }
    }

    pub(super) fn into_notes(self) -> Vec<String> {
        self.notes.into_inner()
    }

    pub(super) fn note(&self, text: impl Into<String>) {
        self.notes.borrow_mut().push(text.into());
    }

    pub(super) fn subject(&self) -> &dyn Subject {
        self.subject
    }

    pub(super) fn place(&self) -> Result<Box<dyn Place>, Unmet> {
        self.subject.place().map_err(|error| Unmet::NotRun(format!("there is no place to store in: {error}")))
    }

    /// Opens an instance in a new place.
    pub(super) fn open(&self) -> Result<Opened, Unmet> {
        let place = self.place()?;
        let mut opened = open(&*place)?;
        opened.place = Some(place);
        Ok(opened)
    }

    /// A new id; later ones sort behind earlier ones.
    pub(super) fn id(&self) -> String {
        let number = self.next_id.replace(self.next_id.get() + 1);
        format!("{}-{number:06}", self.prefix)
    }

    pub(super) fn ids(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.id()).collect()
    }

    pub(super) fn shuffle<T>(&self, things: &mut [T]) {
        self.random.borrow_mut().shuffle(things);
    }

    /// A query that finds the states of this run among those of others: by a language that nobody else uses.
    pub(super) fn query(&self, limit: usize) -> Query {
        let language = self.subject.has_others().then(|| self.prefix.clone());
        Query { language, limit, ..Query::default() }
    }

    /// Every page of a query; only the ids of this run are kept.
    pub(super) fn walk(&self, backend: &dyn Backend, query: &Query) -> Result<Vec<(String, Found)>, Unmet> {
        let mut query = query.clone();
        let mut entries = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = call_ok("list", backend.list(&call(), &query))?;
            if page.entries.len() > query.limit {
                return failed(format!("at most {} states", query.limit), format!("{}", page.entries.len()));
            }
            entries.extend(page.entries.into_iter().filter(|(id, _)| id.starts_with(&self.prefix)));
            let Some(cursor) = page.cursor else { return Ok(entries) };
            query.cursor = Some(cursor);
        }
        failed("a last page, which has no cursor", format!("{MAX_PAGES} pages and still a cursor"))
    }
}

/// Opens an instance and has it begin, as a worker does.
pub(super) fn open(place: &dyn Place) -> Result<Opened, Unmet> {
    let opened = Opened { backend: call_ok("open", place.open())?, is_open: true, place: None };
    call_ok("begin", opened.begin(&call()))?;
    Ok(opened)
}

pub(super) fn call() -> Call {
    Call::with_budget(CALL_BUDGET)
}

pub(super) fn failed<T>(expected: impl Into<String>, seen: impl Into<String>) -> Result<T, Unmet> {
    Err(Unmet::Failed { expected: expected.into(), seen: seen.into() })
}

pub(super) fn expect(condition: bool, expected: &str, seen: impl FnOnce() -> String) -> Result<(), Unmet> {
    if condition { Ok(()) } else { failed(expected, seen()) }
}

pub(super) fn call_ok<T>(what: &str, result: crate::Result<T>) -> Result<T, Unmet> {
    result.or_else(|error| failed(format!("`{what}` succeeds"), format!("error `{}`: {error}", error.kind)))
}

/// Merges a batch of which every item must be taken; gives the outcomes.
pub(super) fn merge(backend: &dyn Backend, states: &[(&str, &State)]) -> Result<Vec<Answer>, Unmet> {
    let answers = call_ok("merge", with_items(states, |batch| backend.merge(&call(), batch)))?;
    if answers.len() != states.len() {
        return failed(format!("{} answers", states.len()), format!("{}", answers.len()));
    }
    for ((id, _), answer) in states.iter().zip(&answers) {
        if let Outcome::Rejected(error) = &answer.outcome {
            return failed(format!("`{id}` is taken"), format!("rejected as `{}`: {error}", error.kind));
        }
    }
    Ok(answers)
}

/// Merges one state that must be taken.
pub(super) fn merge_one(backend: &dyn Backend, id: &str, state: &State) -> Result<Answer, Unmet> {
    merge(backend, &[(id, state)]).map(|mut answers| answers.remove(0))
}

pub(super) fn get(backend: &dyn Backend, ids: &[&str]) -> Result<Vec<Option<Found>>, Unmet> {
    let found = call_ok("get", backend.get(&call(), ids, Fields::Whole))?;
    match found.len() == ids.len() {
        true => Ok(found),
        false => failed(format!("{} answers", ids.len()), format!("{}", found.len())),
    }
}

/// The stored state of an id must be this one; none stands for nothing stored.
pub(super) fn expect_stored(backend: &dyn Backend, id: &str, expected: Option<&State>) -> Result<(), Unmet> {
    let found = get(backend, &[id])?.remove(0);
    expect_same(id, expected, found.as_ref().map(|found| &found.state))
}

pub(super) fn expect_same(id: &str, expected: Option<&State>, found: Option<&State>) -> Result<(), Unmet> {
    match (expected, found) {
        (None, None) => Ok(()),
        (None, Some(_)) => failed(format!("nothing is stored of `{id}`"), "a state"),
        (Some(_), None) => failed(format!("a state of `{id}`"), "nothing is stored"),
        (Some(expected), Some(found)) if expected.to_canonical_json() == found.to_canonical_json() => Ok(()),
        (Some(expected), Some(found)) => {
            let names = expected.registers().iter().chain(found.registers()).map(|register| &*register.name);
            let differs = |name: &&str| show(expected.get(name)) != show(found.get(name));
            let name = names.into_iter().find(differs).unwrap_or_default();
            let text = |state: &State| format!("`{id}`: register `{name}` {}", short(&show(state.get(name))));
            failed(text(expected), text(found))
        }
    }
}

fn show(register: Option<&Register>) -> String {
    let Some(register) = register else { return "is missing".to_owned() };
    let value = match &register.value {
        Value::Json(json) => json.to_string(),
        Value::Body(body) => match (body.as_text(), body.reference_json()) {
            (Some(text), _) => format!("text {text:?}, SHA-256 {}", crate::body::to_hex(body.hash())),
            (None, reference) => format!("reference {}", reference.unwrap_or_default()),
        },
    };
    let stamp = &register.stamp;
    format!("is {} of event `{}` at {}, rule `{}`", value, stamp.event_id, stamp.time, register.rule.as_str())
}

/// A text that fits a line or two, with its end, where differences often are.
pub(super) fn short(text: &str) -> String {
    let count = text.chars().count();
    if count <= 200 {
        return text.to_owned();
    }
    let start: String = text.chars().take(100).collect();
    let end: String = text.chars().skip(count - 90).collect();
    format!("{start} … {end}")
}
