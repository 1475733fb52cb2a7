//! The primary, and whether it was there when it was last called.
//!
//! When it is tried is not decided here: its guard answers at once while it is left alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Call, Child, Delete, Deleted, Durability, Error, ErrorKind, Fields, Found, Item, Outcome, Result,
};
use tracing::{info, warn};

use crate::lock;

/// The child that everything is in, or will be.
pub(crate) struct Primary {
    pub(crate) child: Child,
    host: Host,
    reads: Path,
    writes: Path,
    /// Merges that it took something of, and those for which it was away.
    taken: AtomicU64,
    failed: AtomicU64,
}

/// How many merges it took something of, and for how many it was away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Merges {
    pub(crate) taken: u64,
    pub(crate) failed: u64,
}

/// What a failure of a merge says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    /// That the primary is away.
    Ordinary,
    /// Nothing of it: the evaluation has failed alone before.
    Suspect,
}

/// Reading and writing fail apart: a store on a full disk can be read.
struct Path {
    calls: &'static str,
    is_away: AtomicBool,
    reason: Mutex<String>,
}

impl Primary {
    pub(crate) fn new(child: Child, host: Host) -> Self {
        let path = |calls| Path { calls, is_away: AtomicBool::new(false), reason: Mutex::default() };
        let (taken, failed) = Default::default();
        Self { child, host, reads: path("reads"), writes: path("writes"), taken, failed }
    }

    pub(crate) fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let answer = self.child.backend.get(call, ids, fields);
        self.note(&self.reads, answer.as_ref().err());
        answer
    }

    /// Merges; an unavailable primary gives that answer for each item.
    pub(crate) fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.merge_back(call, batch, Tried::Ordinary)
    }

    /// The same of what the fallback holds.
    pub(crate) fn merge_back(&self, call: &Call, batch: &[Item<'_>], tried: Tried) -> Result<Vec<Answer>> {
        let answers = match self.child.backend.merge(call, batch) {
            Err(error) if error.kind == ErrorKind::Unavailable => {
                batch.iter().map(|_| Answer::rejected(error.clone())).collect()
            }
            answers => answers?,
        };
        let away = answers.iter().filter_map(unavailable);
        if away.clone().count() == answers.len() {
            // An empty batch says nothing.
            if let Some(error) = away.into_iter().next().filter(|_| tried == Tried::Ordinary) {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.note(&self.writes, Some(error));
            }
        } else {
            self.taken.fetch_add(1, Ordering::Relaxed);
            self.note(&self.writes, None);
        }
        Ok(answers)
    }

    pub(crate) fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let answer = self.child.backend.delete(call, items);
        self.note(&self.writes, answer.as_ref().err());
        answer
    }

    /// It is, though a merge has failed.
    pub(crate) fn is_there_to_merge(&self) {
        self.note(&self.writes, None);
    }

    pub(crate) fn merges(&self) -> Merges {
        Merges { taken: self.taken.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// True if an answer of this durability is all that the primary promises.
    pub(crate) fn is_kept(&self, durability: Durability) -> bool {
        durability >= self.child.description.capabilities.durability()
    }

    /// Why it is away, if it is.
    pub(crate) fn away(&self) -> Option<String> {
        let path = [&self.writes, &self.reads].into_iter().find(|path| path.is_away.load(Ordering::Relaxed))?;
        Some(lock(&path.reason).clone())
    }

    pub(crate) fn is_away(&self) -> bool {
        self.writes.is_away.load(Ordering::Relaxed) || self.reads.is_away.load(Ordering::Relaxed)
    }

    /// True if the last read failed.
    pub(crate) fn is_away_for_reads(&self) -> bool {
        self.reads.is_away.load(Ordering::Relaxed)
    }

    fn note(&self, path: &Path, error: Option<&Error>) {
        let is_away = match error {
            Some(error) if error.kind == ErrorKind::Unavailable => true,
            // It answered, or what it said has other reasons.
            Some(_) => return,
            None => false,
        };
        if path.is_away.load(Ordering::Relaxed) == is_away {
            return;
        }
        if let Some(error) = error {
            error.message.clone_into(&mut lock(&path.reason));
        }
        if path.is_away.swap(is_away, Ordering::Relaxed) == is_away {
            return;
        }
        let (primary, calls) = (&self.child.name, path.calls);
        match error {
            Some(error) => warn!(primary, calls, %error, "primary is unavailable"),
            None => info!(primary, calls, "primary is back"),
        }
        self.host.gauge("primary_away", f64::from(u8::from(self.is_away())));
    }
}

/// The error of an item that the primary did not take because it is away.
pub(crate) fn unavailable(answer: &Answer) -> Option<&Error> {
    match &answer.outcome {
        Outcome::Rejected(error) if error.kind == ErrorKind::Unavailable => Some(error),
        Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::Accepted | Outcome::Rejected(_) => None,
    }
}
