//! A connection to the database that gives up at the deadline of the call that it works for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use storage_plugin_api::Result;

use crate::failure;
use crate::files::Files;
use crate::options::Synchronous;
use crate::schema;

/// Steps of SQLite's machine between two looks at the clock; far below a millisecond.
const STEPS: i32 = 2000;

/// How long one waits at once for another process that writes.
const BUSY_WAIT: Duration = Duration::from_millis(1);

/// Pages of the log that begin a checkpoint: 16 MiB, so that a page which changes often is written back seldom.
const CHECKPOINT_PAGES: i32 = 2048;

/// The log is cut to this after a burst, in bytes.
const LOG_BYTES: i64 = 64 << 20;

/// KiB of pages that are kept in memory, by the writer and by each reader.
const WRITER_CACHE: i32 = 8192;
const READER_CACHE: i32 = 2048;

/// Where a database is, and how it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Absolute, so that no part of it has a meaning for SQLite.
    pub(crate) path: PathBuf,
    pub(crate) synchronous: Synchronous,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To write to a database that may have to be made first.
    Create,
    /// To write to one that is there.
    Write,
    /// To read.
    Read,
}

/// An open connection.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    deadline: Arc<Deadline>,
    files: Files,
}

impl Session {
    /// Opens a connection; its tables are there and of our version.
    ///
    /// # Errors
    /// `Configuration` for what is not a database of ours, or cannot be opened by this user.
    pub(crate) fn open(place: &Place, purpose: Purpose, deadline: Instant) -> Result<Self> {
        let path = &place.path;
        let failed = |cause: rusqlite::Error| failure::of_database(path, &cause);
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, purpose == Purpose::Create);
        let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        let until = Arc::new(Deadline::at(deadline));
        until.watch(&mut connection).map_err(failed)?;
        configure(&connection, place.synchronous, purpose).map_err(failed)?;
        match purpose {
            Purpose::Create | Purpose::Write => schema::prepare(&mut connection, path)?,
            Purpose::Read => schema::check(&connection, path)?,
        }
        Ok(Self { connection, deadline: until, files: Files::of(path) })
    }

    /// Until when the next statements may take.
    pub(crate) fn give_until(&self, deadline: Instant) {
        self.deadline.set(deadline);
    }

    /// True if the files that are open are those that have the names now.
    pub(crate) fn is_in_place(&self, now: &Files) -> bool {
        self.files.are_those_of(now)
    }

    /// Leaves the log to the next process, which an earlier one did not live to bring into the database.
    pub(crate) fn leave_log(&self) -> rusqlite::Result<()> {
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
    }
}

fn configure(connection: &Connection, synchronous: Synchronous, purpose: Purpose) -> rusqlite::Result<()> {
    let set = |name, value: i64| connection.pragma_update(None, name, value);
    // What is in a database cannot make SQLite run anything but what it must.
    set("trusted_schema", 0)?;
    if purpose == Purpose::Read {
        set("cache_size", -i64::from(READER_CACHE))?;
        return set("query_only", 1);
    }
    let level = match synchronous {
        Synchronous::Full => "full",
        Synchronous::Normal => "normal",
    };
    connection.pragma_update(None, "synchronous", level)?;
    // A sync that reaches the disk on macOS too.
    set("fullfsync", 1)?;
    set("checkpoint_fullfsync", 1)?;
    set("cache_size", -i64::from(WRITER_CACHE))?;
    let checked = |name, value| connection.pragma_update_and_check(None, name, value, |_| Ok(()));
    checked("wal_autocheckpoint", i64::from(CHECKPOINT_PAGES))?;
    checked("journal_size_limit", LOG_BYTES)
}

/// A time that is shared with what SQLite calls while it works.
struct Deadline {
    start: Instant,
    /// Behind `start`.
    microseconds: AtomicU64,
}

impl Deadline {
    fn at(deadline: Instant) -> Self {
        let new = Self { start: Instant::now(), microseconds: AtomicU64::new(0) };
        new.set(deadline);
        new
    }

    fn set(&self, deadline: Instant) {
        let left = deadline.saturating_duration_since(self.start).as_micros();
        self.microseconds.store(u64::try_from(left).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn has_passed(&self) -> bool {
        self.start.elapsed() >= Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }

    /// Ends what a connection does at this time, waiting for others included.
    fn watch(self: &Arc<Self>, connection: &mut Connection) -> rusqlite::Result<()> {
        let (working, waiting) = (Arc::clone(self), Arc::clone(self));
        connection.progress_handler(STEPS, Some(move || working.has_passed()))?;
        // Evenly and often: a process that has just written writes again soon, and the gap in between is short.
        connection.busy_handler(Some(move |_| {
            std::thread::sleep(BUSY_WAIT);
            !waiting.has_passed()
        }))
    }
}
