//! A backend of a worker that runs, as this process calls it: through the admin listener, by its name.
//!
//! What `copy`, `diff` and the others do with a [`Backend`] they so do with one that a worker has open. Each call goes to
//! whatever has the name at that moment. `backends.rs` is the other end.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use storage_plugin_api::{
    Answer, Backend, Call, Capabilities, Counts, Delete, Deleted, Error, Fields, Found, Health, Item, Page, Prune,
    Pruned, Query, Result, State,
};

use super::client::{Client, ClientError, escape};
use super::wire::{
    Answers, BackendEntry, DeleteAnswer, DeleteCall, DeleteItem, Failure, FoundState, GetCall, MergeAnswer, MergeCall,
    StatesPage, StoredItem,
};

/// How long the worker's answer may be on its way beyond the call's own time.
const GRACE: Duration = Duration::from_secs(2);

/// A backend that a worker has open.
#[derive(Debug)]
pub struct RemoteBackend {
    client: Client,
    name: String,
    capabilities: Capabilities,
}

impl RemoteBackend {
    /// The backends of a worker, the root last.
    ///
    /// # Errors
    /// [`ClientError::NothingListens`] if there is no worker, and whatever else keeps it from answering.
    pub fn all(client: &Client) -> std::result::Result<Vec<BackendEntry>, ClientError> {
        let mut answer = client.get("/backends")?.unwrap_or_default();
        client.understood(serde_json::from_value(answer["backends"].take()))
    }

    /// The handle on one of them.
    #[must_use]
    pub fn new(client: Client, entry: BackendEntry) -> Self {
        Self { client, name: entry.name, capabilities: entry.capabilities }
    }

    /// What it promised when the handle was made.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn post<T: DeserializeOwned>(&self, call: &Call, what: &str, body: &impl Serialize) -> Result<T> {
        let timeout = call.remaining();
        if timeout.is_zero() {
            return Err(Error::unavailable(format_args!("there is no time left to ask for `{what}`")));
        }
        let (name, attempt, milliseconds) = (escape(&self.name), call.attempt, timeout.as_millis());
        let path = format!("/backends/{name}/{what}?timeout_ms={milliseconds}&attempt={attempt}");
        let body = serde_json::to_vec(body).map_err(Error::internal)?;
        match self.client.call(&path, &body, timeout + GRACE).map_err(|error| unreachable_worker(&error))? {
            (200, answer) => serde_json::from_slice(&answer)
                .map_err(|error| Error::internal(format_args!("the worker's answer to `{what}`: {error}"))),
            (_, answer) => Err(serde_json::from_slice::<Failure>(&answer).map_or_else(
                |_| Error::configuration(format_args!("the worker knows no `{what}`; is it of another version?")),
                Error::from,
            )),
        }
    }
}

/// It may be starting anew; whoever asks knows how long to wait.
fn unreachable_worker(error: &ClientError) -> Error {
    match std::error::Error::source(error) {
        Some(cause) => Error::unavailable(format_args!("{error}: {cause}")),
        None => Error::unavailable(error),
    }
}

impl Backend for RemoteBackend {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let stored = |item: &Item<'_>| {
            let mut state = State::with_capacity(item.registers().len());
            state.merge_registers(item.registers().iter().copied());
            StoredItem::of(item.id(), &state)
        };
        let items = batch.iter().map(stored).collect();
        let answers: Answers<MergeAnswer> = self.post(call, "merge", &MergeCall { items })?;
        Ok(complete(batch.len(), answers.answers)?.into_iter().map(Answer::from).collect())
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let asked = ids.len();
        let answers: Answers<Option<FoundState>> = self.post(call, "get", &GetCall { ids, fields })?;
        let found = |found: Option<FoundState>| found.map(|found| found.found()).transpose();
        complete(asked, answers.answers)?.into_iter().map(found).collect()
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.post::<StatesPage>(call, "list", query)?.page()
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.post(call, "counts", &json!({}))
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let asked = DeleteCall { items: items.iter().map(DeleteItem::of).collect() };
        let answers: Answers<DeleteAnswer> = self.post(call, "delete", &asked)?;
        Ok(complete(items.len(), answers.answers)?.into_iter().map(Deleted::from).collect())
    }

    fn health(&self) -> Health {
        let entry = match self.client.get(&format!("/backends/{}", escape(&self.name))) {
            Ok(entry) => serde_json::from_value::<BackendEntry>(entry.unwrap_or_default()),
            Err(error) => return Health::unhealthy(error.to_string()),
        };
        let health = entry.map(|entry| entry.health.unwrap_or_default());
        health.unwrap_or_else(|error| Health::unhealthy(format!("the worker's answer: {error}")))
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.post::<Value>(call, "flush", &json!({})).map(drop)
    }

    /// The worker keeps it open.
    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.post(call, "prune", prune)
    }
}

/// The answers, if there are as many as were asked for.
fn complete<T>(asked: usize, answers: Vec<T>) -> Result<Vec<T>> {
    if answers.len() == asked {
        return Ok(answers);
    }
    Err(Error::internal(format_args!("the worker gave {} answers to {asked} items", answers.len())))
}
