//! The tables: what they are, how a new database gets them, and which databases are refused.
//!
//! A change of them is one more entry of [`MIGRATIONS`], never a change of an old one.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};
use storage_plugin_api::{Error, Result};

use crate::failure;

/// In the header of every database of ours: "evst".
const APPLICATION_ID: i64 = 0x6576_7374;

/// What makes of version n the version n + 1; version 0 is an empty database.
const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

/// The version that this plugin writes, and the newest that it reads.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Makes the tables of a new database, or brings those of an older version up to date, in one transaction.
///
/// # Errors
/// `Configuration` for a database of another program or of a newer version, which stays as it is.
pub(crate) fn prepare(connection: &mut Connection, path: &Path) -> Result<()> {
    let failed = |cause: rusqlite::Error| failure::of_database(path, &cause);
    // Before anything is written: what is not ours is left alone.
    if version(connection, path)? == 0 {
        // Rows of one to three KB fill pages of 4 KB badly.
        connection.pragma_update(None, "page_size", 8192).map_err(failed)?;
    }
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::configuration(format_args!(
            "the database `{}` stays in the journal mode `{mode}`: its file system cannot share memory; give a `path` \
             on a local disk",
            path.display()
        )));
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    // Again, since another process may have been faster.
    let found = version(&transaction, path)?;
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        tracing::info!(path = %path.display(), from = found, to = version, "database migrated");
    }
    transaction.commit().map_err(failed)
}

/// Checks that a database can be read as it is.
///
/// # Errors
/// `Configuration` for what only [`prepare`] would make readable, and for what it refuses.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<()> {
    match version(connection, path)? {
        VERSION => Ok(()),
        0 => Err(Error::configuration(format_args!("nothing is stored in `{}`: it is empty", path.display()))),
        older => Err(Error::configuration(format_args!(
            "the database `{}` is of version {older}, this plugin reads version {VERSION}; start the worker once, \
             which migrates it",
            path.display()
        ))),
    }
}

/// The version of a database of ours; 0 if it is empty.
fn version(connection: &Connection, path: &Path) -> Result<i64> {
    let failed = |cause: rusqlite::Error| failure::of_database(path, &cause);
    // One statement, so one moment: another process may be making the tables.
    let (tables, application, version) = connection
        .query_row(
            "SELECT (SELECT count(*) FROM sqlite_schema), application_id, user_version
             FROM pragma_application_id, pragma_user_version",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)),
        )
        .map_err(failed)?;
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(Error::configuration(format_args!(
            "the database `{}` belongs to another program (its application id is {application:#010x}); give another \
             `path`",
            path.display()
        )));
    }
    if version > VERSION {
        return Err(Error::configuration(format_args!(
            "the database `{}` is of version {version}, this plugin knows up to {VERSION}; use a newer plugin",
            path.display()
        )));
    }
    Ok(version)
}
