//! What PostgreSQL's errors mean for what happens next, by SQLSTATE.
//!
//! The classes are those of the manual's appendix A. `merge.rs` retries and bisects as [`Failure`] says.

use deadpool_postgres::PoolError;
use storage_plugin_api::{Error, ErrorKind};
use tokio_postgres::error::{DbError, SqlState};

use crate::state_form::FormError;

/// Why a statement failed, and what may help.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another transaction was in the way: the same again may succeed at once.
    Conflict(Error),
    /// Something in what was sent cannot be stored: what else was sent with it can.
    Data(Error),
    /// What the error says.
    Other(Error),
}

impl Failure {
    /// The error for the caller, when nothing was done about it.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Conflict(error) | Self::Data(error) | Self::Other(error) => error,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.into_error()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(database) => of_database(database),
            // A value that cannot be written as the type of its parameter would be our defect; all else is the line.
            None if error.is_closed() => Self::Other(Error::unavailable("the connection to PostgreSQL was closed")),
            None => Self::Other(Error::unavailable(format_args!("PostgreSQL: {}", chain(&error)))),
        }
    }
}

/// Why there is no connection to a target.
pub(crate) fn no_connection(error: &PoolError, target: &str) -> Failure {
    let other = match error {
        PoolError::Backend(error) => return Failure::Other(on_connect(error, target)),
        PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
            return Failure::Other(Error::overloaded("every connection to PostgreSQL is in use; raise `connections`"));
        }
        PoolError::Timeout(_) => "it did not answer in time".to_owned(),
        other => other.to_string(),
    };
    Failure::Other(Error::unavailable(format_args!("cannot connect to {target}: {other}")))
}

/// What an error while connecting means: a refused password or a missing role may be right tomorrow, while a database that
/// is not there, a right to it that is missing, or a setting in `options` that does not exist are for somebody to mend.
fn on_connect(error: &tokio_postgres::Error, target: &str) -> Error {
    let Some(database) = error.as_db_error() else {
        // What tokio-postgres calls it says less than its cause.
        let cause = match std::error::Error::source(error) {
            Some(cause) => chain(cause),
            None => error.to_string(),
        };
        return Error::unavailable(format_args!("cannot connect to {target}: {cause}"));
    };
    let text = format!("PostgreSQL refuses a connection to {target}: {}", describe(database));
    if *database.code() == SqlState::INVALID_CATALOG_NAME {
        return Error::configuration(format_args!("{text}; create the database, or name another one"));
    }
    if *database.code() == SqlState::INSUFFICIENT_PRIVILEGE {
        return Error::configuration(format_args!("{text}; the rights that a role needs are in docs/postgres.md"));
    }
    if database.code().code().starts_with("42") || *database.code() == SqlState::INVALID_PARAMETER_VALUE {
        return Error::configuration(format_args!("{text}; correct what the URL sets"));
    }
    Error::unavailable(text)
}

fn of_database(error: &DbError) -> Failure {
    let code = error.code();
    let text = describe(error);
    if [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE, SqlState::LOCK_NOT_AVAILABLE]
        .contains(code)
        || (*code == SqlState::FEATURE_NOT_SUPPORTED && error.message().contains("cached plan"))
    {
        return Failure::Conflict(Error::unavailable(text));
    }
    if [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(code) {
        return Failure::Other(Error::configuration(format_args!(
            "{text}; behind a pooler in transaction mode set `prepared_statements = false`"
        )));
    }
    if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        return Failure::Other(Error::configuration(format_args!(
            "{text}; the rights that a role needs are in docs/postgres.md"
        )));
    }
    let kind = match &code.code()[..2] {
        "22" | "54" => return Failure::Data(Error::invalid_item(text)),
        // A constraint that somebody added. It may be taken away again, so nothing is given up.
        "23" | "44" => {
            return Failure::Data(Error::configuration(format_args!("{text}; the table must not restrict more")));
        }
        "53" if *code == SqlState::TOO_MANY_CONNECTIONS => ErrorKind::Unavailable,
        "53" => ErrorKind::Overloaded,
        "42" | "3D" | "3F" | "0A" | "28" => ErrorKind::Configuration,
        // Connections, shutdowns, a standby that only reads, time-outs, and what is broken inside of the server: an outage.
        _ => ErrorKind::Unavailable,
    };
    Failure::Other(Error::new(kind, text))
}

fn describe(error: &DbError) -> String {
    let code = error.code().code();
    match error.detail() {
        // The detail of an error in data shows the data.
        Some(detail) if !["22", "23", "44"].contains(&&code[..2]) => format!("{} ({detail}; {code})", error.message()),
        _ => format!("{} ({code})", error.message()),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What a column `state` that cannot be read means.
pub(crate) fn unreadable(id: &str, error: &FormError) -> Error {
    match error {
        FormError::Newer(format) => Error::configuration(format_args!(
            "the state of `{id}` is stored in format {format}, which this version does not know; use a newer one"
        )),
        FormError::Malformed => Error::internal(format_args!("the column `state` of `{id}` cannot be read")),
    }
}
