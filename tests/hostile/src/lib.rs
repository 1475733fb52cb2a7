//! A backend that misbehaves as its options ask: it panics, hangs, refuses or lies in the call that is named.
//!
//! What is asked for happens in every call of that name; in `merge` and `get` only where an id begins with `hostile`,
//! so that a test can see what becomes of its neighbours. Everything else is kept in memory and answered right.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use storage_plugin_api::{
    Answer, Backend, Call, Capabilities, ChildDescription, Delete, Deleted, Description, Durability, Error, Fields,
    Found, Health, Item, OpenBackend, Opening, Outcome, Page, Query, Record, Result, State,
};

storage_plugin_api::export_backend!("hostile", Hostile);

/// The ids that merge and get misbehave for.
const PREFIX: &str = "hostile";

/// What to do wrong, by call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    #[default]
    Behave,
    Panic,
    Hang,
    Unavailable,
    Overloaded,
    InvalidItem,
    Configuration,
    Internal,
    /// Give fewer answers than there are items.
    TooFew,
}

/// The options: which call goes wrong in which way.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    check: Way,
    open: Way,
    merge: Way,
    /// In a merge of nothing, which is how a new backend is tried out.
    empty_merge: Way,
    get: Way,
    list: Way,
    health: Way,
    flush: Way,
    close: Way,
    drop: Way,
    /// How long a hang lasts.
    hang_seconds: Option<u64>,
    /// Say that the backend is durable.
    durable: bool,
    /// Say that the backend evicts.
    evicting: bool,
    /// Say that only one may have it open.
    exclusive: bool,
}

/// The backend.
#[derive(Debug)]
pub struct Hostile {
    options: Options,
    states: Mutex<BTreeMap<String, State>>,
}

impl Options {
    fn act(&self, way: Way, call: &str) -> Result<()> {
        match way {
            Way::Behave | Way::TooFew => Ok(()),
            Way::Panic => panic!("hostile in `{call}`"),
            Way::Hang => {
                thread::sleep(Duration::from_secs(self.hang_seconds.unwrap_or(3600)));
                Ok(())
            }
            Way::Unavailable => Err(Error::unavailable(format_args!("hostile in `{call}`"))),
            Way::Overloaded => Err(Error::overloaded(format_args!("hostile in `{call}`"))),
            Way::InvalidItem => Err(Error::invalid_item(format_args!("hostile in `{call}`"))),
            Way::Configuration => Err(Error::configuration(format_args!("hostile in `{call}`"))),
            Way::Internal => Err(Error::internal(format_args!("hostile in `{call}`"))),
        }
    }
}

impl Hostile {
    fn states(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn merge_one(&self, item: &Item<'_>) -> Answer {
        if item.id().starts_with(PREFIX)
            && let Err(error) = self.options.act(self.options.merge, "merge")
        {
            return Answer::rejected(error);
        }
        let mut states = self.states();
        let is_new = !states.contains_key(item.id());
        let state = states.entry(item.id().to_owned()).or_default();
        let changed = state.merge_registers(item.registers().iter().copied());
        let outcome = match (is_new, changed) {
            (true, _) => Outcome::Created,
            (false, true) => Outcome::Updated,
            (false, false) => Outcome::Unchanged,
        };
        let durability = if self.options.durable { Durability::Durable } else { Durability::Volatile };
        Answer::new(outcome, Record::status_of(state), durability)
    }
}

impl OpenBackend for Hostile {
    type Options = Options;

    fn check(options: &Options, _: &[ChildDescription]) -> Description {
        let problems = options.act(options.check, "check").err().map(|error| error.message);
        let capabilities = Capabilities {
            durable: options.durable,
            evicting: options.evicting,
            exclusive: options.exclusive,
            list_by_id: true,
            parallel_calls: 4,
            ..Capabilities::default()
        };
        Description { capabilities, problems: problems.into_iter().collect(), ..Description::default() }
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        tracing::info!(instance = opening.instance, "hostile plugin opens");
        options.act(options.open, "open")?;
        Ok(Self { options, states: Mutex::default() })
    }
}

impl Backend for Hostile {
    fn merge(&self, _: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        if batch.is_empty() {
            self.options.act(self.options.empty_merge, "merge")?;
        }
        let mut answers: Vec<Answer> = batch.iter().map(|item| self.merge_one(item)).collect();
        if self.options.merge == Way::TooFew {
            answers.pop();
        }
        Ok(answers)
    }

    fn get(&self, _: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        if ids.iter().any(|id| id.starts_with(PREFIX)) {
            self.options.act(self.options.get, "get")?;
        }
        let states = self.states();
        let found = |id: &&str| {
            let state = states.get(*id)?;
            let state = if fields == Fields::Whole { state.clone() } else { state.without_bodies() };
            Some(Found { state, incomplete: false })
        };
        Ok(ids.iter().map(found).collect())
    }

    fn list(&self, _: &Call, query: &Query) -> Result<Page> {
        self.options.act(self.options.list, "list")?;
        let after = query.cursor.clone().unwrap_or_default();
        let states = self.states();
        let rest = states.iter().filter(|(id, _)| **id > after).take(query.limit);
        let entries: Vec<_> =
            rest.map(|(id, state)| (id.clone(), Found { state: state.clone(), incomplete: false })).collect();
        let cursor = entries.last().filter(|_| entries.len() == query.limit).map(|(id, _)| id.clone());
        Ok(Page { entries, cursor })
    }

    fn delete(&self, _: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let mut states = self.states();
        let delete = |item: &Delete<'_>| match states.remove(item.id) {
            Some(_) => Deleted::Deleted,
            None => Deleted::Absent,
        };
        Ok(items.iter().map(delete).collect())
    }

    fn health(&self) -> Health {
        match self.options.act(self.options.health, "health") {
            Ok(()) => Health::healthy(),
            Err(error) => Health::unhealthy(error.message),
        }
    }

    fn flush(&self, _: &Call) -> Result<()> {
        self.options.act(self.options.flush, "flush")
    }

    fn close(&self, _: &Call) -> Result<()> {
        self.options.act(self.options.close, "close")
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.options.act(self.options.drop, "drop");
    }
}
