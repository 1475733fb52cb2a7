//! A child in memory whose calls a test can watch, fail and hold up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use storage_plugin_api::{
    Answer, Backend, Call, Capabilities, Child, ChildDescription, Counts, Delete, Deleted, Durability, Error, Fields,
    Found, Health, Item, Order, Outcome, Page, Query, Record, Result, State,
};

use crate::lock;

/// Done before each call of this name.
type Before = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// The child.
pub(crate) struct Store {
    name: String,
    durability: Durability,
    pub(crate) states: Mutex<BTreeMap<String, State>>,
    before: Mutex<Option<Arc<Before>>>,
    /// Refuses items of this id for good.
    pub(crate) refuses: Mutex<Option<String>>,
    /// Fails every merge with an item of this id, as a whole.
    pub(crate) fails_for: Mutex<Option<(Vec<&'static str>, Error)>>,
    /// Why it is not well, if it is not.
    pub(crate) ails: Mutex<Option<String>>,
    pub(crate) gets: AtomicUsize,
    pub(crate) merges: AtomicUsize,
    /// Says that it is durable but answers otherwise.
    pub(crate) is_weak: AtomicBool,
    /// Milliseconds that the last merge was given.
    pub(crate) budget_ms: AtomicU64,
}

/// A call that is held up until this is dropped.
pub(crate) struct HeldUp {
    pub(crate) entered: Receiver<()>,
    _release: Sender<()>,
}

impl Store {
    pub(crate) fn new(name: &str, durability: Durability) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            durability,
            states: Mutex::default(),
            before: Mutex::default(),
            refuses: Mutex::default(),
            fails_for: Mutex::default(),
            ails: Mutex::default(),
            gets: AtomicUsize::new(0),
            merges: AtomicUsize::new(0),
            is_weak: AtomicBool::new(false),
            budget_ms: AtomicU64::new(0),
        })
    }

    pub(crate) fn child(self: &Arc<Self>, role: &str) -> Child {
        let capabilities = Capabilities {
            durable: self.durability == Durability::Durable,
            evicting: role == crate::role::CACHE,
            list_by_id: true,
            list_by_created: true,
            counts: true,
            parallel_calls: 8,
            ..Capabilities::default()
        };
        let (role, name) = (role.to_owned(), self.name.clone());
        let description = ChildDescription { role: role.clone(), name: name.clone(), capabilities };
        Child { role, name, description, backend: Arc::new(Shared(Arc::clone(self))) }
    }

    pub(crate) fn before(&self, before: impl Fn(&str) -> Result<()> + Send + Sync + 'static) {
        *lock(&self.before) = Some(Arc::new(Box::new(before)));
    }

    pub(crate) fn go_away(&self) {
        self.before(|_| Err(Error::unavailable("the cable is cut")));
    }

    pub(crate) fn come_back(&self) {
        *lock(&self.before) = None;
    }

    /// Holds up every call of this name.
    pub(crate) fn hold_up(&self, name: &'static str) -> HeldUp {
        let (release, wait) = channel::<()>();
        let (tell, entered) = channel();
        let wait = Mutex::new(wait);
        self.before(move |call| {
            if call == name {
                let _ = tell.send(());
                let _ = lock(&wait).recv();
            }
            Ok(())
        });
        HeldUp { entered, _release: release }
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        lock(&self.states).keys().cloned().collect()
    }

    pub(crate) fn json(&self, id: &str) -> Option<String> {
        lock(&self.states).get(id).map(State::to_canonical_json)
    }

    fn enter(&self, call: &str) -> Result<()> {
        let before = lock(&self.before).clone();
        before.map_or(Ok(()), |before| before(call))
    }

    fn merge_one(&self, item: &Item<'_>) -> Answer {
        if lock(&self.refuses).as_deref() == Some(item.id()) {
            return Answer::rejected(Error::invalid_item("it is too long"));
        }
        let mut states = lock(&self.states);
        let is_new = !states.contains_key(item.id());
        let state = states.entry(item.id().to_owned()).or_default();
        let outcome = match (is_new, state.merge_registers(item.registers().iter().copied())) {
            (true, _) => Outcome::Created,
            (false, true) => Outcome::Updated,
            (false, false) => Outcome::Unchanged,
        };
        let is_weak = self.is_weak.load(Ordering::SeqCst);
        Answer::new(outcome, Record::status_of(state), if is_weak { Durability::Volatile } else { self.durability })
    }
}

/// What the layer holds of a store.
struct Shared(Arc<Store>);

impl Backend for Shared {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let budget = u64::try_from(call.remaining().as_millis()).unwrap_or(u64::MAX);
        self.0.budget_ms.store(budget, Ordering::SeqCst);
        self.0.enter("merge")?;
        self.0.merges.fetch_add(1, Ordering::SeqCst);
        if let Some((ids, error)) = &*lock(&self.0.fails_for)
            && batch.iter().any(|item| ids.contains(&item.id()))
        {
            return Err(error.clone());
        }
        Ok(batch.iter().map(|item| self.0.merge_one(item)).collect())
    }

    /// Reads first and is held up then, as a slow answer is.
    fn get(&self, _: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.0.gets.fetch_add(1, Ordering::SeqCst);
        let found = {
            let states = lock(&self.0.states);
            ids.iter().map(|id| states.get(*id).map(|state| found(state, fields))).collect()
        };
        self.0.enter("get")?;
        Ok(found)
    }

    fn list(&self, _: &Call, query: &Query) -> Result<Page> {
        self.0.enter("list")?;
        let states = lock(&self.0.states);
        let mut all: Vec<(i64, &String, &State)> =
            states.iter().map(|(id, state)| (Record::created_at_of(state).unwrap_or(0), id, state)).collect();
        if query.order == Order::NewestFirst {
            all.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)));
        }
        let place = |entry: &(i64, &String, &State)| format!("{:020}:{}", entry.0, entry.1);
        let is_behind = |entry: &(i64, &String, &State)| match (&query.cursor, query.order) {
            (None, _) => true,
            (Some(cursor), Order::Id) => entry.1 > cursor,
            (Some(cursor), Order::NewestFirst) => place(entry) < *cursor,
        };
        let fits = |entry: &(i64, &String, &State)| {
            let status = Record::status_of(entry.2).map(storage_plugin_api::Status::as_str);
            query.status.is_none() || status == query.status.as_deref()
        };
        let mut rest = all.iter().filter(|entry| is_behind(entry) && fits(entry));
        let page: Vec<_> = rest.by_ref().take(query.limit).collect();
        let last = page.last().filter(|_| rest.next().is_some());
        let cursor = last.map(|last| if query.order == Order::Id { last.1.clone() } else { place(last) });
        Ok(Page { entries: page.iter().map(|entry| (entry.1.clone(), found(entry.2, query.fields))).collect(), cursor })
    }

    fn counts(&self, _: &Call) -> Result<Counts> {
        self.0.enter("counts")?;
        let mut counts = Counts::default();
        for state in lock(&self.0.states).values() {
            let status = Record::status_of(state).map_or("unknown", storage_plugin_api::Status::as_str);
            *counts.by_status.entry(status.to_owned()).or_default() += 1;
        }
        Ok(counts)
    }

    fn delete(&self, _: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.0.enter("delete")?;
        let mut states = lock(&self.0.states);
        let delete = |item: &Delete<'_>| match states.get(item.id) {
            None => Deleted::Absent,
            Some(state) if item.digest.is_some_and(|digest| *digest != state.digest()) => Deleted::Differs,
            Some(_) => {
                states.remove(item.id);
                Deleted::Deleted
            }
        };
        Ok(items.iter().map(delete).collect())
    }

    fn health(&self) -> Health {
        lock(&self.0.ails).clone().map_or_else(Health::healthy, Health::unhealthy)
    }

    fn flush(&self, _: &Call) -> Result<()> {
        self.0.enter("flush")
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}

fn found(state: &State, fields: Fields) -> Found {
    let state = if fields == Fields::Whole { state.clone() } else { state.without_bodies() };
    Found { state, incomplete: false }
}
