//! The store: what a merge, a get and a delete do with the entries in memory, the log and the record files.
//!
//! A merge first appends its items to the log, whatever they say, then joins them into the entries, and answers when the
//! log is synced: so an answer never rests on what somebody else may yet fail to sync. Since a join takes everything in
//! any order, merges need no order among each other; the `gate` keeps them apart only from deletes and from the moment
//! at which a checkpoint looks. `checkpoint.rs` brings the entries into the files.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use storage_plugin_api::{
    Answer, Call, Delete, Deleted, Durability, Error, Fields, Found, Item, Outcome, Record, Result, State,
};
use tracing::{error, warn};

use crate::adopt::adopt;
use crate::caretaker::Caretaker;
use crate::directory::{Directories, file_name, is_valid_id};
use crate::entry::Frame;
use crate::log::{Log, remedy};
use crate::pending::{Pending, Shard};
use crate::record_file::{self, ReadError};
use crate::shared_index::SharedIndex;

/// Everything that the calls and the caretaker of a backend share.
pub(crate) struct Store {
    pub(crate) directories: Directories,
    pub(crate) log: Log,
    pub(crate) pending: Pending,
    pub(crate) index: SharedIndex,
    pub(crate) caretaker: Caretaker,
    pub(crate) durability: Durability,
    /// Read: something is merged. Written: a delete, or a checkpoint looks what there is.
    pub(crate) gate: RwLock<()>,
    /// The evaluations of which a damaged file was set aside.
    corrupt: RwLock<HashSet<Arc<str>>>,
}

/// What the files have of an evaluation.
#[derive(Debug)]
pub(crate) enum Stored {
    /// Nothing.
    Absent,
    /// A state, adopted or written by us.
    State(Arc<State>),
    /// A file that was damaged, and is set aside now.
    Corrupt,
    /// A file of a newer program, which is left alone.
    Newer(String),
}

/// How much memory a store may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// States that the files do not have yet; beyond, merges wait.
    pub(crate) max_unwritten_bytes: usize,
    /// States that the files have.
    pub(crate) max_cached_bytes: usize,
}

/// Which states a delete takes.
pub(crate) type Wanted<'a> = dyn Fn(usize, &State) -> bool + 'a;

impl Store {
    /// A store that knows what is set aside, and nothing of the log yet.
    pub(crate) fn new(
        directories: Directories,
        log: Log,
        index: SharedIndex,
        limits: Limits,
        durability: Durability,
    ) -> io::Result<Self> {
        let set_aside = directories.corrupt.names()?;
        let corrupt = set_aside.filter_map(|name| name.strip_suffix(".json").map(Into::into)).collect();
        Ok(Self {
            directories,
            log,
            pending: Pending::new(limits.max_unwritten_bytes, limits.max_cached_bytes),
            index,
            caretaker: Caretaker::default(),
            durability,
            gate: RwLock::new(()),
            corrupt: RwLock::new(corrupt),
        })
    }

    /// Merges items; one answer for each.
    pub(crate) fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        if !self.pending.wait_for_room(call.deadline) {
            return Err(Error::overloaded(self.caretaker.failure().unwrap_or_else(|| {
                "the record files do not keep up with the log; the disk is slow, send less".to_owned()
            })));
        }
        let size: usize = batch.iter().flat_map(|item| item.registers()).map(|register| register.value().len()).sum();
        let mut frame = Frame::with_capacity(size + size / 8 + 1024 * batch.len());
        for item in batch.iter().filter(|item| is_valid_id(item.id())) {
            frame.push_merge(item);
        }
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let position = self.log.append(frame)?;
        let answers = batch.iter().map(|item| self.merge_item(item)).collect();
        drop(gate);
        if self.pending.is_filling() {
            self.caretaker.wake();
        }
        self.log.sync_to(position, call.deadline)?;
        Ok(answers)
    }

    /// Joins an item into its entry. The caller holds the gate, or is alone.
    fn merge_item(&self, item: &Item<'_>) -> Answer {
        if !is_valid_id(item.id()) {
            return Answer::rejected(Error::invalid_item(format_args!(
                "the id {:?} is not of the form [A-Za-z0-9][A-Za-z0-9._:@~+-]{{0,63}}, so it cannot be a file's name",
                item.id()
            )));
        }
        let mut shard = self.pending.shard(item.id());
        if let Err(error) = self.load(&mut shard, item.id()) {
            return Answer::rejected(error);
        }
        let Some(entry) = shard.get(item.id()) else {
            return Answer::rejected(Error::internal(format_args!("the entry of `{}` was not loaded", item.id())));
        };
        let is_new = entry.state.is_none();
        let state = Arc::make_mut(entry.state.get_or_insert_default());
        let changed = state.merge_registers(item.registers().iter().copied());
        let status = Record::status_of(state);
        if is_new && state.is_empty() {
            entry.state = None;
        }
        if changed {
            self.pending.changed(&mut shard, item.id());
        } else {
            self.pending.unchanged(&mut shard, item.id());
        }
        drop(shard);
        // What else there was is not known.
        if self.is_corrupt(item.id()) {
            let outcome = if changed { Outcome::Accepted } else { Outcome::Unchanged };
            return Answer::new(outcome, None, self.durability);
        }
        let outcome = match (changed, is_new) {
            (true, true) => Outcome::Created,
            (true, false) => Outcome::Updated,
            (false, _) => Outcome::Unchanged,
        };
        Answer::new(outcome, status, self.durability)
    }

    /// Sees to it that the entry of an id is in memory. The entry of what is not stored has no state.
    fn load(&self, shard: &mut Shard, id: &str) -> Result<()> {
        if shard.get(id).is_some() {
            return Ok(());
        }
        let state = match self.read(id)? {
            Stored::Absent | Stored::Corrupt => None,
            Stored::State(state) => Some(state),
            Stored::Newer(reason) => {
                let path = self.directories.evaluations.path_of(&file_name(id));
                return Err(Error::configuration(format_args!("cannot change `{}`: {reason}", path.display())));
            }
        };
        shard.insert(id, state);
        Ok(())
    }

    /// Reads states; one answer for each id.
    pub(crate) fn get(&self, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        ids.iter().map(|id| self.get_one(id, fields)).collect()
    }

    pub(crate) fn get_one(&self, id: &str, fields: Fields) -> Result<Option<Found>> {
        if !is_valid_id(id) {
            return Ok(None);
        }
        let (state, incomplete) = match self.current(id)? {
            Stored::State(state) => (state, self.is_corrupt(id)),
            // What is set aside says that there was something.
            Stored::Absent if self.is_corrupt(id) => (Arc::default(), true),
            Stored::Absent => return Ok(None),
            Stored::Corrupt | Stored::Newer(_) => (Arc::default(), true),
        };
        let state = match fields {
            Fields::Whole => Arc::unwrap_or_clone(state),
            Fields::WithoutBodies => state.without_bodies(),
        };
        Ok(Some(Found { state, incomplete }))
    }

    /// What is stored of an evaluation by now: in memory, or else in its file.
    fn current(&self, id: &str) -> Result<Stored> {
        let in_memory = |shard: &mut Shard| {
            shard.get(id).map(|entry| entry.state.clone()).map(|state| match state {
                Some(state) => Stored::State(state),
                None => Stored::Absent,
            })
        };
        if let Some(stored) = in_memory(&mut self.pending.shard(id)) {
            return Ok(stored);
        }
        match self.read_file(id)? {
            Ok(stored) => Ok(stored),
            // Set aside under the lock, as a merge would: somebody may have put a whole one in its place.
            Err(_) => {
                let mut shard = self.pending.shard(id);
                match in_memory(&mut shard) {
                    Some(stored) => Ok(stored),
                    None => self.read(id),
                }
            }
        }
    }

    /// Reads the file of an evaluation; sets it aside if it is damaged.
    pub(crate) fn read_or_set_aside(&self, id: &str) -> Result<Stored> {
        match self.read_file(id)? {
            Ok(stored) => Ok(stored),
            Err(_) => {
                let _shard = self.pending.shard(id);
                self.read(id)
            }
        }
    }

    /// Reads the file of an evaluation; sets it aside if it is damaged. The caller holds the lock of the id.
    fn read(&self, id: &str) -> Result<Stored> {
        match self.read_file(id)? {
            Ok(stored) => Ok(stored),
            Err(reason) => {
                self.set_aside(id, &reason)?;
                Ok(Stored::Corrupt)
            }
        }
    }

    /// Reads the file of an evaluation. Inside: what it has, or how it is damaged.
    pub(crate) fn read_file(&self, id: &str) -> Result<Result<Stored, String>> {
        let name = file_name(id);
        let evaluations = &self.directories.evaluations;
        let failed = |cause: io::Error| {
            let path = evaluations.path_of(&name);
            Error::unavailable(format_args!("cannot read `{}`: {cause}; {}", path.display(), remedy(&cause)))
        };
        let bytes = match evaluations.read(&name) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Ok(Stored::Absent)),
            Err(cause) if cause.kind() == io::ErrorKind::InvalidData => return Ok(Err(cause.to_string())),
            Err(cause) => return Err(failed(cause)),
        };
        Ok(match record_file::decode(&bytes) {
            Ok(Some(state)) => Ok(Stored::State(Arc::new(state))),
            Ok(None) => {
                let events = self.directories.events.read(&name).map_err(failed)?;
                adopt(&bytes, events.as_deref()).map(|state| Stored::State(Arc::new(state)))
            }
            Err(ReadError::Newer(reason)) => {
                error!(path = %evaluations.path_of(&name).display(), reason, "a record file is of a newer version");
                Ok(Stored::Newer(reason))
            }
            Err(ReadError::Corrupt(reason)) => Err(reason),
        })
    }

    /// True if the file of an evaluation was written by us.
    pub(crate) fn has_own_file(&self, id: &str) -> bool {
        let bytes = self.directories.evaluations.read(&file_name(id));
        matches!(bytes.map(|bytes| bytes.map(|bytes| record_file::decode(&bytes))), Ok(Some(Ok(Some(_)))))
    }

    fn set_aside(&self, id: &str, reason: &str) -> Result<()> {
        let name = file_name(id);
        let Directories { evaluations, corrupt, .. } = &self.directories;
        let mut new_name = name.clone();
        for number in 1.. {
            if !corrupt.exists(&new_name) {
                break;
            }
            new_name = format!("{name}.{number}");
        }
        evaluations.move_to(&name, corrupt, &new_name).map_err(|cause| {
            let path = evaluations.path_of(&name);
            Error::unavailable(format_args!("cannot set the damaged file `{}` aside: {cause}", path.display()))
        })?;
        error!(
            path = %evaluations.path_of(&name).display(),
            set_aside = %corrupt.path_of(&new_name).display(),
            reason,
            "a record file is damaged and was set aside; restore it from a backup, or replay its events and remove it"
        );
        self.corrupt.write().unwrap_or_else(PoisonError::into_inner).insert(id.into());
        Ok(())
    }

    /// True as long as a damaged file of the evaluation is set aside.
    pub(crate) fn is_corrupt(&self, id: &str) -> bool {
        if !self.corrupt.read().unwrap_or_else(PoisonError::into_inner).contains(id) {
            return false;
        }
        let is_there = self.directories.corrupt.exists(&file_name(id));
        if !is_there {
            self.corrupt.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
        is_there
    }

    pub(crate) fn corrupt_ids(&self) -> Vec<Arc<str>> {
        self.corrupt.read().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Deletes what a digest, if any, still fits; one answer for each item.
    pub(crate) fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let ids: Vec<&str> = items.iter().map(|item| item.id).collect();
        self.delete_where(call, &ids, &|index, state| {
            items[index].digest.is_none_or(|digest| *digest == state.digest())
        })
    }

    /// Deletes what is wanted, in one step that a crash leaves whole. The log is synced when it returns.
    pub(crate) fn delete_where(&self, call: &Call, ids: &[&str], wanted: &Wanted<'_>) -> Result<Vec<Deleted>> {
        let gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone: HashSet<&str> = HashSet::new();
        let mut frame = Frame::with_capacity(128 * ids.len());
        let mut answers = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().copied().enumerate() {
            let answer = match is_valid_id(id) && !gone.contains(id) {
                true => self.may_delete(id, &|state| wanted(index, state)),
                false => Deleted::Absent,
            };
            if answer == Deleted::Deleted {
                gone.insert(id);
                frame.push_delete(id);
            }
            answers.push(answer);
        }
        if gone.is_empty() {
            return Ok(answers);
        }
        let position = self.log.append(frame)?;
        // Before a file is removed: else a crash might leave neither it nor the delete, but merges from before.
        let synced = self.log.sync_to(position, call.deadline);
        for id in gone {
            self.apply_delete(id);
        }
        drop(gate);
        synced.map(|()| answers)
    }

    fn may_delete(&self, id: &str, wanted: &dyn Fn(&State) -> bool) -> Deleted {
        let state = match self.current(id) {
            Ok(Stored::State(state)) => Some(state),
            Ok(Stored::Absent) if !self.is_corrupt(id) => return Deleted::Absent,
            Ok(Stored::Absent | Stored::Corrupt | Stored::Newer(_)) => None,
            Err(error) => return Deleted::Failed(error),
        };
        // Of what cannot be read whole the state is nobody's: only a delete of whatever there is takes it.
        let state = state.filter(|_| !self.is_corrupt(id)).unwrap_or_default();
        if wanted(&state) { Deleted::Deleted } else { Deleted::Differs }
    }

    /// Takes an evaluation out of memory, and has the next checkpoint remove its files.
    pub(crate) fn apply_delete(&self, id: &str) {
        let was_corrupt = self.corrupt.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if was_corrupt && let Err(cause) = self.directories.corrupt.remove(&file_name(id)) {
            let path = self.directories.corrupt.path_of(&file_name(id));
            warn!(path = %path.display(), %cause, "cannot remove the damaged file of a deleted evaluation");
        }
        let mut shard = self.pending.shard(id);
        shard.forget(id);
        self.pending.changed(&mut shard, id);
    }

    /// Joins the state of a log entry; it is written to the files even if they know it already.
    pub(crate) fn replay_merge(&self, id: &str, state: &State) -> Result<()> {
        let mut shard = self.pending.shard(id);
        self.load(&mut shard, id)?;
        if let Some(entry) = shard.get(id) {
            Arc::make_mut(entry.state.get_or_insert_default()).merge(state);
        }
        self.pending.changed(&mut shard, id);
        Ok(())
    }
}
