//! A backend whose failures are scripted. What it does not fail it really merges, in memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use storage_plugin_api::{
    Answer, Backend, Call, Delete, Deleted, Durability, Error, Fields, Found, Health, Item, Outcome, Page, Query,
    Record, Result, State,
};

/// Decides whether a call fails as a whole. It may take its time.
pub(crate) type CallScript = Box<dyn Fn(&[Item<'_>]) -> Option<Error> + Send + Sync>;

/// Decides whether an item is refused.
pub(crate) type ItemScript = Box<dyn Fn(&Item<'_>) -> Option<Error> + Send + Sync>;

/// A backend in memory that fails as its script says.
pub(crate) struct Scripted {
    call: CallScript,
    item: ItemScript,
    inner: Mutex<Inner>,
}

/// What the backend has seen and stored.
#[derive(Debug, Default)]
struct Inner {
    states: HashMap<String, State>,
    /// The ids of each call's items, in order.
    calls: Vec<Vec<String>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Scripted")
    }
}

impl Scripted {
    /// One that never fails.
    pub(crate) fn healthy() -> Self {
        Self { call: Box::new(|_| None), item: Box::new(|_| None), inner: Mutex::default() }
    }

    /// Fails whole calls.
    pub(crate) fn with_calls(self, call: impl Fn(&[Item<'_>]) -> Option<Error> + Send + Sync + 'static) -> Self {
        Self { call: Box::new(call), ..self }
    }

    /// Refuses items.
    pub(crate) fn with_items(self, item: impl Fn(&Item<'_>) -> Option<Error> + Send + Sync + 'static) -> Self {
        Self { item: Box::new(item), ..self }
    }

    /// The ids of each call's items so far.
    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        self.lock().calls.clone()
    }

    /// The ids of everything stored, sorted.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.lock().states.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// What is stored of an evaluation.
    pub(crate) fn state(&self, id: &str) -> Option<State> {
        self.lock().states.get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Scripted {
    fn merge(&self, _call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.lock().calls.push(batch.iter().map(|item| item.id().to_owned()).collect());
        if let Some(error) = (self.call)(batch) {
            return Err(error);
        }
        let answer = |item: &Item<'_>| {
            if let Some(error) = (self.item)(item) {
                return Answer::rejected(error);
            }
            let mut inner = self.lock();
            let is_new = !inner.states.contains_key(item.id());
            let state = inner.states.entry(item.id().to_owned()).or_default();
            let changed = state.merge_registers(item.registers().iter().copied());
            let outcome = match (is_new, changed) {
                (true, _) => Outcome::Created,
                (false, true) => Outcome::Updated,
                (false, false) => Outcome::Unchanged,
            };
            Answer::new(outcome, Record::of(item.id(), state).status, Durability::Volatile)
        };
        Ok(batch.iter().map(answer).collect())
    }

    fn get(&self, _call: &Call, ids: &[&str], _fields: Fields) -> Result<Vec<Option<Found>>> {
        Ok(ids.iter().map(|id| self.state(id).map(|state| Found { state, incomplete: false })).collect())
    }

    fn list(&self, _call: &Call, _query: &Query) -> Result<Page> {
        Err(Error::not_offered("list"))
    }

    fn delete(&self, _call: &Call, _items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        Err(Error::not_offered("delete"))
    }

    fn health(&self) -> Health {
        Health::healthy()
    }

    fn flush(&self, _call: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _call: &Call) -> Result<()> {
        Ok(())
    }
}
