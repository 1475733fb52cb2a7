//! The states in memory: those that the files do not have yet, and a few more that are likely to be asked for again.
//!
//! An entry is *dirty* from the merge or delete that changed it until a checkpoint takes it, then *written* until the
//! checkpoint has made it durable; from then on it is only a cache, and goes when there is no room for it.
//! `store.rs` changes entries, `checkpoint.rs` moves them on.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use storage_plugin_api::State;

const SHARDS: usize = 16;

/// What an entry takes beside its state, in bytes.
const ENTRY_BYTES: usize = 200;

/// What is known of an evaluation.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// None: it was deleted.
    pub(crate) state: Option<Arc<State>>,
    bytes: usize,
    dirty: bool,
    writing: bool,
    cached: bool,
    /// Has a place in the queue of the cache.
    queued: bool,
    used: bool,
}

/// The entries of a part of the ids.
#[derive(Default)]
pub(crate) struct Shard {
    entries: HashMap<Arc<str>, Entry>,
    dirty: Vec<Arc<str>>,
    /// Entries that are only cached, in the order in which they became so, and some that are no longer.
    cache: VecDeque<Arc<str>>,
    cache_bytes: usize,
}

/// All entries.
pub(crate) struct Pending {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    /// The bytes of the entries that the files do not have yet.
    unwritten: AtomicUsize,
    /// Most of these, unless one merge alone is larger.
    max_unwritten: usize,
    max_cached: usize,
    waiting: Mutex<()>,
    room: Condvar,
}

impl Pending {
    pub(crate) fn new(max_unwritten: usize, max_cached: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: Default::default(),
            unwritten: AtomicUsize::new(0),
            max_unwritten,
            max_cached,
            waiting: Mutex::new(()),
            room: Condvar::new(),
        }
    }

    /// The part that an id belongs to.
    pub(crate) fn shard(&self, id: &str) -> MutexGuard<'_, Shard> {
        self.lock(self.hasher.hash_one(id) as usize % SHARDS)
    }

    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// True if the next checkpoint should not wait for its time.
    pub(crate) fn is_filling(&self) -> bool {
        self.unwritten() >= self.max_unwritten / 4
    }

    /// Waits until there is room for more. False if there is none in time.
    pub(crate) fn wait_for_room(&self, deadline: Instant) -> bool {
        if self.unwritten() < self.max_unwritten {
            return true;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while self.unwritten() >= self.max_unwritten {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            waiting = self.room.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Marks an entry as changed after its state was. The shard must be locked by the caller since before the change.
    pub(crate) fn changed(&self, shard: &mut Shard, id: &str) {
        let Some((key, _)) = shard.entries.get_key_value(id) else { return };
        let key = Arc::clone(key);
        let Some(entry) = shard.entries.get_mut(id) else { return };
        let before = entry.bytes;
        entry.bytes = ENTRY_BYTES + id.len() + entry.state.as_ref().map_or(0, |state| state.memory_bytes());
        entry.used = true;
        if entry.dirty || entry.writing {
            self.unwritten.fetch_add(entry.bytes, Ordering::Relaxed);
            self.unwritten.fetch_sub(before, Ordering::Relaxed);
        } else {
            self.unwritten.fetch_add(entry.bytes, Ordering::Relaxed);
            if entry.cached {
                entry.cached = false;
                shard.cache_bytes -= before;
            }
        }
        if !entry.dirty {
            entry.dirty = true;
            shard.dirty.push(key);
        }
    }

    /// Leaves an entry that was looked at and not changed: cached, or gone if nothing is stored.
    pub(crate) fn unchanged(&self, shard: &mut Shard, id: &str) {
        let is_unused = |entry: &Entry| entry.state.is_none() && !entry.dirty && !entry.writing;
        match shard.entries.get(id).is_some_and(is_unused) {
            true => drop(shard.entries.remove(id)),
            false => shard.cache(id, self.max_cached / SHARDS),
        }
    }

    /// The ids of all dirty entries. No merge or delete may be under way.
    pub(crate) fn take_dirty(&self) -> Vec<Arc<str>> {
        let shards = (0..SHARDS).map(|index| std::mem::take(&mut self.lock(index).dirty));
        let mut ids: Vec<_> = shards.flatten().collect();
        // After a failure an id may be in twice.
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Takes an entry as it is now, to be written; inside is none if it was deleted. None if it needs no writing.
    pub(crate) fn begin_writing(&self, id: &str) -> Option<Option<Arc<State>>> {
        let mut shard = self.shard(id);
        let entry = shard.entries.get_mut(id)?;
        if !entry.dirty {
            return None;
        }
        entry.dirty = false;
        entry.writing = true;
        Some(entry.state.clone())
    }

    /// Ends the writing of entries: those that were not changed meanwhile are only cached from now on.
    pub(crate) fn end_writing(&self, ids: &[Arc<str>]) {
        for id in ids {
            let mut shard = self.shard(id);
            let shard = &mut *shard;
            let Some(entry) = shard.entries.get_mut(id) else { continue };
            entry.writing = false;
            if entry.dirty {
                continue;
            }
            self.unwritten.fetch_sub(entry.bytes, Ordering::Relaxed);
            if entry.state.is_none() {
                shard.entries.remove(id);
                continue;
            }
            entry.used = false;
            shard.cache(id, self.max_cached / SHARDS);
        }
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.room.notify_all();
    }

    /// Makes entries dirty again that were taken, of which the writing may have begun or not.
    pub(crate) fn fail_writing(&self, ids: &[Arc<str>]) {
        for id in ids {
            let mut shard = self.shard(id);
            let Some(entry) = shard.entries.get_mut(id) else { continue };
            if entry.dirty || entry.writing {
                entry.writing = false;
                entry.dirty = true;
                shard.dirty.push(Arc::clone(id));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn cached_bytes(&self) -> usize {
        (0..SHARDS).map(|index| self.lock(index).cache_bytes).sum()
    }

    /// True if there is an entry that the files may not have yet.
    pub(crate) fn is_unwritten(&self, id: &str) -> bool {
        self.shard(id).entries.get(id).is_some_and(|entry| entry.dirty || entry.writing)
    }

    /// Hands every entry that the files may not have yet to a function.
    pub(crate) fn for_each_unwritten(&self, mut each: impl FnMut(&Arc<str>, Option<&Arc<State>>)) {
        for index in 0..SHARDS {
            for (id, entry) in &self.lock(index).entries {
                if entry.dirty || entry.writing {
                    each(id, entry.state.as_ref());
                }
            }
        }
    }

    // A panic while a lock was held leaves at most a count that is off: every change of an entry is one step.
    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    pub(crate) fn get(&mut self, id: &str) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(id)?;
        entry.used = true;
        Some(entry)
    }

    /// Puts in what was read from the files. The caller changes it at once, or leaves it out.
    pub(crate) fn insert(&mut self, id: &str, state: Option<Arc<State>>) {
        self.entries.insert(id.into(), Entry { state, ..Entry::default() });
    }

    /// Says that the evaluation is deleted. The caller marks it as changed.
    pub(crate) fn forget(&mut self, id: &str) {
        self.entries.entry(id.into()).or_default().state = None;
    }

    /// Keeps an entry that the files have as long as there is room for it.
    fn cache(&mut self, id: &str, max_bytes: usize) {
        let Some((key, _)) = self.entries.get_key_value(id) else { return };
        let key = Arc::clone(key);
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(state) = entry.state.as_ref().filter(|_| !entry.dirty && !entry.writing && !entry.cached) else {
            return;
        };
        entry.bytes = ENTRY_BYTES + id.len() + state.memory_bytes();
        entry.cached = true;
        self.cache_bytes += entry.bytes;
        if !std::mem::replace(&mut entry.queued, true) {
            self.cache.push_back(key);
        }
        self.shrink(max_bytes);
    }

    /// Takes entries out of the cache until it is small enough; what was used lately gets a second chance.
    fn shrink(&mut self, max_bytes: usize) {
        while self.cache_bytes > max_bytes
            && let Some(id) = self.cache.pop_front()
        {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.queued = false;
            if !entry.cached {
                continue;
            }
            if std::mem::take(&mut entry.used) {
                entry.queued = true;
                self.cache.push_back(id);
                continue;
            }
            self.cache_bytes -= entry.bytes;
            self.entries.remove(&id);
        }
        if self.cache.len() > 2 * self.entries.len() + 64 {
            self.forget_places();
        }
    }

    /// Drops the places of entries that are gone, so that the queue stays as small as the cache.
    fn forget_places(&mut self) {
        for entry in self.entries.values_mut() {
            entry.queued = false;
        }
        let entries = &mut self.entries;
        self.cache.retain(|id| {
            entries.get_mut(id).is_some_and(|entry| entry.cached && !std::mem::replace(&mut entry.queued, true))
        });
    }
}
