//! A child in memory whose calls a test can watch, fail and hold up.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use storage_plugin_api::{
    Answer, Backend, Call, Capabilities, Child, ChildDescription, Delete, Deleted, Durability, Error, ErrorKind,
    Fields, Found, Health, Item, Outcome, Page, Prune, Pruned, Query, Record, Result, State,
};

use crate::lock;

/// Done before each call of this name.
type Before = Arc<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// The child.
pub(crate) struct Store {
    name: String,
    durability: Durability,
    pub(crate) states: Mutex<BTreeMap<String, State>>,
    before: Mutex<Option<Before>>,
    /// Items of this id fail: alone, or the whole call if it is a defect or too much.
    fails: Mutex<Option<(String, ErrorKind)>>,
    /// The names of all calls that came through.
    pub(crate) calls: Mutex<Vec<String>>,
}

/// Calls that are held up until this is dropped.
pub(crate) struct HeldUp {
    pub(crate) entered: Receiver<()>,
    _release: Sender<()>,
}

impl Store {
    pub(crate) fn new(name: &str, durability: Durability) -> Arc<Self> {
        let name = name.to_owned();
        let (states, before, fails, calls) = Default::default();
        Arc::new(Self { name, durability, states, before, fails, calls })
    }

    pub(crate) fn child(self: &Arc<Self>, role: &str) -> Child {
        let durable = self.durability == Durability::Durable;
        let capabilities = Capabilities { durable, prune: true, parallel_calls: 8, ..Capabilities::default() };
        let (role, name) = (role.to_owned(), self.name.clone());
        let description = ChildDescription { role: role.clone(), name: name.clone(), capabilities };
        Child { role, name, description, backend: Arc::new(Shared(Arc::clone(self))) }
    }

    pub(crate) fn before(&self, before: impl Fn(&str) -> Result<()> + Send + Sync + 'static) {
        *lock(&self.before) = Some(Arc::new(before));
    }

    pub(crate) fn go_away(&self) {
        self.before(|_| Err(Error::unavailable("the cable is cut").with_retry_after(std::time::Duration::ZERO)));
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

    pub(crate) fn fails(&self, id: &str, kind: ErrorKind) {
        *lock(&self.fails) = Some((id.to_owned(), kind));
    }

    pub(crate) fn json(&self) -> BTreeMap<String, String> {
        lock(&self.states).iter().map(|(id, state)| (id.clone(), state.to_canonical_json())).collect()
    }

    fn enter(&self, call: &str) -> Result<()> {
        let before = lock(&self.before).clone();
        before.map_or(Ok(()), |before| before(call))?;
        lock(&self.calls).push(call.to_owned());
        Ok(())
    }

    fn merge_one(&self, item: &Item<'_>) -> Result<Answer> {
        match &*lock(&self.fails) {
            Some((id, kind @ (ErrorKind::Internal | ErrorKind::Overloaded))) if id == item.id() => {
                return Err(Error::new(*kind, "it is too much"));
            }
            Some((id, kind)) if id == item.id() => {
                let error = Error::new(*kind, "not this one").with_retry_after(std::time::Duration::from_secs(5));
                return Ok(Answer::rejected(error));
            }
            Some(_) | None => {}
        }
        let mut states = lock(&self.states);
        let is_new = !states.contains_key(item.id());
        let state = states.entry(item.id().to_owned()).or_default();
        let outcome = match (is_new, state.merge_registers(item.registers().iter().copied())) {
            (true, _) => Outcome::Created,
            (false, true) => Outcome::Updated,
            (false, false) => Outcome::Unchanged,
        };
        Ok(Answer::new(outcome, Record::status_of(state), self.durability).taken_by(&self.name.as_str().into()))
    }
}

/// What the layer holds of a store.
struct Shared(Arc<Store>);

impl Backend for Shared {
    fn merge(&self, _: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.0.enter("merge")?;
        batch.iter().map(|item| self.0.merge_one(item)).collect()
    }

    /// Reads first and is held up then, as a slow answer is.
    fn get(&self, _: &Call, ids: &[&str], _: Fields) -> Result<Vec<Option<Found>>> {
        let found = |state: &State| Found { state: state.clone(), incomplete: false };
        let found = {
            let states = lock(&self.0.states);
            ids.iter().map(|id| states.get(*id).map(found)).collect()
        };
        self.0.enter("get")?;
        Ok(found)
    }

    fn list(&self, _: &Call, _: &Query) -> Result<Page> {
        Err(Error::not_offered("list"))
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
        self.0.enter("health").map_or_else(|error| Health::unhealthy(error.message), |()| Health::healthy())
    }

    fn flush(&self, _: &Call) -> Result<()> {
        self.0.enter("flush")
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn prune(&self, _: &Call, _: &Prune) -> Result<Pruned> {
        self.0.enter("prune")?;
        let mut states = lock(&self.0.states);
        let removed = states.len() as u64;
        states.clear();
        Ok(Pruned { removed, more: false })
    }
}
