//! A part of the stored states, behind one lock: by id, and in the order of their creation.
//!
//! `memory.rs` decides which part an id belongs to and keeps the totals over all parts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use storage_plugin_api::{Record, State, Status};

/// What an entry costs beside its id and state, in bytes: its places in two trees and three counts of references.
/// Measured over 10^6 entries.
const ENTRY_BYTES: usize = 240;

/// What is stored under an id.
pub(crate) struct Entry {
    /// Shared with readers, which so hold no lock while they copy or hash it.
    pub(crate) state: Arc<State>,
    pub(crate) status: Option<Status>,
    /// Microseconds; 0 where the state does not say.
    pub(crate) created: i64,
    /// What the entry counts for in the total.
    pub(crate) bytes: usize,
    /// Used since it got its place in the queue.
    touched: AtomicBool,
}

/// The entries of a part of the ids.
#[derive(Default)]
pub(crate) struct Shard {
    entries: BTreeMap<Arc<str>, Entry>,
    by_created: BTreeSet<(i64, Arc<str>)>,
    /// For the eviction: ids in the order in which they were stored or given a second chance, and some that are gone.
    /// Empty if nothing is ever evicted.
    queue: VecDeque<Arc<str>>,
}

/// What an entry of this id and state counts for.
pub(crate) fn entry_bytes(id: &str, state: &State) -> usize {
    ENTRY_BYTES + id.len() + state.memory_bytes()
}

impl Entry {
    pub(crate) fn touch(&self) {
        // Only written when it changes, so that readers do not fight for the cache line.
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }
}

impl Shard {
    pub(crate) fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.get_mut(id)
    }

    /// Stores a state under an id that has none.
    pub(crate) fn insert(&mut self, id: &str, state: State, bytes: usize, may_evict: bool) -> Option<Status> {
        let id: Arc<str> = id.into();
        let status = Record::status_of(&state);
        let created = Record::created_at_of(&state).unwrap_or(0);
        self.by_created.insert((created, Arc::clone(&id)));
        let entry = Entry { state: Arc::new(state), status, created, bytes, touched: AtomicBool::new(false) };
        if may_evict {
            self.queue.push_back(Arc::clone(&id));
        }
        self.entries.insert(id, entry);
        status
    }

    /// Brings the order of creation up to date after the state of an id changed.
    pub(crate) fn move_created(&mut self, id: &str, before: i64, now: i64) {
        if before == now {
            return;
        }
        let Some((id, _)) = self.entries.get_key_value(id) else { return };
        self.by_created.remove(&(before, Arc::clone(id)));
        self.by_created.insert((now, Arc::clone(id)));
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Entry> {
        let (id, entry) = self.entries.remove_entry(id)?;
        self.by_created.remove(&(entry.created, id));
        self.tidy_queue();
        Some(entry)
    }

    /// Removes the entry that has been in the queue for longest, but for those that were used meanwhile.
    pub(crate) fn evict(&mut self) -> Option<Entry> {
        while let Some(id) = self.queue.pop_front() {
            match self.entries.get(&id) {
                Some(entry) if entry.touched.swap(false, Ordering::Relaxed) => self.queue.push_back(id),
                Some(_) => return self.remove(&id),
                None => {}
            }
        }
        None
    }

    /// Drops ids from the queue that are gone, and second places of one id, before they become many.
    fn tidy_queue(&mut self) {
        if self.queue.len() > 2 * self.entries.len() + 64 {
            let mut seen = BTreeSet::new();
            let entries = &self.entries;
            self.queue.retain(|id| entries.contains_key(id) && seen.insert(Arc::clone(id)));
        }
    }

    /// The entries behind an id, in id order.
    pub(crate) fn behind(&self, id: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        let start = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<str, _>((start, Bound::Unbounded))
    }

    /// The entries older than a place, newest first. No place stands for all.
    pub(crate) fn older_than(&self, place: Option<&(i64, Arc<str>)>) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        let end = place.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.by_created.range::<(i64, Arc<str>), _>((Bound::Unbounded, end));
        range.rev().map(|(_, id)| (id, &self.entries[id]))
    }

    /// The entries from a place (excluded) that were created before a time, oldest first.
    pub(crate) fn created_before(
        &self,
        after: Option<&(i64, Arc<str>)>,
        time: i64,
    ) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.by_created.range::<(i64, Arc<str>), _>((start, Bound::Unbounded));
        range.take_while(move |(created, _)| *created < time).map(|(_, id)| (id, &self.entries[id]))
    }
}
