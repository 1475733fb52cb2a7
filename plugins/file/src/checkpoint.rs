//! A checkpoint: brings what was merged into the files and the index, so that the log can let go of it.
//!
//! Its steps are separate functions since a crash may come between any two of them: until the last one is done the log
//! still has everything. Only the caretaker runs them, one checkpoint at a time.
//!
//! Each evaluation costs two files, that of its record and that of its history. When merges come faster than both can
//! be written, the histories wait: the index remembers which, and `histories.rs` catches up when there is time.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use storage_plugin_api::{Durability, Error, Record, Result, State};

use crate::caretaker::ScanNeed;
use crate::directory::{Directories, Directory, file_name};
use crate::index::{Change, Row, Stamp, Update};
use crate::log::remedy;
use crate::record_file;
use crate::store::{Store, Stored};

/// A checkpoint under way.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The position of the log up to which the files will have everything.
    pub(crate) position: u64,
    taken: Vec<Arc<str>>,
    written: Vec<Arc<str>>,
    changes: Vec<Change>,
    /// New files that wait, synced, to take the places of old ones.
    staged: Vec<Staged>,
    /// The files of the histories are left for later.
    without_histories: bool,
}

/// The file of an evaluation that is written, and not yet in its place.
#[derive(Debug)]
struct Staged {
    id: Arc<str>,
    with_history: bool,
}

impl Store {
    /// Runs a whole checkpoint of the log up to a position, or its end. Answers the position of the log that it covers.
    /// After an error everything is as before, and will be taken by the next one.
    pub(crate) fn checkpoint(&self, up_to: u64) -> Result<u64> {
        let mut checkpoint = self.begin_checkpoint(up_to);
        let outcome = self
            .write_files(&mut checkpoint)
            .and_then(|()| self.put_in_place(&mut checkpoint))
            .and_then(|()| self.write_index(&checkpoint))
            .and_then(|()| self.sync_files(&checkpoint));
        match outcome {
            Ok(()) => {
                self.end_checkpoint(&checkpoint);
                Ok(checkpoint.position)
            }
            Err(error) => {
                self.pending.fail_writing(&checkpoint.taken);
                Err(error)
            }
        }
    }

    /// Takes what is dirty. What is in the log by now is then in its entries as well, hence the gate.
    pub(crate) fn begin_checkpoint(&self, up_to: u64) -> Checkpoint {
        let gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let (position, taken) = (self.log.end().min(up_to), self.pending.take_dirty());
        drop(gate);
        let without_histories = self.pending.is_filling();
        Checkpoint { position, taken, written: Vec::new(), changes: Vec::new(), staged: Vec::new(), without_histories }
    }

    /// Writes the files of what was taken, as it is by now.
    pub(crate) fn write_files(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        if self.caretaker.last_modified().is_some_and(|last| last != self.directory_modified()) {
            // Somebody else put a file there, or took one away.
            self.caretaker.set_scan_need(ScanNeed::Wanted);
        }
        for id in &checkpoint.taken {
            let Some(state) = self.pending.begin_writing(id) else { continue };
            checkpoint.written.push(Arc::clone(id));
            match state {
                Some(state) => {
                    let with_history = !checkpoint.without_histories;
                    if self.write_evaluation(id, &state, with_history)? {
                        checkpoint.staged.push(Staged { id: Arc::clone(id), with_history });
                    }
                    checkpoint.changes.push((Arc::clone(id), Some(Row::of(&state))));
                }
                None => {
                    self.remove_evaluation(id)?;
                    checkpoint.changes.push((Arc::clone(id), None));
                }
            }
        }
        for id in self.caretaker.take_missing() {
            if !self.pending.is_unwritten(&id) && matches!(self.read_file(&id), Ok(Ok(Stored::Absent))) {
                checkpoint.changes.push((id, None));
            }
        }
        Ok(())
    }

    /// Puts the new files in the places of old ones.
    ///
    /// An old file may have what the log let go of long ago, so the new one is durable before it takes its place: a file
    /// system is free to make the new name durable before what is in the file. Of an evaluation without a file the log
    /// has everything.
    pub(crate) fn put_in_place(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        if checkpoint.staged.is_empty() {
            return Ok(());
        }
        self.sync_directories()?;
        let Directories { evaluations, events, writing, .. } = &self.directories;
        for Staged { id, with_history } in checkpoint.staged.drain(..) {
            let name = file_name(&id);
            let put = |staged: &str, target: &Directory| {
                let put = writing.move_to(staged, target, &name);
                put.map_err(|cause| file_error("replace", target, &name, &cause))
            };
            put(&record_name(&id), evaluations)?;
            if with_history {
                put(&history_name(&id), events)?;
            }
        }
        Ok(())
    }

    /// Brings the index up to date, durably.
    pub(crate) fn write_index(&self, checkpoint: &Checkpoint) -> Result<()> {
        let modified = self.directory_modified();
        if !checkpoint.changes.is_empty() {
            // While there may be files that the index does not know, it must not look as if it knew all.
            let is_all = self.caretaker.scan_need() == ScanNeed::None && self.index.is_whole();
            let stamp = is_all.then(|| Stamp { directory_modified: modified, written: now() });
            let (behind, caught_up): (&[_], &[_]) = match checkpoint.without_histories {
                true => (&checkpoint.written, &[]),
                // If none is behind, there is none to take out.
                false if self.caretaker.is_behind() => (&[], &checkpoint.written),
                false => (&[], &[]),
            };
            let update = Update { changes: &checkpoint.changes, behind, caught_up, stamp, ..Update::default() };
            self.index.apply(update).inspect_err(|_| self.look_after_index())?;
            self.caretaker.set_behind(checkpoint.without_histories);
        }
        self.caretaker.set_last_modified(modified);
        Ok(())
    }

    /// An index that was made anew needs all the files again.
    fn look_after_index(&self) {
        if !self.index.is_whole() {
            self.caretaker.set_scan_need(ScanNeed::Wanted);
        }
    }

    /// Makes the files durable.
    pub(crate) fn sync_files(&self, checkpoint: &Checkpoint) -> Result<()> {
        if checkpoint.written.is_empty() { Ok(()) } else { self.sync_directories() }
    }

    pub(crate) fn sync_directories(&self) -> Result<()> {
        if self.durability == Durability::Volatile {
            return Ok(());
        }
        let evaluations = &self.directories.evaluations;
        evaluations.sync_all().map_err(|cause| file_error("sync", evaluations, "", &cause))?;
        #[cfg(not(target_os = "linux"))]
        self.directories.events.sync_all().map_err(|cause| file_error("sync", &self.directories.events, "", &cause))?;
        Ok(())
    }

    /// Lets the log go of what the files have now.
    pub(crate) fn end_checkpoint(&self, checkpoint: &Checkpoint) {
        self.pending.end_writing(&checkpoint.written);
        self.log.release(checkpoint.position);
    }

    /// The record before its history: until it has a state, the history beside it is somebody else's.
    ///
    /// True if they are to take the places of files that are there, which is left to [`Self::put_in_place`].
    fn write_evaluation(&self, id: &str, state: &State, with_history: bool) -> Result<bool> {
        let Directories { evaluations, events, writing, .. } = &self.directories;
        let (record, name) = (Record::of(id, state), file_name(id));
        let is_staged = self.durability == Durability::Durable && evaluations.exists(&name);
        let write = |directory: &Directory, staged: String, text: &str| match is_staged {
            true => {
                let written = writing.write(&staged, text.as_bytes(), false);
                written.map_err(|cause| file_error("write", writing, &staged, &cause))
            }
            false => self.write_file(directory, &name, text),
        };
        write(evaluations, record_name(id), &record_file::encode(&record, state))?;
        if with_history {
            write(events, history_name(id), &record_file::encode_history(&record.history))?;
        }
        Ok(is_staged)
    }

    pub(crate) fn write_file(&self, directory: &Directory, name: &str, text: &str) -> Result<()> {
        let put = self.directories.put(directory, name, text.as_bytes());
        put.map_err(|cause| file_error("write", directory, name, &cause))
    }

    fn remove_evaluation(&self, id: &str) -> Result<()> {
        let name = file_name(id);
        for directory in [&self.directories.evaluations, &self.directories.events] {
            directory.remove(&name).map_err(|cause| file_error("remove", directory, &name, &cause))?;
        }
        Ok(())
    }

    /// When a name in the directory of the evaluations last changed, in nanoseconds; 0 if that cannot be told.
    pub(crate) fn directory_modified(&self) -> i64 {
        self.directories.evaluations.modified().map_or(0, nanoseconds)
    }
}

/// Nanoseconds since 1970.
pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

pub(crate) fn now() -> i64 {
    nanoseconds(SystemTime::now())
}

fn record_name(id: &str) -> String {
    format!("{id}.record")
}

fn history_name(id: &str) -> String {
    format!("{id}.history")
}

fn file_error(what: &str, directory: &Directory, name: &str, cause: &io::Error) -> Error {
    let path = directory.path_of(name);
    Error::unavailable(format_args!("cannot {what} `{}`: {cause}; {}", path.display(), remedy(cause)))
}
