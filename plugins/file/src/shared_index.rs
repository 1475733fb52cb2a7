//! The index as everybody uses it: opened again after a failure, made anew when it is damaged, refused while it is not whole.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use storage_plugin_api::{Error, Result};
use tracing::warn;

use crate::index::{Index, Update, View};

/// The index of a store.
pub(crate) struct SharedIndex {
    path: PathBuf,
    current: RwLock<Option<Arc<Index>>>,
    /// False while a scan fills it.
    whole: AtomicBool,
    /// How many files the scan has looked at.
    scanned: AtomicU64,
}

impl SharedIndex {
    /// Opens the index of a path. A damaged one is removed, and an empty one takes its place.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let index =
            Self { path, current: RwLock::new(None), whole: AtomicBool::new(false), scanned: AtomicU64::new(0) };
        index.reopen()?;
        Ok(index)
    }

    /// A view of the whole index.
    pub(crate) fn view(&self) -> Result<View> {
        if !self.is_whole() {
            return Err(Error::unavailable(format_args!(
                "the index of the record files is being made anew, {} files are read so far; try again later",
                self.scanned.load(Ordering::Relaxed)
            )));
        }
        self.partial_view()
    }

    /// A view of what there is of the index.
    pub(crate) fn partial_view(&self) -> Result<View> {
        self.current()?.view().map_err(|error| self.failed(&error))
    }

    /// See [`Index::apply`]. The index is opened again by itself after a failure.
    pub(crate) fn apply(&self, update: Update<'_>) -> Result<()> {
        let current = match self.current() {
            Ok(current) => current,
            Err(_) => {
                self.reopen()?;
                self.current()?
            }
        };
        current.apply(&Update { whole: self.is_whole(), ..update }).map_err(|error| {
            // After a failure the database refuses everything until it is opened again.
            self.close();
            self.failed(&error)
        })
    }

    /// Says that every file is in the index now.
    pub(crate) fn set_whole(&self) {
        self.whole.store(true, Ordering::Release);
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    pub(crate) fn count_scanned(&self, files: u64) {
        self.scanned.fetch_add(files, Ordering::Relaxed);
    }

    /// Frees the file. Whoever still reads goes on reading.
    pub(crate) fn close(&self) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn reopen(&self) -> Result<()> {
        let (index, is_whole) = match Index::open(&self.path) {
            Ok(opened) => opened,
            Err(error) if is_damaged(&error) => {
                warn!(path = %self.path.display(), %error, "the index is damaged and will be made anew from the files");
                std::fs::remove_file(&self.path)
                    .map_err(|cause| self.failed(&format_args!("{error}; it cannot be removed: {cause}")))?;
                Index::open(&self.path).map_err(|error| self.failed(&error))?
            }
            Err(error) => return Err(self.failed(&error)),
        };
        self.whole.store(is_whole, Ordering::Release);
        self.scanned.store(0, Ordering::Relaxed);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(index));
        Ok(())
    }

    fn current(&self) -> Result<Arc<Index>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.ok_or_else(|| self.failed(&"it failed and is not open again yet"))
    }

    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) -> Error {
        Error::unavailable(format_args!("cannot use the index `{}`: {error}", self.path.display()))
    }
}

/// True if making the index anew helps; false if it cannot be reached.
fn is_damaged(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(cause) => {
            matches!(cause.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        redb::Error::DatabaseAlreadyOpen | redb::Error::PreviousIo => false,
        _ => true,
    }
}
