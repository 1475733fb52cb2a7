//! The backend: opens a database, hands the calls to the transactions and statements that answer them, and closes it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use storage_plugin_api::{
    Answer, Backend, BlobPage, Call, ChildDescription, Counts, Delete, Deleted, Description, Durability, Error,
    ErrorKind, Fields, Found, Health, Item, OpenBackend, Opening, Page, Prune, Pruned, Query, Result,
};
use tracing::info;

use crate::files::{Files, log_of, make_directory_of};
use crate::list::Place;
use crate::options::Options;
use crate::pool::Pool;
use crate::session::{self, Purpose, Session};
use crate::{blobs, failure, list, merge, prune, read};

/// Connections that read, beside the one that writes: readers do not wait for it, nor it for them.
const READERS: usize = 4;

/// How long `open` waits at once while another process makes the tables.
const OPEN_AGAIN: Duration = Duration::from_millis(20);

/// A failure that is not repeated for so long says nothing of the state of things any more. What waits is tried again
/// far more often.
const TROUBLE_LASTS: Duration = Duration::from_secs(60);

/// Evaluations in a SQLite database.
pub struct Sqlite {
    path: PathBuf,
    durability: Durability,
    read_only: bool,
    writer: Pool,
    readers: Pool,
    condition: Mutex<Condition>,
}

/// What `health` tells.
struct Condition {
    files: Files,
    /// Why nothing could be stored, and when that was.
    trouble: Option<(Instant, String)>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sqlite").field("path", &self.path).finish_non_exhaustive()
    }
}

impl OpenBackend for Sqlite {
    type Options = Options;

    fn check(options: &Options, _children: &[ChildDescription]) -> Description {
        options.describe()
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        let durability = options.durability();
        let path = std::path::absolute(&options.path).map_err(|cause| {
            Error::configuration(format_args!("`path` is `{}`: {cause}; give a whole one", options.path.display()))
        })?;
        if opening.read_only && !path.exists() {
            return Err(Error::configuration(format_args!(
                "nothing is stored in `{}`: it is not there",
                path.display()
            )));
        }
        if !opening.read_only {
            make_directory_of(&path).map_err(|cause| {
                let message =
                    format!("cannot make the directory of `{}`: {cause}; see that this user may", path.display());
                match cause.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::unavailable(message),
                    _ => Error::configuration(message),
                }
            })?;
        }
        let place = session::Place { path: path.clone(), synchronous: options.synchronous };
        let purpose = if opening.read_only { Purpose::Read } else { Purpose::Create };
        // Of a process that was killed, or of one that runs.
        let has_log = Files::of(&path).log_bytes() > 0;
        let first = open_patiently(&place, purpose, opening.deadline)?;
        if opening.read_only && has_log {
            first.leave_log().map_err(|cause| failure::of_database(&path, &cause))?;
        }
        // Only the first connection of a reader was told to leave the log, so it stays the only one.
        let (writing, reading, readers) =
            if opening.read_only { (None, Some(first), 1) } else { (Some(first), None, READERS) };
        let files = Files::of(&path);
        info!(path = %path.display(), bytes = files.database_bytes(), read_only = opening.read_only, "database opened");
        Ok(Self {
            path,
            durability,
            read_only: opening.read_only,
            writer: Pool::new(place.clone(), Purpose::Write, 1, writing),
            readers: Pool::new(place, Purpose::Read, readers, reading),
            condition: Mutex::new(Condition { files, trouble: None }),
        })
    }
}

impl Backend for Sqlite {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.write(call, |connection| merge::merge(connection, batch, self.durability, stop_of(call)))
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.read(call, |connection| read::get(connection, ids, fields))
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        let place = Place::of(query)?;
        self.read(call, |connection| list::page(connection, query, place.as_ref(), stop_of(call)))
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.read(call, read::counts)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.write(call, |connection| merge::delete(connection, items))
    }

    fn health(&self) -> Health {
        let condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let health = match &condition.trouble {
            Some((since, reason)) if since.elapsed() < TROUBLE_LASTS => Health::unhealthy(reason),
            _ => Health::healthy(),
        };
        health.with("database_bytes", condition.files.database_bytes()).with("log_bytes", condition.files.log_bytes())
    }

    fn flush(&self, _call: &Call) -> Result<()> {
        match self.durability {
            // Each commit was synced.
            Durability::Durable => Ok(()),
            // What is in the database already was synced on its way there. SQLite holds no lock on the log.
            Durability::Volatile => match File::open(log_of(&self.path)).and_then(|log| log.sync_data()) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::unavailable(format_args!(
                    "cannot sync `{}`: {cause}; look at the disk and the kernel's log",
                    log_of(&self.path).display()
                ))),
                _ => Ok(()),
            },
        }
    }

    /// The last connection of all processes brings the log into the database, and removes it.
    fn close(&self, _call: &Call) -> Result<()> {
        self.readers.close().and(self.writer.close())
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        if prune.dry_run {
            return self.read(call, |connection| prune::count(connection, prune));
        }
        prune::in_parts(
            prune,
            stop_of(call),
            |limit| self.write(call, |connection| prune::part(connection, prune.ended_before, limit)),
            || {
                self.read(call, |connection| prune::count(connection, &Prune { limit: 0, ..prune.clone() }))
                    .map(|left| left.more)
            },
        )
    }

    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        if key.is_empty() {
            return Err(Error::invalid_item("the key of a blob is empty"));
        }
        self.write(call, |connection| blobs::put(connection, key, bytes))
    }

    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.read(call, |connection| blobs::get(connection, key))
    }

    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.read(call, |connection| blobs::scan(connection, after, limit))
    }

    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.write(call, |connection| blobs::delete(connection, key, untouched_since))
    }
}

impl Sqlite {
    /// Runs statements that read.
    pub(crate) fn read<T>(&self, call: &Call, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let lease = self.readers.lend(call)?;
        work(&lease.connection).map_err(|cause| failure::of_database(&self.path, &cause))
    }

    /// Runs statements in a transaction of their own.
    pub(crate) fn write<T>(&self, call: &Call, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        if self.read_only {
            return Err(Error::configuration("the database was opened only to read"));
        }
        let done = self.transact(call, work);
        self.note(done.as_ref().err());
        done
    }

    fn transact<T>(&self, call: &Call, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let failed = |cause: rusqlite::Error| failure::of_database(&self.path, &cause);
        let mut lease = self.writer.lend(call)?;
        // Takes the right to write at once: it cannot be refused half-way.
        let transaction = lease.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let done = work(&transaction).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        let files = Files::of(&self.path);
        if !lease.is_in_place(&files) {
            return Err(Error::unavailable(format_args!(
                "the database `{}` was moved, replaced or removed while it was written to; put it back",
                self.path.display()
            )));
        }
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).files = files;
        Ok(done)
    }

    /// The connection that writes, for tests that change what it can do.
    #[cfg(test)]
    pub(crate) fn writer_session(&self) -> crate::pool::Lease<'_> {
        self.writer.lend(&Call::with_budget(Duration::from_secs(20))).expect("lent")
    }

    /// Remembers for `health` whether something could be stored. Somebody else's turn to write is no trouble.
    fn note(&self, error: Option<&Error>) {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => condition.trouble = None,
            Some(error) if error.kind == ErrorKind::Overloaded || error.kind == ErrorKind::InvalidItem => {}
            Some(error) => condition.trouble = Some((Instant::now(), error.message.clone())),
        }
    }
}

/// When work ends so that what was done can be answered in time: a quarter before the deadline.
fn stop_of(call: &Call) -> Instant {
    call.deadline.checked_sub(call.remaining() / 4).unwrap_or(call.deadline)
}

/// Opens the first connection. While another process makes the tables SQLite does not always wait by itself.
fn open_patiently(place: &session::Place, purpose: Purpose, deadline: Instant) -> Result<Session> {
    loop {
        match Session::open(place, purpose, deadline) {
            Err(error) if error.kind == ErrorKind::Overloaded && Instant::now() < deadline => {
                std::thread::sleep(OPEN_AGAIN);
            }
            opened => return opened,
        }
    }
}
