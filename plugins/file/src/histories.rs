//! Catches up with the files of the histories that a checkpoint under load left behind.
//!
//! They are only for readers of the directory: the state has the history too. The index keeps which are behind, so that
//! neither a crash nor a restart forgets them.

use storage_plugin_api::{Record, Result};

use crate::directory::file_name;
use crate::index::Update;
use crate::record_file;
use crate::store::{Store, Stored};

/// Files written before they are synced, and the index is told.
const STEP: usize = 512;

impl Store {
    /// Writes some of them. False if there are none left.
    pub(crate) fn catch_up(&self) -> Result<bool> {
        let view = self.index.partial_view()?;
        let ids = view.behind(STEP).map_err(|error| self.index.failed(&error))?;
        drop(view);
        if ids.is_empty() {
            self.caretaker.set_caught_up();
            return Ok(false);
        }
        for id in &ids {
            // What is damaged or gone has no history to show.
            if let Ok(Ok(Stored::State(state))) = self.read_file(id) {
                let history = record_file::encode_history(&Record::of(id, &state).history);
                self.write_file(&self.directories.events, &file_name(id), &history)?;
            }
        }
        self.sync_directories()?;
        self.index.apply(Update { caught_up: &ids, ..Update::default() })?;
        Ok(true)
    }
}
