//! The backend: answers every call from the shards, and keeps the total of their bytes below the limit.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use storage_plugin_api::{
    Answer, Backend, Call, ChildDescription, Counts, Delete, Deleted, Description, Durability, Error, Fields, Found,
    Health, Item, OpenBackend, Opening, Outcome, Page, Prune, Pruned, Query, Record, Register, RegisterRef, Result,
    State, Status,
};

use crate::list;
use crate::options::Options;
use crate::shard::{Entry, Shard, entry_bytes};

/// Enough that a handful of lanes seldom meet.
const SHARDS: usize = 16;

/// Most entries that a prune looks at while it holds a lock.
const STRIDE: usize = 1024;

/// States in memory.
pub struct Memory {
    options: Options,
    hasher: RandomState,
    shards: [RwLock<Shard>; SHARDS],
    /// What all entries count for, never more than the limit unless it evicts.
    bytes: AtomicUsize,
    /// By the code of the status; 0 stands for none.
    counts: [AtomicU64; 8],
    /// The last new evaluation was refused.
    full: AtomicBool,
    /// The shard that is next to forget an entry.
    evict_next: AtomicUsize,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Memory").field("options", &self.options).finish_non_exhaustive()
    }
}

impl OpenBackend for Memory {
    type Options = Options;

    fn check(options: &Options, _children: &[ChildDescription]) -> Description {
        options.describe()
    }

    fn open(options: Options, _opening: Opening) -> Result<Self> {
        Ok(Self::new(options))
    }
}

impl Backend for Memory {
    fn merge(&self, _call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        Ok(batch.iter().map(|item| self.merge_item(item)).collect())
    }

    fn get(&self, _call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let find = |id: &&str| {
            let state = {
                let shard = self.read(self.shard_of(id));
                let entry = shard.get(id)?;
                entry.touch();
                Arc::clone(&entry.state)
            };
            Some(found(&state, fields))
        };
        Ok(ids.iter().map(find).collect())
    }

    fn list(&self, _call: &Call, query: &Query) -> Result<Page> {
        let (states, place) = list::page(&self.shards, query)?;
        let entries = states.iter().map(|(id, state)| (id.to_string(), found(state, query.fields))).collect();
        Ok(Page { entries, cursor: place.map(|place| place.to_string()) })
    }

    fn counts(&self, _call: &Call) -> Result<Counts> {
        let mut counts = Counts::default();
        for (code, count) in (0_u8..).zip(&self.counts) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let name = Status::from_code(code).map_or("unknown", Status::as_str);
                counts.by_status.insert(name.to_owned(), count);
            }
        }
        Ok(counts)
    }

    fn delete(&self, _call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        Ok(items.iter().map(|item| self.delete_item(item)).collect())
    }

    fn health(&self) -> Health {
        let evaluations: u64 = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let health = match self.full.load(Ordering::Relaxed) {
            true => Health::unhealthy(format!(
                "all of `max_bytes` ({}) is taken, new evaluations are refused; raise it or prune",
                self.options.max_bytes
            )),
            false => Health::healthy(),
        };
        health
            .with("evaluations", evaluations)
            .with("bytes", self.bytes.load(Ordering::Relaxed))
            .with("max_bytes", self.options.max_bytes)
    }

    fn flush(&self, _call: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _call: &Call) -> Result<()> {
        Ok(())
    }

    fn prune(&self, _call: &Call, prune: &Prune) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for index in 0..SHARDS {
            self.prune_shard(index, prune, &mut pruned);
            if pruned.more {
                break;
            }
        }
        Ok(pruned)
    }
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            hasher: RandomState::new(),
            shards: Default::default(),
            bytes: AtomicUsize::new(0),
            counts: Default::default(),
            full: AtomicBool::new(false),
            evict_next: AtomicUsize::new(0),
        }
    }

    fn merge_item(&self, item: &Item<'_>) -> Answer {
        let merged = {
            let mut shard = self.write(self.shard_of(item.id()));
            match shard.get(item.id()).is_some() {
                true => self.merge_into(&mut shard, item),
                false => self.create(&mut shard, item),
            }
        };
        while self.options.evict && self.bytes.load(Ordering::Relaxed) > self.options.max_bytes {
            self.evict();
        }
        match merged {
            Ok((outcome, status)) => Answer::new(outcome, status, Durability::Volatile),
            Err(error) => Answer::rejected(error),
        }
    }

    fn create(&self, shard: &mut Shard, item: &Item<'_>) -> Result<(Outcome, Option<Status>)> {
        let state = item.to_state();
        if state.is_empty() {
            return Ok((Outcome::Unchanged, None));
        }
        let bytes = entry_bytes(item.id(), &state);
        if bytes > self.options.max_bytes {
            return Err(Error::invalid_item(format_args!(
                "the evaluation takes {bytes} bytes, more than all of `max_bytes` ({}); raise it",
                self.options.max_bytes
            )));
        }
        self.take(bytes)?;
        self.full.store(false, Ordering::Relaxed);
        let status = shard.insert(item.id(), state, bytes, self.options.evict);
        self.count(status).fetch_add(1, Ordering::Relaxed);
        Ok((Outcome::Created, status))
    }

    fn merge_into(&self, shard: &mut Shard, item: &Item<'_>) -> Result<(Outcome, Option<Status>)> {
        let entry = shard.get_mut(item.id()).expect("the caller found the entry under the same lock");
        entry.touch();
        if !self.join(entry, item)? {
            return Ok((Outcome::Unchanged, entry.status));
        }
        let (before, status) = (entry.created, Record::status_of(&entry.state));
        if status != entry.status {
            self.count(entry.status).fetch_sub(1, Ordering::Relaxed);
            self.count(status).fetch_add(1, Ordering::Relaxed);
            entry.status = status;
        }
        entry.created = Record::created_at_of(&entry.state).unwrap_or(0);
        let created = entry.created;
        shard.move_created(item.id(), before, created);
        Ok((Outcome::Updated, status))
    }

    /// Joins an item into an entry if there is room for what it grows by. True if that changed the entry.
    fn join(&self, entry: &mut Entry, item: &Item<'_>) -> Result<bool> {
        let most: usize = item.registers().iter().map(register_bytes).sum();
        if self.options.evict || self.take(most).is_ok() {
            let changed = Arc::make_mut(&mut entry.state).merge_registers(item.registers().iter().copied());
            let reserved = if self.options.evict { 0 } else { most };
            self.settle(entry, item.id(), reserved);
            return Ok(changed);
        }
        // Close to the limit the exact growth decides, and only a copy can tell it.
        let mut joined = State::clone(&entry.state);
        let changed = joined.merge_registers(item.registers().iter().copied());
        let growth = entry_bytes(item.id(), &joined).saturating_sub(entry.bytes);
        if changed {
            if growth > 0 {
                self.take(growth)?;
            }
            entry.state = Arc::new(joined);
            self.settle(entry, item.id(), growth);
        }
        Ok(changed)
    }

    /// Corrects the total after an entry changed, of which some bytes were taken beforehand.
    fn settle(&self, entry: &mut Entry, id: &str, taken: usize) {
        let before = entry.bytes + taken;
        entry.bytes = entry_bytes(id, &entry.state);
        match entry.bytes > before {
            true => self.bytes.fetch_add(entry.bytes - before, Ordering::Relaxed),
            false => self.bytes.fetch_sub(before - entry.bytes, Ordering::Relaxed),
        };
    }

    /// Takes bytes from what the limit leaves.
    fn take(&self, bytes: usize) -> Result<()> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.options.evict || before + bytes <= self.options.max_bytes {
            return Ok(());
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.full.store(true, Ordering::Relaxed);
        Err(Error::overloaded(format_args!(
            "all of `max_bytes` ({}) is taken; raise it, prune, or set `evict` if this is a cache",
            self.options.max_bytes
        )))
    }

    /// Forgets one entry, of each shard in turn.
    fn evict(&self) {
        let index = self.evict_next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let evicted = self.write(index).evict();
        if let Some(entry) = evicted {
            self.forget(&entry);
        }
    }

    fn delete_item(&self, item: &Delete<'_>) -> Deleted {
        let index = self.shard_of(item.id);
        loop {
            let Some(state) = self.read(index).get(item.id).map(|entry| Arc::clone(&entry.state)) else {
                return Deleted::Absent;
            };
            // Computed without the lock; whoever changes the state meanwhile makes a new one, as we hold this one.
            if item.digest.is_some_and(|digest| *digest != state.digest()) {
                return Deleted::Differs;
            }
            let mut shard = self.write(index);
            let unchanged = shard.get(item.id).is_some_and(|entry| Arc::ptr_eq(&entry.state, &state));
            if item.digest.is_some() && !unchanged {
                continue;
            }
            return match shard.remove(item.id) {
                Some(entry) => {
                    self.forget(&entry);
                    Deleted::Deleted
                }
                None => Deleted::Absent,
            };
        }
    }

    fn prune_shard(&self, index: usize, prune: &Prune, pruned: &mut Pruned) {
        let mut place: Option<(i64, Arc<str>)> = None;
        loop {
            let mut shard = self.write(index);
            // What ended before a time was created before it.
            let stride: Vec<_> = shard.created_before(place.as_ref(), prune.ended_before).take(STRIDE).collect();
            let Some((last_id, last)) = stride.last() else { return };
            place = Some((last.created, Arc::clone(last_id)));
            let ended = |entry: &Entry| Record::completed_at_of(&entry.state).is_some_and(|at| at < prune.ended_before);
            let old: Vec<_> = stride.iter().filter(|(_, entry)| ended(entry)).map(|(id, _)| Arc::clone(id)).collect();
            for id in old {
                if pruned.removed >= prune.limit as u64 {
                    pruned.more = true;
                    return;
                }
                pruned.removed += 1;
                if !prune.dry_run
                    && let Some(entry) = shard.remove(&id)
                {
                    self.forget(&entry);
                }
            }
        }
    }

    /// Takes an entry that was removed out of the totals.
    fn forget(&self, entry: &Entry) {
        self.bytes.fetch_sub(entry.bytes, Ordering::Relaxed);
        self.count(entry.status).fetch_sub(1, Ordering::Relaxed);
        self.full.store(false, Ordering::Relaxed);
    }

    fn count(&self, status: Option<Status>) -> &AtomicU64 {
        &self.counts[usize::from(status.map_or(0, Status::code))]
    }

    fn shard_of(&self, id: &str) -> usize {
        self.hasher.hash_one(id) as usize % SHARDS
    }

    // A panic while a lock was held leaves at most a total that is off: every change of a shard is one step.
    fn read(&self, index: usize) -> RwLockReadGuard<'_, Shard> {
        self.shards[index].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, index: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[index].write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most that a register can add to a state.
fn register_bytes(register: &RegisterRef<'_>) -> usize {
    2 * size_of::<Register>() + register.name().len() + register.event_id().len() + 2 * register.value().len()
}

fn found(state: &State, fields: Fields) -> Found {
    let state = match fields {
        Fields::Whole => state.clone(),
        Fields::WithoutBodies => state.without_bodies(),
    };
    Found { state, incomplete: false }
}
