//! Tests of the layer over scripted children in this process, for what must hold at one certain moment. What it does
//! over real backends the system tests show.

mod caching;
mod catching_up;
mod changes;
mod listing;
mod outage;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, Call, Delete, Deleted, Durability, EventStamp, Fields, Found, OpenBackend, Opening, Record, State,
    Status, with_items,
};

use crate::{CachedComposite, Options, role};
use store::Store;

/// A composite and its children.
pub(crate) struct Tree {
    pub(crate) composite: CachedComposite,
    pub(crate) cache: Arc<Store>,
    pub(crate) primary: Arc<Store>,
    pub(crate) fallback: Arc<Store>,
    options: Options,
}

/// What a tree is made of.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum With {
    Cache,
    Fallback,
    Both,
}

impl Tree {
    pub(crate) fn new(with: With) -> Self {
        Self::of(with, Options::default(), Durability::Durable)
    }

    pub(crate) fn of(with: With, options: Options, primary: Durability) -> Self {
        static TREES: AtomicU64 = AtomicU64::new(0);
        // Children of a name share what they know, and tests run side by side.
        let number = TREES.fetch_add(1, Ordering::Relaxed);
        let cache = Store::new(&format!("cache-{number}"), Durability::Volatile);
        let primary = Store::new(&format!("primary-{number}"), primary);
        let fallback = Store::new(&format!("fallback-{number}"), Durability::Durable);
        let mut children = vec![primary.child(role::PRIMARY)];
        if with != With::Fallback {
            children.push(cache.child(role::CACHE));
        }
        if with != With::Cache {
            children.push(fallback.child(role::FALLBACK));
        }
        Self { composite: open(options.clone(), children), cache, primary, fallback, options }
    }

    /// Another instance over the same children, as after a restart.
    pub(crate) fn another(&self) -> CachedComposite {
        let next = self.beside(&self.primary);
        next.begin(&over()).expect("it begins");
        next
    }

    /// Another instance with this primary, as a change of the configuration opens it: it is not in use yet.
    pub(crate) fn beside(&self, primary: &Arc<Store>) -> CachedComposite {
        let children =
            vec![primary.child(role::PRIMARY), self.cache.child(role::CACHE), self.fallback.child(role::FALLBACK)];
        open_beside(self.options.clone(), children)
    }

    pub(crate) fn merge(&self, id: &str, state: &State) -> Answer {
        merge(&self.composite, id, state)
    }

    pub(crate) fn get(&self, id: &str) -> Option<Found> {
        self.try_get(id).expect("it can be read")
    }

    pub(crate) fn try_get(&self, id: &str) -> storage_plugin_api::Result<Option<Found>> {
        self.composite.get(&call(), &[id], Fields::Whole).map(|mut found| found.remove(0))
    }

    pub(crate) fn status(&self, id: &str) -> Option<Status> {
        Record::status_of(&self.get(id)?.state)
    }

    pub(crate) fn delete(&self, id: &str) -> Deleted {
        self.composite.delete(&call(), &[Delete { id, digest: None }]).expect("deleted").remove(0)
    }

    /// Waits until the fallback is known to be empty.
    pub(crate) fn wait_until_caught_up(&self) {
        eventually("the fallback to be empty", || self.state() == "primary");
    }

    pub(crate) fn state(&self) -> String {
        self.composite.health().details["state"].as_str().expect("a text").to_owned()
    }
}

fn open(options: Options, children: Vec<storage_plugin_api::Child>) -> CachedComposite {
    let composite = open_beside(options, children);
    composite.begin(&over()).expect("it begins");
    composite
}

/// Opened, and not in use yet.
fn open_beside(options: Options, children: Vec<storage_plugin_api::Child>) -> CachedComposite {
    let opening = Opening {
        instance: "composite".to_owned(),
        children,
        deadline: Instant::now() + Duration::from_secs(10),
        read_only: false,
        host: Host::detached("composite"),
    };
    CachedComposite::open(options, opening).expect("it opens")
}

pub(crate) fn merge(backend: &CachedComposite, id: &str, state: &State) -> Answer {
    with_items(&[(id, state)], |items| backend.merge(&call(), items)).expect("merged").remove(0)
}

/// The tree before has been left by everybody.
fn over() -> Call {
    Call::with_budget(Duration::ZERO)
}

pub(crate) fn call() -> Call {
    Call::with_budget(Duration::from_secs(20))
}

/// An event of a time that says that an evaluation has a status.
pub(crate) fn event(time: i64, status: Status) -> State {
    let stamp = EventStamp::new(time, format!("event-{time}"));
    let mut state = State::new();
    state.set_created(&stamp);
    match status.is_terminal() {
        true => state.set_end(&stamp, status),
        false => state.set_open(&stamp, status),
    }
    state.set_text(&stamp, if status.is_terminal() { "completed/output" } else { "code" }, "text");
    state
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
