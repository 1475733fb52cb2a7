//! Tests of the layer over children in this process, for what must hold at one certain moment. What it does over real
//! backends the conformance kit and the system tests show.

mod bodies;
mod collecting;
mod contract;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, Call, Child, Durability, EventStamp, Fields, Found, OpenBackend, Opening, State, Status,
    with_items,
};

use crate::{Options, Tiered, role};
use store::Store;

/// The layer and its children.
pub(crate) struct Tree {
    pub(crate) tiered: Tiered,
    pub(crate) primary: Arc<Store>,
    pub(crate) blobs: Arc<Store>,
}

impl Tree {
    /// Bodies over 100 bytes are moved, 10 bytes of them stay.
    pub(crate) fn new() -> Self {
        Self::of(Durability::Durable, Durability::Durable)
    }

    pub(crate) fn of(primary: Durability, blobs: Durability) -> Self {
        Self::over(Store::new(primary), Store::new(blobs), 100)
    }

    pub(crate) fn over(primary: Arc<Store>, blobs: Arc<Store>, threshold: usize) -> Self {
        let below = primary.child(role::PRIMARY);
        Self { tiered: open(below, blobs.child(role::BLOBS), threshold), primary, blobs }
    }

    pub(crate) fn merge(&self, id: &str, state: &State) -> Answer {
        self.merge_all(&[(id, state)]).remove(0)
    }

    pub(crate) fn merge_all(&self, states: &[(&str, &State)]) -> Vec<Answer> {
        with_items(states, |items| self.tiered.merge(&call(), items)).expect("merged")
    }

    pub(crate) fn get(&self, id: &str) -> Found {
        self.tiered.get(&call(), &[id], Fields::Whole).expect("read").remove(0).expect("stored")
    }
}

/// The layer alone, over children that a test has made.
pub(crate) fn open(primary: Child, blobs: Child, threshold: usize) -> Tiered {
    let options =
        Options { threshold, preview: threshold.min(10), collect_every: Duration::ZERO, ..Options::default() };
    let opening = Opening {
        instance: format!("over {}", primary.name),
        children: vec![primary, blobs],
        deadline: Instant::now() + Duration::from_secs(10),
        read_only: false,
        host: Host::detached("tiered"),
    };
    Tiered::open(options, opening).expect("it opens")
}

pub(crate) fn call() -> Call {
    Call::with_budget(Duration::from_secs(20))
}

/// An event that completes an evaluation with this output.
pub(crate) fn completed(time: i64, output: &str) -> State {
    let stamp = EventStamp::new(time, format!("event-{time}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_end(&stamp, Status::Completed);
    state.set_text(&stamp, "completed/output", output);
    state
}

/// A text over the threshold.
pub(crate) fn large(seed: &str) -> String {
    format!("{seed}\n").repeat(100)
}
