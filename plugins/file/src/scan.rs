//! Reads the directory in the background: fills an index that was lost, finds files that somebody else put there.
//!
//! It goes in steps, between which the caretaker runs its checkpoints. Files that the index knows and that have not
//! changed since are not read.

use std::sync::Arc;

use storage_plugin_api::Result;
use tracing::{info, warn};

use crate::caretaker::ScanNeed;
use crate::checkpoint::{nanoseconds, now};
use crate::directory::{Directory, file_name, is_valid_id};
use crate::index::{Change, Row, Stamp, Update, View};
use crate::store::{Store, Stored};

/// Names looked at in one step.
const STEP: usize = 1024;

/// How far a scan is.
#[derive(Default)]
pub(crate) struct Scan {
    stage: Stage,
    /// When it began, in nanoseconds.
    began: i64,
    /// Files changed later than this are read even if the index knows them, in nanoseconds.
    since: i64,
    found: u64,
}

#[derive(Default)]
enum Stage {
    #[default]
    Begin,
    /// Through the files.
    Files(Box<dyn Iterator<Item = String> + Send>),
    /// Through the index, for rows without files: behind this id.
    Rows(Option<String>),
}

impl Scan {
    /// Does some of it. True if that was the last of it.
    pub(crate) fn step(&mut self, store: &Store) -> Result<bool> {
        match &mut self.stage {
            Stage::Begin => {
                store.caretaker.set_scan_need(ScanNeed::Running);
                store.caretaker.set_last_modified(store.directory_modified());
                self.began = now();
                self.since = store.index.partial_view()?.stamp().map_err(|error| store.index.failed(&error))?.written;
                let names = store.directories.evaluations.names().map_err(|error| store.index.failed(&error))?;
                self.stage = Stage::Files(Box::new(names));
            }
            Stage::Files(names) => {
                let names: Vec<String> = names.take(STEP).collect();
                if names.is_empty() {
                    self.stage = Stage::Rows(None);
                    return Ok(false);
                }
                let changes = self.read_files(store, &names)?;
                self.found += changes.len() as u64;
                store.index.count_scanned(names.len() as u64);
                let behind: Vec<_> =
                    changes.iter().map(|(id, _)| id).filter(|id| is_history_behind(store, id)).cloned().collect();
                store.caretaker.set_behind(!behind.is_empty());
                if !changes.is_empty() {
                    store.index.apply(Update { changes: &changes, behind: &behind, ..Update::default() })?;
                }
            }
            Stage::Rows(after) => {
                let (changes, last) = rows_without_files(store, after.as_deref())?;
                if !changes.is_empty() {
                    store.index.apply(Update { changes: &changes, ..Update::default() })?;
                }
                match last {
                    Some(last) => self.stage = Stage::Rows(Some(last)),
                    None => {
                        self.end(store)?;
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    fn read_files(&self, store: &Store, names: &[String]) -> Result<Vec<Change>> {
        let view = store.index.partial_view()?;
        let mut changes = Vec::new();
        for name in names {
            let Some(id) = name.strip_suffix(".json").filter(|id| is_valid_id(id)) else {
                if !name.starts_with('.') {
                    warn!(path = %store.directories.evaluations.path_of(name).display(), "not the file of an evaluation, left alone");
                }
                continue;
            };
            // The next checkpoint brings what is in memory.
            if store.pending.is_unwritten(id) || (self.is_known(store, &view, id)? && !self.is_changed(store, name)) {
                continue;
            }
            let row = match store.read_or_set_aside(id)? {
                Stored::Absent => continue,
                Stored::State(state) => Row::of(&state),
                Stored::Corrupt | Stored::Newer(_) => Row::of(&storage_plugin_api::State::new()),
            };
            changes.push((Arc::from(id), Some(row)));
        }
        Ok(changes)
    }

    fn is_known(&self, store: &Store, view: &View, id: &str) -> Result<bool> {
        Ok(view.row(id).map_err(|error| store.index.failed(&error))?.is_some())
    }

    fn is_changed(&self, store: &Store, name: &str) -> bool {
        let modified = std::fs::metadata(store.directories.evaluations.path_of(name)).and_then(|file| file.modified());
        modified.is_ok_and(|modified| nanoseconds(modified) > self.since)
    }

    fn end(&self, store: &Store) -> Result<()> {
        // What is set aside is still to be seen in lists.
        let view = store.index.partial_view()?;
        let mut changes: Vec<Change> = Vec::new();
        for id in store.corrupt_ids() {
            if !self.is_known(store, &view, &id)? {
                changes.push((id, Some(Row::of(&storage_plugin_api::State::new()))));
            }
        }
        drop(view);
        let was_whole = store.index.is_whole();
        store.index.set_whole();
        // Unless somebody put more files there meanwhile.
        let is_all = store.caretaker.scan_need() == ScanNeed::Running;
        let directory_modified = store.caretaker.last_modified().unwrap_or(0);
        let stamp = is_all.then_some(Stamp { directory_modified, written: self.began });
        store.index.apply(Update { changes: &changes, stamp, ..Update::default() })?;
        if is_all {
            store.caretaker.set_scan_need(ScanNeed::None);
        }
        if !was_whole || self.found > 0 {
            info!(files = self.found, rebuilt = !was_whole, "read record files into the index");
        }
        Ok(())
    }
}

/// True if the file of the history was not written after that of the record. That of an adopted record is left alone.
fn is_history_behind(store: &Store, id: &str) -> bool {
    let name = file_name(id);
    let modified = |directory: &Directory| std::fs::metadata(directory.path_of(&name))?.modified();
    let Ok(record) = modified(&store.directories.evaluations) else { return false };
    modified(&store.directories.events).map_or(true, |history| history < record) && store.has_own_file(id)
}

/// Rows of which there is no file any more, and where to go on.
fn rows_without_files(store: &Store, after: Option<&str>) -> Result<(Vec<Change>, Option<String>)> {
    let failed = |error: redb::Error| store.index.failed(&error);
    let view = store.index.partial_view()?;
    let mut changes = Vec::new();
    let mut last = None;
    for (index, row) in view.by_id(after).map_err(failed)?.take(STEP).enumerate() {
        let (id, _) = row.map_err(failed)?;
        let is_there = store.directories.evaluations.exists(&file_name(&id));
        if !is_there && !store.pending.is_unwritten(&id) && !store.is_corrupt(&id) {
            changes.push((Arc::from(&*id), None));
        }
        if index + 1 == STEP {
            last = Some(id);
        }
    }
    Ok((changes, last))
}
