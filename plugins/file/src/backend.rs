//! The backend: opens a store, hands it the calls, and ends it.
//!
//! Opening replays the log that an earlier process left; `store.rs` has the calls, `caretaker.rs` the thread.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use storage_plugin_api::{
    Answer, Backend, BlobPage, Call, ChildDescription, Counts, Delete, Deleted, Description, Durability, Error,
    ErrorKind, Fields, Found, Health, Item, OpenBackend, Opening, Page, Prune, Pruned, Query, Result,
};
use tracing::{error, info};

use crate::blobs::Blobs;
use crate::caretaker::ScanNeed;
use crate::directory::{Directories, create_durably, is_valid_id};
use crate::entry::Entry;
use crate::log::{Log, remedy};
use crate::options::{Options, Sync};
use crate::replay::replay;
use crate::scan::Scan;
use crate::segment::{self, OldSegment};
use crate::shared_index::SharedIndex;
use crate::store::{Limits, Store};

/// How long `open` waits for a process that is about to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long `open` reads files for an index that is not whole, before the rest is left to the background.
const SCAN_PATIENCE: Duration = Duration::from_millis(300);

/// Enough that the disk is busy and a lifecycle's events meet in memory, and little beside a worker's other memory.
const LIMITS: Limits = Limits { max_unwritten_bytes: 20 * 1024 * 1024, max_cached_bytes: 4 * 1024 * 1024 };

/// Evaluations in files.
pub struct FileBackend {
    store: Arc<Store>,
    caretaker: Mutex<Option<JoinHandle<()>>>,
    blob_lock: Mutex<()>,
    /// Held as long as the directory is in use.
    lock: Mutex<Option<File>>,
}

impl std::fmt::Debug for FileBackend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileBackend").field("path", &self.store.directories.root).finish_non_exhaustive()
    }
}

impl OpenBackend for FileBackend {
    type Options = Options;

    fn check(options: &Options, _children: &[ChildDescription]) -> Description {
        options.describe()
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        if opening.read_only && !options.path.join("evaluations").is_dir() {
            return Err(Error::configuration(format_args!("nothing is stored in `{}`", options.path.display())));
        }
        let (store, lock) = open_store(&options, opening.deadline, LIMITS)?;
        let patience = Instant::now() + SCAN_PATIENCE;
        let store = Arc::new(store);
        scan_until(&store, patience.min(opening.deadline))?;
        let with_thread = Arc::clone(&store);
        let caretaker = opening
            .host
            .spawn("file-caretaker", move || with_thread.take_care())
            .map_err(|cause| Error::unavailable(format_args!("cannot start a thread: {cause}")))?;
        Ok(Self {
            store,
            caretaker: Mutex::new(Some(caretaker)),
            blob_lock: Mutex::new(()),
            lock: Mutex::new(Some(lock)),
        })
    }
}

impl Backend for FileBackend {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.store.merge(call, batch)
    }

    fn get(&self, _call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.store.get(ids, fields)
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.store.list(call, query)
    }

    fn counts(&self, _call: &Call) -> Result<Counts> {
        self.store.counts()
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.store.delete(call, items)
    }

    fn health(&self) -> Health {
        let store = &self.store;
        let health = match store.log.failure().or_else(|| store.caretaker.failure()) {
            Some(reason) => Health::unhealthy(reason),
            None => Health::healthy(),
        };
        health
            .with("unwritten_bytes", store.pending.unwritten())
            .with("damaged_files", store.corrupt_ids().len())
            .with("index_whole", store.index.is_whole())
            .with("histories_behind", store.caretaker.is_behind())
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.store.flush(call)
    }

    fn close(&self, call: &Call) -> Result<()> {
        let flushed = self.store.flush(call);
        self.end();
        flushed
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.store.prune(call, prune)
    }

    fn put_blob(&self, _call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.blobs().put(key, bytes)
    }

    fn get_blob(&self, _call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.blobs().get(key)
    }

    fn scan_blobs(&self, _call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.blobs().scan(after, limit)
    }

    fn delete_blob(&self, _call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.blobs().delete(key, untouched_since)
    }
}

impl FileBackend {
    fn blobs(&self) -> Blobs<'_> {
        Blobs {
            directory: &self.store.directories.blobs,
            lock: &self.blob_lock,
            sync: self.store.durability == Durability::Durable,
        }
    }

    /// Stops the thread and lets go of the directory.
    fn end(&self) {
        self.store.caretaker.stop();
        let caretaker = self.caretaker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if caretaker.is_some_and(|caretaker| caretaker.join().is_err()) {
            error!("the thread that writes the record files has panicked; what it did not write is in the log");
        }
        self.store.log.finish(self.store.caretaker.covered());
        self.store.index.close();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for FileBackend {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens the store of a directory, everything of its log in memory, and the lock that goes with it.
pub(crate) fn open_store(options: &Options, deadline: Instant, limits: Limits) -> Result<(Store, File)> {
    let path = &options.path;
    let failed = |cause: io::Error| {
        let message = format!("cannot open the directory `{}`: {cause}; {}", path.display(), remedy(&cause));
        match cause.kind() {
            // Passes without a change of the configuration.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::unavailable(message),
            _ => Error::configuration(message),
        }
    };
    create_durably(path).map_err(failed)?;
    let lock = lock(path, deadline)?;
    let directories = Directories::open(path).map_err(failed)?;
    let durability = match options.sync {
        Sync::Batch => Durability::Durable,
        Sync::None => Durability::Volatile,
    };
    let old = segment::list(&directories.log()).map_err(failed)?;
    let log = Log::open(directories.log(), options.sync == Sync::Batch, &old).map_err(failed)?;
    let index = SharedIndex::open(directories.index())?;
    let store = Store::new(directories, log, index, limits, durability).map_err(failed)?;
    // Before the log is replayed: its checkpoints must not make the index look as if it knew files it never saw.
    let view = store.index.partial_view()?;
    let stamp = view.stamp().map_err(|error| store.index.failed(&error))?;
    store.caretaker.set_behind(!view.behind(1).map_err(|error| store.index.failed(&error))?.is_empty());
    drop(view);
    let modified = store.directory_modified();
    store.caretaker.set_last_modified(modified);
    if !store.index.is_whole() || stamp.directory_modified != modified {
        store.caretaker.set_scan_need(ScanNeed::Wanted);
    }
    replay_log(&store, &old)?;
    Ok((store, lock))
}

/// Takes the directory for this process.
fn lock(path: &Path, deadline: Instant) -> Result<File> {
    let lock_path = path.join("lock");
    let failed = |cause: io::Error| {
        Error::configuration(format_args!("cannot lock the directory by `{}`: {cause}", lock_path.display()))
    };
    let file = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(failed)?;
    let give_up = deadline.min(Instant::now() + LOCK_PATIENCE);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::configuration(format_args!(
                    "the directory `{}` is in use by another process, which holds `{}`; stop it, or give another `path`",
                    path.display(),
                    lock_path.display()
                )));
            }
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
    }
}

/// Brings what an earlier process had not yet written to the files back into memory.
fn replay_log(store: &Store, old: &[OldSegment]) -> Result<()> {
    let mut entries = 0;
    for segment in old {
        let failed = |cause: io::Error| {
            Error::configuration(format_args!("cannot read the log `{}`: {cause}", segment.path.display()))
        };
        entries += replay(segment, |entry| replay_entry(store, entry)).map_err(failed)?;
        if store.pending.is_filling() {
            store.checkpoint(segment.end)?;
        }
    }
    if entries > 0 {
        info!(entries, segments = old.len(), "replayed the log of an earlier process");
    }
    Ok(())
}

fn replay_entry(store: &Store, entry: &Entry) -> io::Result<()> {
    match entry {
        Entry::Merge { id, .. } | Entry::Delete { id } if !is_valid_id(id) => {
            error!(id, "an entry of the log has an id that cannot be, left out");
        }
        Entry::Merge { id, state } => match store.replay_merge(id, state) {
            Err(error) if error.kind == ErrorKind::Configuration => {
                error!(id, %error, "an entry of the log cannot be merged, left out");
            }
            outcome => outcome.map_err(io::Error::other)?,
        },
        Entry::Delete { id } => store.apply_delete(id),
    }
    Ok(())
}

/// Fills an index that is not whole as far as there is time: lists are refused until it is.
fn scan_until(store: &Store, deadline: Instant) -> Result<()> {
    if store.index.is_whole() {
        return Ok(());
    }
    let mut scan = Scan::default();
    while Instant::now() < deadline {
        if scan.step(store)? {
            return Ok(());
        }
    }
    // From the beginning, but what is found already is in the index.
    store.caretaker.set_scan_need(ScanNeed::Wanted);
    Ok(())
}
