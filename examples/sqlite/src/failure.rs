//! What an error of SQLite means: its kind, which decides what happens next, and what the operator can do.

use std::path::Path;
use std::time::Duration;

use rusqlite::ErrorCode;
use storage_plugin_api::{Error, ErrorKind};

/// When it is worth trying again while another process writes.
const BUSY_AGAIN: Duration = Duration::from_millis(50);

/// What failed on the whole database.
pub(crate) fn of_database(path: &Path, cause: &rusqlite::Error) -> Error {
    let (kind, remedy) = meaning(cause);
    let error = Error::new(kind, format_args!("the database `{}`: {cause}; {remedy}", path.display()));
    if kind == ErrorKind::Overloaded { error.with_retry_after(BUSY_AGAIN) } else { error }
}

/// What failed on one item only, so that its neighbours can be stored; none if it is not known to be the item's fault.
pub(crate) fn of_item(id: &str, cause: &rusqlite::Error) -> Option<Error> {
    match cause.sqlite_error_code()? {
        ErrorCode::TooBig => Some(Error::invalid_item(format_args!(
            "the state of `{id}` is too large for SQLite, which stores up to 1 GB under one id"
        ))),
        // There is none of ours that an item can break.
        ErrorCode::ConstraintViolation => Some(Error::configuration(format_args!(
            "a constraint or trigger that somebody added to the database refuses `{id}`: {cause}"
        ))),
        _ => None,
    }
}

fn meaning(cause: &rusqlite::Error) -> (ErrorKind, &'static str) {
    let Some(code) = cause.sqlite_error_code() else {
        return (ErrorKind::Internal, "this is a defect of the plugin `sqlite`");
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            (ErrorKind::Overloaded, "another process writes to it for long; it is tried again")
        }
        ErrorCode::OutOfMemory => (ErrorKind::Overloaded, "the machine has no memory left"),
        ErrorCode::OperationInterrupted | ErrorCode::OperationAborted => (
            ErrorKind::Unavailable,
            "it was not done within the time of the call; the disk is slow, or the batch large",
        ),
        ErrorCode::DiskFull => (ErrorKind::Unavailable, "make room, it goes on by itself"),
        ErrorCode::SystemIoFailure | ErrorCode::NoLargeFileSupport | ErrorCode::NotFound => {
            (ErrorKind::Unavailable, "look at the disk and the kernel's log")
        }
        ErrorCode::CannotOpen => {
            (ErrorKind::Configuration, "see that the directory of `path` is there and this user may write to it")
        }
        ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::AuthorizationForStatementDenied => (
            ErrorKind::Configuration,
            "make the file, its directory, and the files `-wal` and `-shm` beside it writable for this user",
        ),
        ErrorCode::NotADatabase => {
            (ErrorKind::Configuration, "it is no SQLite database; give another `path`, or move the file away")
        }
        ErrorCode::DatabaseCorrupt => (
            ErrorKind::Configuration,
            "it is damaged; stop the worker, then restore a backup or try `sqlite3 <path> .recover`",
        ),
        // Somebody changed its tables.
        ErrorCode::Unknown | ErrorCode::SchemaChanged => {
            (ErrorKind::Configuration, "its tables are not those of the plugin `sqlite`; restore a backup")
        }
        _ => (ErrorKind::Internal, "this is a defect of the plugin `sqlite`"),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn the_kind_follows_the_code() {
        for (code, kind) in [
            (ffi::SQLITE_BUSY, ErrorKind::Overloaded),
            (ffi::SQLITE_BUSY_RECOVERY, ErrorKind::Overloaded),
            (ffi::SQLITE_LOCKED_SHAREDCACHE, ErrorKind::Overloaded),
            (ffi::SQLITE_FULL, ErrorKind::Unavailable),
            (ffi::SQLITE_IOERR_FSYNC, ErrorKind::Unavailable),
            (ffi::SQLITE_INTERRUPT, ErrorKind::Unavailable),
            (ffi::SQLITE_CANTOPEN, ErrorKind::Configuration),
            (ffi::SQLITE_READONLY_DIRECTORY, ErrorKind::Configuration),
            (ffi::SQLITE_NOTADB, ErrorKind::Configuration),
            (ffi::SQLITE_CORRUPT_INDEX, ErrorKind::Configuration),
            (ffi::SQLITE_ERROR, ErrorKind::Configuration),
            (ffi::SQLITE_MISUSE, ErrorKind::Internal),
        ] {
            let cause = rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("what it says".to_owned()));

            let error = of_database(Path::new("/data/a.db"), &cause);

            assert_eq!(error.kind, kind, "{code}: {error}");
            assert!(error.message.starts_with("the database `/data/a.db`: what it says; "), "{error}");
            assert_eq!(error.retry_after.is_some(), kind == ErrorKind::Overloaded);
        }
    }

    #[test]
    fn only_what_an_item_is_guilty_of_is_its_own() {
        let of_item = |code| of_item("a", &rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));

        assert_eq!(of_item(ffi::SQLITE_TOOBIG).map(|error| error.kind), Some(ErrorKind::InvalidItem));
        assert_eq!(of_item(ffi::SQLITE_CONSTRAINT_TRIGGER).map(|error| error.kind), Some(ErrorKind::Configuration));
        assert_eq!(of_item(ffi::SQLITE_FULL), None);
        assert_eq!(of_item(ffi::SQLITE_CORRUPT), None);
    }
}
