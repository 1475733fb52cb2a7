//! `/backends/{name}/…` on the admin listener: each backend of the live tree, not only the root, as the commands call it.
//!
//! A call goes to the backend that has the name at that moment, through its guard, so it follows a reload. `wire.rs` has
//! what is said, `remote.rs` is the other end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage_plugin_api::{
    Backend, Call, Delete, Deleted, Error, ErrorKind, Item, Prune, Result, State as Stored, with_items,
};
use tokio::time::timeout_at;

use super::calls::Refused;
use super::wire::{
    Answers, BackendEntry, DeleteAnswer, DeleteCall, DeleteItem, Failure, FoundState, GetCall, MAX_BODY_BYTES,
    MergeAnswer, MergeCall, StatesPage, StoredItem,
};
use super::{AppState, answer};
use crate::storage::{Guard, Tree};
use crate::suggest::list;

/// How long a call may take, whatever its caller allows; `storage.call_timeout` may be shorter.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Calls at once; more wait for a place. Bounds what bodies take in memory, too.
pub(crate) const PLACES: usize = 8;

/// What a call may be told beside its body.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CallQuery {
    /// How long it may take.
    timeout_ms: u64,
    /// How often it failed before.
    attempt: u32,
}

impl Default for CallQuery {
    fn default() -> Self {
        Self { timeout_ms: 10_000, attempt: 0 }
    }
}

/// Every backend of the tree, the root last.
pub(super) async fn all(State(state): State<AppState>) -> Response {
    match state.0.parts.storage.tree() {
        Ok(tree) => {
            let root = tree.root();
            let entries: Vec<_> = tree.guards().map(|guard| entry(guard, Arc::ptr_eq(guard, root))).collect();
            answer::json(StatusCode::OK, &serde_json::json!({ "backends": entries }))
        }
        Err(reason) => failed(Error::unavailable(reason)),
    }
}

/// One backend and how it is.
pub(super) async fn one(State(state): State<AppState>, Path(name): Path<String>) -> Response {
    let work = move |tree: &Tree, _: &Call| {
        let guard = find(tree, &name)?;
        let entry = entry(guard, Arc::ptr_eq(guard, tree.root()));
        to_json(&BackendEntry { health: Some(guard.health()), ..entry })
    };
    match state.0.calls.place(&state.0.parts.storage, MAX_TIMEOUT).await {
        Ok(place) => answered(place.run(work).await),
        Err(refused) => answered(Err(refused)),
    }
}

/// One call of a backend.
pub(super) async fn call(
    State(state): State<AppState>,
    Path((name, call)): Path<(String, String)>,
    query: std::result::Result<Query<CallQuery>, QueryRejection>,
    body: Body,
) -> Response {
    let Some(kind) = Kind::of(&call) else { return answer::error(StatusCode::NOT_FOUND, "Not Found") };
    let query = match query {
        Ok(Query(query)) => query,
        Err(error) => return failed(Error::invalid_item(error.body_text())),
    };
    let place = match state.0.calls.place(&state.0.parts.storage, Duration::from_millis(query.timeout_ms)).await {
        Ok(place) => place,
        Err(refused) => return answered(Err(refused)),
    };
    let body = match timeout_at(place.deadline.into(), to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return failed(Error::invalid_item(format_args!("the body cannot be read: {error}"))),
        Err(_) => return failed(Error::unavailable("the body did not arrive in time")),
    };
    let work = move |tree: &Tree, call: &Call| {
        let call = Call { attempt: query.attempt, ..*call };
        kind.run(&**find(tree, &name)?, &call, &body)
    };
    answered(place.run(work).await)
}

/// What a backend can be asked for.
#[derive(Clone, Copy)]
enum Kind {
    Merge,
    Get,
    List,
    Delete,
    Counts,
    Prune,
    Flush,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "merge" => Self::Merge,
            "get" => Self::Get,
            "list" => Self::List,
            "delete" => Self::Delete,
            "counts" => Self::Counts,
            "prune" => Self::Prune,
            "flush" => Self::Flush,
            _ => return None,
        })
    }

    fn run(self, backend: &dyn Backend, call: &Call, body: &Bytes) -> Result<Vec<u8>> {
        match self {
            Self::Merge => to_json(&merge(backend, call, parse::<MergeCall>(body)?.items)?),
            Self::Get => {
                let GetCall { ids, fields } = parse(body)?;
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                let found = backend.get(call, &ids, fields)?;
                to_json(&Answers { answers: found.iter().map(|found| found.as_ref().map(FoundState::of)).collect() })
            }
            Self::List => to_json(&StatesPage::from(backend.list(call, &parse(body)?)?)),
            Self::Delete => to_json(&delete(backend, call, &parse::<DeleteCall>(body)?.items)?),
            Self::Counts => to_json(&backend.counts(call)?),
            Self::Prune => to_json(&backend.prune(call, &parse::<Prune>(body)?)?),
            Self::Flush => backend.flush(call).map(|()| b"{}".to_vec()),
        }
    }
}

/// Merges what can be read; what cannot is rejected by itself.
fn merge(backend: &dyn Backend, call: &Call, items: Vec<StoredItem>) -> Result<Answers<MergeAnswer>> {
    let states: Vec<Result<Stored>> = items.iter().map(StoredItem::state).collect();
    let good: Vec<(&str, &Stored)> =
        items.iter().zip(&states).filter_map(|(item, state)| Some((&*item.id, state.as_ref().ok()?))).collect();
    let merged =
        if good.is_empty() { Vec::new() } else { with_items(&good, |items: &[Item<'_>]| backend.merge(call, items))? };
    let mut merged = merged.into_iter();
    let missing = || Err(Error::internal("the backend did not answer for this item"));
    let answer = |state: Result<Stored>| {
        let answer = state.and_then(|_| merged.next().map_or_else(missing, Ok));
        answer.unwrap_or_else(storage_plugin_api::Answer::rejected).into()
    };
    Ok(Answers { answers: states.into_iter().map(answer).collect() })
}

fn delete(backend: &dyn Backend, call: &Call, items: &[DeleteItem]) -> Result<Answers<DeleteAnswer>> {
    let digests = items.iter().map(DeleteItem::digest).collect::<Result<Vec<_>>>()?;
    let deletes: Vec<Delete<'_>> =
        items.iter().zip(&digests).map(|(item, digest)| Delete { id: &item.id, digest: digest.as_ref() }).collect();
    let answers: Vec<Deleted> = backend.delete(call, &deletes)?;
    Ok(Answers { answers: answers.into_iter().map(Into::into).collect() })
}

fn find<'a>(tree: &'a Tree, name: &str) -> Result<&'a Arc<Guard>> {
    tree.guard(name).ok_or_else(|| {
        let names: Vec<&str> = tree.guards().map(|guard| &**guard.instance()).collect();
        Error::configuration(format_args!("the running worker has no backend `{name}`; it has {}", list(&names)))
    })
}

fn entry(guard: &Guard, root: bool) -> BackendEntry {
    BackendEntry { name: guard.instance().to_string(), root, capabilities: guard.capabilities().clone(), health: None }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Error::invalid_item(format_args!("the body cannot be read: {error}")))
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(Error::internal)
}

fn answered(answer: std::result::Result<Result<Vec<u8>>, Refused>) -> Response {
    match answer {
        Ok(Ok(bytes)) => answer::raw_json(StatusCode::OK, bytes),
        Ok(Err(error)) => failed(error),
        Err(Refused::Unavailable(detail, retry_after)) => failed(Error { retry_after, ..Error::unavailable(detail) }),
        Err(Refused::NotOffered(detail)) => failed(Error::configuration(detail)),
        Err(Refused::Invalid(detail)) => failed(Error::invalid_item(detail)),
        Err(Refused::Internal(detail)) => failed(Error::internal(detail)),
    }
}

/// The kind is said in the body; the status is for those who only look at that.
fn failed(error: Error) -> Response {
    let status = match error.kind {
        ErrorKind::Unavailable | ErrorKind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::InvalidItem => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Configuration => StatusCode::CONFLICT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    answer::json(status, &Failure::from(error))
}
