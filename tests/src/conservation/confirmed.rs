//! What the workers of a run have confirmed as durable.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::verdict::Event;
use crate::confirmations::Confirmations;
use crate::redis_server::RedisServer;
use crate::wait::eventually;

/// How long a confirmation may take on its way here.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the marks are published that tell that everything before them was received.
const MARKS: &str = "storage:mark";

/// A listener that remembers events, not confirmations.
#[derive(Debug)]
pub struct Confirmed {
    confirmations: Confirmations,
    /// Every event that was confirmed as durable.
    pub all: BTreeSet<Event>,
    new: BTreeSet<Event>,
    marks: u64,
}

impl Confirmed {
    /// Listens, from before this returns.
    #[must_use]
    pub fn listen(redis: &RedisServer) -> Self {
        let confirmations = Confirmations::listen(redis);
        Self { confirmations, all: BTreeSet::new(), new: BTreeSet::new(), marks: 0 }
    }

    /// The listener itself.
    #[must_use]
    pub fn listener(&self) -> &Confirmations {
        &self.confirmations
    }

    /// Waits until so many were received that are not noted yet.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        eventually(LIMIT, "the workers to be at work", || self.confirmations.count() >= count);
    }

    /// Notes what was received so far, and gives the newest mark among it.
    pub fn note(&mut self) -> Option<u64> {
        let mut mark = None;
        for confirmation in self.confirmations.take() {
            if confirmation.channel == MARKS {
                mark = confirmation.body["mark"].as_u64();
            } else if confirmation.text("durability") == "durable" {
                let event = confirmation.about();
                // A repeated event was confirmed before, and looked for then.
                if self.all.insert(event.clone()) {
                    self.new.insert(event);
                }
            }
        }
        mark
    }

    /// Notes everything that was published before.
    ///
    /// # Panics
    /// When Redis does not answer.
    pub fn note_all(&mut self, redis: &RedisServer) {
        self.marks += 1;
        let awaited = self.marks;
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(MARKS).arg(json!({"mark": awaited}).to_string());
        publish.exec(&mut redis.connect()).expect("publish a mark");
        eventually(LIMIT, "everything that was confirmed to arrive", || self.note() == Some(awaited));
    }

    /// What was confirmed for the first time since this was last asked.
    pub fn take_new(&mut self) -> BTreeSet<Event> {
        std::mem::take(&mut self.new)
    }
}
