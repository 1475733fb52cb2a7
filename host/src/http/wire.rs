//! The calls of one backend as JSON: what `backends.rs` is asked on the admin listener, and `remote.rs` asks.
//!
//! States go as their canonical JSON. A key that is not known is refused, as everywhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use storage_plugin_api::body::{from_hex, to_hex};
use storage_plugin_api::{
    Answer, Capabilities, Delete, Deleted, Durability, Error, ErrorKind, Fields, Found, Health, Outcome, Page, Result,
    State, Status,
};

/// How large the JSON of a call or of its answer may be; far beyond what one state can be.
pub(crate) const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;

/// A backend, as `GET /backends` and `GET /backends/{name}` say it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendEntry {
    /// Its name in the configuration.
    pub name: String,
    /// It is the root of the tree.
    pub root: bool,
    /// What it promises.
    pub capabilities: Capabilities,
    /// How it is; left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// `POST /backends/{name}/merge`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MergeCall {
    pub(crate) items: Vec<StoredItem>,
}

/// An id and a state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredItem {
    pub(crate) id: String,
    pub(crate) state: Box<RawValue>,
}

/// Answers in the order of the items.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answers<T> {
    pub(crate) answers: Vec<T>,
}

/// One item of a merge.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MergeAnswer {
    outcome: OutcomeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    durability: DurabilityName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taken_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeName {
    Created,
    Updated,
    Unchanged,
    Accepted,
    Rejected,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DurabilityName {
    Volatile,
    Durable,
}

/// `POST /backends/{name}/get`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GetCall {
    pub(crate) ids: Vec<String>,
    #[serde(default)]
    pub(crate) fields: Fields,
}

/// A state that was read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FoundState {
    /// Only in lists: whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    state: Box<RawValue>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

/// A page of states.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatesPage {
    entries: Vec<FoundState>,
    #[serde(default)]
    cursor: Option<String>,
}

/// `POST /backends/{name}/delete`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteCall {
    pub(crate) items: Vec<DeleteItem>,
}

/// What to delete.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteItem {
    pub(crate) id: String,
    /// Only a state of this digest, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
}

/// One item of a delete.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeleteAnswer {
    Deleted,
    Absent,
    Differs,
    Failed(Failure),
}

/// An error of the contract; also the body of an answer that says that a whole call failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) detail: String,
    pub(crate) kind: KindName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KindName {
    Unavailable,
    Overloaded,
    InvalidItem,
    Configuration,
    Internal,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::Unavailable => KindName::Unavailable,
            ErrorKind::Overloaded => KindName::Overloaded,
            ErrorKind::InvalidItem => KindName::InvalidItem,
            ErrorKind::Configuration => KindName::Configuration,
            ErrorKind::Internal => KindName::Internal,
        };
        let milliseconds = |delay: Duration| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self { detail: error.message, kind, retry_after_ms: error.retry_after.map(milliseconds) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure.kind {
            KindName::Unavailable => ErrorKind::Unavailable,
            KindName::Overloaded => ErrorKind::Overloaded,
            KindName::InvalidItem => ErrorKind::InvalidItem,
            KindName::Configuration => ErrorKind::Configuration,
            KindName::Internal => ErrorKind::Internal,
        };
        Self { kind, message: failure.detail, retry_after: failure.retry_after_ms.map(Duration::from_millis) }
    }
}

impl From<Answer> for MergeAnswer {
    fn from(answer: Answer) -> Self {
        let (outcome, error) = match answer.outcome {
            Outcome::Created => (OutcomeName::Created, None),
            Outcome::Updated => (OutcomeName::Updated, None),
            Outcome::Unchanged => (OutcomeName::Unchanged, None),
            Outcome::Accepted => (OutcomeName::Accepted, None),
            Outcome::Rejected(error) => (OutcomeName::Rejected, Some(error.into())),
        };
        let durability = match answer.durability {
            Durability::Volatile => DurabilityName::Volatile,
            Durability::Durable => DurabilityName::Durable,
        };
        Self {
            outcome,
            status: answer.status.map(|status| status.as_str().to_owned()),
            durability,
            taken_by: answer.taken_by.as_deref().map(str::to_owned),
            error,
        }
    }
}

impl From<MergeAnswer> for Answer {
    fn from(answer: MergeAnswer) -> Self {
        let unknown = || Error::internal("the item was rejected, and the worker does not say why");
        let outcome = match answer.outcome {
            OutcomeName::Created => Outcome::Created,
            OutcomeName::Updated => Outcome::Updated,
            OutcomeName::Unchanged => Outcome::Unchanged,
            OutcomeName::Accepted => Outcome::Accepted,
            OutcomeName::Rejected => Outcome::Rejected(answer.error.map_or_else(unknown, Error::from)),
        };
        let durability = match answer.durability {
            DurabilityName::Volatile => Durability::Volatile,
            DurabilityName::Durable => Durability::Durable,
        };
        let status = answer.status.as_deref().and_then(Status::parse);
        Self { outcome, status, durability, taken_by: answer.taken_by.map(Into::into) }
    }
}

impl From<Deleted> for DeleteAnswer {
    fn from(deleted: Deleted) -> Self {
        match deleted {
            Deleted::Deleted => Self::Deleted,
            Deleted::Absent => Self::Absent,
            Deleted::Differs => Self::Differs,
            Deleted::Failed(error) => Self::Failed(error.into()),
        }
    }
}

impl From<DeleteAnswer> for Deleted {
    fn from(answer: DeleteAnswer) -> Self {
        match answer {
            DeleteAnswer::Deleted => Self::Deleted,
            DeleteAnswer::Absent => Self::Absent,
            DeleteAnswer::Differs => Self::Differs,
            DeleteAnswer::Failed(failure) => Self::Failed(failure.into()),
        }
    }
}

impl DeleteItem {
    pub(crate) fn of(item: &Delete<'_>) -> Self {
        Self { id: item.id.to_owned(), digest: item.digest.map(|digest| to_hex(digest)) }
    }

    /// The digest; an error if it is none, which must not become an unconditional delete.
    pub(crate) fn digest(&self) -> Result<Option<storage_plugin_api::Hash>> {
        let Some(hex) = &self.digest else { return Ok(None) };
        let digest = from_hex(hex);
        digest.map(Some).ok_or_else(|| Error::invalid_item(format_args!("`{hex}` is no digest; write 64 hex digits")))
    }
}

impl StoredItem {
    pub(crate) fn of(id: &str, state: &State) -> Self {
        Self { id: id.to_owned(), state: raw(state) }
    }

    pub(crate) fn state(&self) -> Result<State> {
        State::from_json(self.state.get()).map_err(Error::invalid_item)
    }
}

impl FoundState {
    pub(crate) fn of(found: &Found) -> Self {
        Self { id: None, state: raw(&found.state), incomplete: found.incomplete }
    }

    pub(crate) fn found(&self) -> Result<Found> {
        let state = State::from_json(self.state.get());
        let state = state.map_err(|error| Error::configuration(format_args!("the worker's answer: {error}")))?;
        Ok(Found { state, incomplete: self.incomplete })
    }
}

impl From<Page> for StatesPage {
    fn from(page: Page) -> Self {
        let entry = |(id, found): &(String, Found)| FoundState { id: Some(id.clone()), ..FoundState::of(found) };
        Self { entries: page.entries.iter().map(entry).collect(), cursor: page.cursor }
    }
}

impl StatesPage {
    pub(crate) fn page(self) -> Result<Page> {
        let entry = |mut entry: FoundState| Ok((entry.id.take().unwrap_or_default(), entry.found()?));
        Ok(Page { entries: self.entries.into_iter().map(entry).collect::<Result<_>>()?, cursor: self.cursor })
    }
}

fn raw(state: &State) -> Box<RawValue> {
    RawValue::from_string(state.to_canonical_json()).expect("canonical JSON is JSON")
}
