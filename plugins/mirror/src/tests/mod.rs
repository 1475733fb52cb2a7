//! Tests of the layer over scripted children in this process, for what must hold at one certain moment. What it does
//! over real backends the system tests show.

mod following;
mod store;
mod together;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, Call, Delete, Deleted, Durability, EventStamp, OpenBackend, Opening, State, Status, with_items,
};

use crate::{Ack, Mirror, Options, role};
use store::Store;

/// A mirror and its children.
pub(crate) struct Tree {
    pub(crate) mirror: Mirror,
    pub(crate) primary: Arc<Store>,
    pub(crate) shadows: Vec<Arc<Store>>,
    options: Options,
}

impl Tree {
    pub(crate) fn new(options: Options, shadows: &[Durability]) -> Self {
        static TREES: AtomicU64 = AtomicU64::new(0);
        // Children of a name share what they know, and tests run side by side.
        let number = TREES.fetch_add(1, Ordering::Relaxed);
        let primary = Store::new(&format!("primary-{number}"), Durability::Durable);
        let shadow =
            |(place, durability): (usize, &Durability)| Store::new(&format!("shadow-{number}-{place}"), *durability);
        let shadows: Vec<Arc<Store>> = shadows.iter().enumerate().map(shadow).collect();
        Self { mirror: open(&options, &primary, &shadows), primary, shadows, options }
    }

    /// One shadow that follows.
    pub(crate) fn following() -> Self {
        Self::new(Options::default(), &[Durability::Durable])
    }

    pub(crate) fn together(shadows: &[Durability]) -> Self {
        Self::new(Options { ack: Ack::All, ..Options::default() }, shadows)
    }

    pub(crate) fn shadow(&self) -> &Arc<Store> {
        &self.shadows[0]
    }

    /// Another instance over the same children, beside the one there is.
    pub(crate) fn another(&self) -> Mirror {
        open(&self.options, &self.primary, &self.shadows)
    }

    pub(crate) fn merge(&self, id: &str, state: &State) -> Answer {
        merge(&self.mirror, id, state)
    }

    pub(crate) fn delete(&self, id: &str) -> Deleted {
        self.mirror.delete(&call(), &[Delete { id, digest: None }]).expect("deleted").remove(0)
    }

    /// What health tells of the first shadow.
    pub(crate) fn detail(&self, name: &str) -> Value {
        let name_of = self.shadow().child(role::SHADOW).name;
        self.mirror.health().details["shadows"][name_of][name].clone()
    }

    pub(crate) fn state(&self) -> String {
        self.mirror.health().details["state"].as_str().expect("a text").to_owned()
    }

    #[track_caller]
    pub(crate) fn wait_until_alike(&self) {
        eventually("the shadow to have what the primary has", || self.shadow().json() == self.primary.json());
    }
}

fn open(options: &Options, primary: &Arc<Store>, shadows: &[Arc<Store>]) -> Mirror {
    let shadows = shadows.iter().map(|shadow| shadow.child(role::SHADOW));
    let opening = Opening {
        instance: "mirror".to_owned(),
        children: std::iter::once(primary.child(role::PRIMARY)).chain(shadows).collect(),
        deadline: Instant::now() + Duration::from_secs(10),
        read_only: false,
        host: Host::detached("mirror"),
    };
    let mirror = Mirror::open(options.clone(), opening).expect("it opens");
    mirror.begin(&call()).expect("it begins");
    mirror
}

pub(crate) fn merge(mirror: &Mirror, id: &str, state: &State) -> Answer {
    with_items(&[(id, state)], |items| mirror.merge(&call(), items)).expect("merged").remove(0)
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
