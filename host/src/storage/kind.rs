//! The calls of a backend, and what each answer shows of it: that it is there, that it is away, or nothing.

use storage_plugin_api::{Answer, Deleted, Error, ErrorKind, Outcome};

use super::breaker::Sign;

/// One of the calls, and what its failure says.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Its callers do not choose how much it costs, so that its failure says something of the backend.
    pub(crate) tells: bool,
    /// It changes nothing. A store that cannot be written to, say on a full disk, may well be read.
    pub(crate) reads: bool,
    /// `Configuration` means that the operator must act, not that the caller asked for too much.
    pub(crate) alarms: bool,
}

impl Kind {
    /// What its circuit breaker is called in logs.
    pub(crate) fn path(self) -> &'static str {
        if self.reads { "reads" } else { "writes" }
    }
}

pub(crate) const MERGE: Kind = Kind { name: "merge", tells: true, reads: false, alarms: true };
pub(crate) const GET: Kind = Kind { name: "get", tells: true, reads: true, alarms: false };
pub(crate) const LIST: Kind = Kind { name: "list", tells: false, reads: true, alarms: false };
pub(crate) const COUNTS: Kind = Kind { name: "counts", tells: false, reads: true, alarms: false };
pub(crate) const DELETE: Kind = Kind { name: "delete", tells: true, reads: false, alarms: true };
pub(crate) const FLUSH: Kind = Kind { name: "flush", tells: true, reads: false, alarms: true };
pub(crate) const PRUNE: Kind = Kind { name: "prune", tells: false, reads: false, alarms: false };
pub(crate) const PUT_BLOB: Kind = Kind { name: "put_blob", tells: true, reads: false, alarms: false };
pub(crate) const GET_BLOB: Kind = Kind { name: "get_blob", tells: true, reads: true, alarms: false };
pub(crate) const SCAN_BLOBS: Kind = Kind { name: "scan_blobs", tells: false, reads: true, alarms: false };
pub(crate) const DELETE_BLOB: Kind = Kind { name: "delete_blob", tells: true, reads: false, alarms: false };

/// Any answer at all.
pub(crate) fn alive<T>(_: &T) -> Sign<'_> {
    Sign::Alive
}

/// Any answer at all to a call about something.
pub(crate) fn sign_of_found<T>(found: &[T]) -> Sign<'_> {
    if found.is_empty() { Sign::Nothing } else { Sign::Alive }
}

/// A backend that rejects every item as unavailable is away, in another way of saying so.
pub(crate) fn sign_of_answers(answers: &[Answer]) -> Sign<'_> {
    let away = |answer: &Answer| matches!(&answer.outcome, Outcome::Rejected(error) if is_away(error));
    match answers.first().map(|answer| &answer.outcome) {
        Some(Outcome::Rejected(error)) if answers.iter().all(away) => Sign::Away(&error.message),
        Some(_) => Sign::Alive,
        // It was asked for nothing, which may never have reached its store.
        None => Sign::Nothing,
    }
}

/// The same of a delete.
pub(crate) fn sign_of_deletes(answers: &[Deleted]) -> Sign<'_> {
    let away = |answer: &Deleted| matches!(answer, Deleted::Failed(error) if is_away(error));
    match answers.first() {
        Some(Deleted::Failed(error)) if answers.iter().all(away) => Sign::Away(&error.message),
        Some(_) => Sign::Alive,
        // It was asked for nothing, which may never have reached its store.
        None => Sign::Nothing,
    }
}

/// A failed call.
pub(crate) fn sign_of_error(kind: Kind, error: &Error) -> Sign<'_> {
    match error.kind {
        ErrorKind::Unavailable if kind.tells => Sign::Away(&error.message),
        // While running this is an outage that the operator must end.
        ErrorKind::Configuration if kind.alarms => Sign::Away(&error.message),
        ErrorKind::Unavailable | ErrorKind::Configuration => Sign::Nothing,
        ErrorKind::Overloaded | ErrorKind::InvalidItem => Sign::Alive,
        ErrorKind::Internal => Sign::Nothing,
    }
}

fn is_away(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Configuration)
}
