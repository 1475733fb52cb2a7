//! The storage backend `asynchronous`: an [`AsyncBackend`] that keeps states in a map, a round trip away.
//!
//! The map stands for a database, the `latency` for the way to it. Each call waits on the plugin's own tokio runtime and
//! gives up when its time is up, without a line about either here: `Async` sees to both. Start a plugin of your own with
//! a copy of this directory; `options.rs` has what can be configured.

mod options;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

use storage_plugin_api::{
    Answer, Async, AsyncBackend, Call, Capabilities, ChildDescription, Counts, Delete, Deleted, Description,
    Durability, Error, Fields, Found, Health, Item, Opening, Order, Outcome, Page, Query, Record, Result, State,
    Status,
};
use tokio::sync::RwLock;

use crate::options::Options;

storage_plugin_api::export_backend!("asynchronous", Async<Remote>);

/// States that are a round trip away.
#[derive(Debug)]
struct Remote {
    options: Options,
    states: RwLock<BTreeMap<String, State>>,
    /// As many as there are states; beside them, because `health` never waits for a lock.
    evaluations: AtomicUsize,
}

impl AsyncBackend for Remote {
    type Options = Options;

    fn check(options: &Options, _children: &[ChildDescription]) -> Description {
        let capabilities =
            Capabilities { list_by_id: true, counts: true, parallel_calls: 4, ..Capabilities::default() };
        let notes = vec![format!("{} away", humantime::format_duration(options.latency))];
        Description { capabilities, notes, ..Description::default() }
    }

    async fn open(options: Options, _opening: Opening) -> Result<Self> {
        let remote = Self { options, states: RwLock::default(), evaluations: AtomicUsize::new(0) };
        remote.round_trip().await;
        Ok(remote)
    }

    /// Waits first, then stores without a wait: a call that is given up has stored all of its batch or nothing of it.
    async fn merge(&self, _call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.round_trip().await;
        assert!(!self.options.panic, "a panic was asked for by the option `panic`");
        let mut states = self.states.write().await;
        let answers = batch.iter().map(|item| merge_item(&mut states, item)).collect();
        self.evaluations.store(states.len(), Ordering::Relaxed);
        Ok(answers)
    }

    async fn get(&self, _call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.round_trip().await;
        let states = self.states.read().await;
        Ok(ids.iter().map(|id| states.get(*id).map(|state| found(state, fields))).collect())
    }

    async fn list(&self, _call: &Call, query: &Query) -> Result<Page> {
        if query.order != Order::Id {
            return Err(Error::configuration("this backend lists by id only"));
        }
        self.round_trip().await;
        let states = self.states.read().await;
        let behind = query.cursor.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = states
            .range::<str, _>((behind, Bound::Unbounded))
            .filter(|(_, state)| matches(query, state))
            .map(|(id, state)| (id.clone(), found(state, query.fields)));
        let entries: Vec<(String, Found)> = matching.by_ref().take(query.limit.max(1)).collect();
        let more = matching.next().is_some();
        let cursor = entries.last().filter(|_| more).map(|(id, _)| id.clone());
        Ok(Page { entries, cursor })
    }

    async fn counts(&self, _call: &Call) -> Result<Counts> {
        self.round_trip().await;
        let mut counts = Counts::default();
        for state in self.states.read().await.values() {
            let status = Record::status_of(state).map_or("unknown", Status::as_str);
            *counts.by_status.entry(status.to_owned()).or_default() += 1;
        }
        Ok(counts)
    }

    async fn delete(&self, _call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.round_trip().await;
        let mut states = self.states.write().await;
        let answers = items.iter().map(|item| delete_item(&mut states, item)).collect();
        self.evaluations.store(states.len(), Ordering::Relaxed);
        Ok(answers)
    }

    fn health(&self) -> Health {
        Health::healthy().with("evaluations", self.evaluations.load(Ordering::Relaxed))
    }

    async fn flush(&self, _call: &Call) -> Result<()> {
        Ok(())
    }

    async fn close(&self, _call: &Call) -> Result<()> {
        Ok(())
    }
}

impl Remote {
    /// To the states and back.
    async fn round_trip(&self) {
        tokio::time::sleep(self.options.latency).await;
    }
}

fn merge_item(states: &mut BTreeMap<String, State>, item: &Item<'_>) -> Answer {
    let answer = |outcome, state| Answer::new(outcome, Record::status_of(state), Durability::Volatile);
    if let Some(state) = states.get_mut(item.id()) {
        let changed = state.merge_registers(item.registers().iter().copied());
        return answer(if changed { Outcome::Updated } else { Outcome::Unchanged }, state);
    }
    let state = item.to_state();
    let created = answer(Outcome::Created, &state);
    states.insert(item.id().to_owned(), state);
    created
}

fn delete_item(states: &mut BTreeMap<String, State>, item: &Delete<'_>) -> Deleted {
    let Some(state) = states.get(item.id) else { return Deleted::Absent };
    if item.digest.is_some_and(|digest| state.digest() != *digest) {
        return Deleted::Differs;
    }
    states.remove(item.id);
    Deleted::Deleted
}

fn found(state: &State, fields: Fields) -> Found {
    let state = match fields {
        Fields::Whole => state.clone(),
        Fields::WithoutBodies => state.without_bodies(),
    };
    Found { state, incomplete: false }
}

fn matches(query: &Query, state: &State) -> bool {
    let created = Record::created_at_of(state).unwrap_or_default();
    query.status.as_deref().is_none_or(|wanted| Record::status_of(state).map_or("unknown", Status::as_str) == wanted)
        && query.language.as_deref().is_none_or(|wanted| Record::language_of(state).as_deref() == Some(wanted))
        && query.since.is_none_or(|since| created >= since)
        && query.until.is_none_or(|until| created < until)
}
