//! Reading from a tree as people do: a record, a page of records, a history, figures.
//!
//! The HTTP listeners and the commands read through the same functions, so that they give the same answers.

use serde::Serialize;
use storage_plugin_api::{
    Backend, Call, Capabilities, Error, ErrorKind, Fields, HistoryEntry, Order, Query, Record, Status,
};

/// The record of an evaluation.
#[derive(Debug, Serialize)]
pub struct Evaluation {
    /// What is seen of it.
    #[serde(flatten)]
    pub record: Record,
    /// Only a part of what is stored could be seen; left out if all was.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

/// Which records a page shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Only of this status.
    pub status: Option<Status>,
    /// Only of this language.
    pub language: Option<String>,
    /// Only created at this time or later, in microseconds.
    pub since: Option<i64>,
    /// At most so many.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// A page of records, without code, output and error.
#[derive(Debug, Serialize)]
pub struct Evaluations {
    /// Newest first, or by id if the backend cannot list otherwise.
    pub evaluations: Vec<Evaluation>,
    /// Where the next page begins; none behind the last one.
    pub next_cursor: Option<String>,
}

/// Figures about everything that is stored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// How many evaluations there are.
    pub total_evaluations: u64,
    /// How many there are in each status; one that is not named has none.
    pub by_status: std::collections::BTreeMap<String, u64>,
    /// The share of completed ones in those that ended; none while none has.
    pub success_rate: Option<f64>,
    /// How old these figures may be.
    pub age_seconds: u64,
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The backend cannot do that at all.
    #[error("the storage backend does not offer {0}")]
    NotOffered(&'static str),
    /// The cursor is not one that the backend gave.
    #[error("`cursor` is none that this storage gave: {0}")]
    Cursor(String),
    /// The backend failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// Reads a record; none if nothing is stored under the id.
///
/// # Errors
/// Those of the backend.
pub fn evaluation(root: &dyn Backend, call: &Call, id: &str) -> Result<Option<Evaluation>, ReadError> {
    let found = root.get(call, &[id], Fields::Whole)?.pop().flatten();
    Ok(found.map(|found| Evaluation { record: Record::of(id, &found.state), incomplete: found.incomplete }))
}

/// Reads the history of an evaluation, oldest first; none if nothing is stored under the id.
///
/// # Errors
/// Those of the backend.
pub fn events(root: &dyn Backend, call: &Call, id: &str) -> Result<Option<Vec<HistoryEntry>>, ReadError> {
    let found = root.get(call, &[id], Fields::WithoutBodies)?.pop().flatten();
    Ok(found.map(|found| Record::of(id, &found.state).history))
}

/// Reads a page of records.
///
/// # Errors
/// For a cursor that the backend does not take, and those of the backend.
pub fn page(
    root: &dyn Backend,
    capabilities: &Capabilities,
    call: &Call,
    request: PageRequest,
) -> Result<Evaluations, ReadError> {
    let order = match (capabilities.list_by_created, capabilities.list_by_id) {
        (true, _) => Order::NewestFirst,
        (false, true) => Order::Id,
        (false, false) => return Err(ReadError::NotOffered("lists")),
    };
    let with_cursor = request.cursor.is_some();
    let query = Query {
        order,
        fields: Fields::WithoutBodies,
        status: request.status.map(|status| status.as_str().to_owned()),
        language: request.language,
        since: request.since,
        until: None,
        limit: request.limit,
        cursor: request.cursor,
    };
    let page = root.list(call, &query).map_err(|error| match error.kind {
        ErrorKind::Configuration if with_cursor => ReadError::Cursor(error.message),
        _ => ReadError::Storage(error),
    })?;
    let evaluation = |(id, found): (String, storage_plugin_api::Found)| Evaluation {
        record: Record::of(&id, &found.state),
        incomplete: found.incomplete,
    };
    Ok(Evaluations { evaluations: page.entries.into_iter().map(evaluation).collect(), next_cursor: page.cursor })
}

/// Counts what is stored.
///
/// # Errors
/// If the backend does not count, and those of the backend.
pub fn statistics(root: &dyn Backend, capabilities: &Capabilities, call: &Call) -> Result<Statistics, ReadError> {
    if !capabilities.counts {
        return Err(ReadError::NotOffered("counts"));
    }
    let counts = root.counts(call)?;
    let count = |status: Status| counts.by_status.get(status.as_str()).copied().unwrap_or_default();
    let ended: u64 = Status::TERMINAL.into_iter().map(count).sum();
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    let success_rate = (ended > 0).then(|| count(Status::Completed) as f64 / ended as f64);
    Ok(Statistics {
        total_evaluations: counts.by_status.values().sum(),
        by_status: counts.by_status,
        success_rate,
        age_seconds: counts.age_seconds,
    })
}
