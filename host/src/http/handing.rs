//! `/dead-letters/…` and `/replay` on the admin listener: what people do with dead letters, and events that go through the
//! worker once more.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{AppState, answer};
use crate::letters::desk::{Edit, Filter, Note, Tried};
use crate::letters::line::letter_text;
use crate::letters::retry::{RetryError, retry as retry_letters};
use crate::replay::record::Record;
use crate::source::fed::{Ended, Handed, Outcome};

/// The largest body: some batches of the largest payloads.
const MAX_BODY_BYTES: usize = 128 * 1024 * 1024;
/// How long an answer may wait until storage has taken what was handed over; it goes on without whoever asked.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(60);

/// What is asked of `/dead-letters/select` and `/dead-letters/ids`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Select {
    /// Which letters.
    pub filter: Filter,
    /// At most so many.
    pub limit: usize,
    /// Without their payloads.
    pub brief: bool,
}

/// What is asked of `/dead-letters/edit`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditLetters {
    /// The new payloads.
    pub edits: Vec<Edit>,
    /// Who, and the expression.
    pub note: Note,
}

/// What is asked of `/dead-letters/drop` and `/dead-letters/retry`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SomeLetters {
    /// Which letters.
    pub ids: Vec<String>,
    /// Who.
    pub note: Note,
}

/// What is asked of `/dead-letters/settle`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleLetters {
    /// The letters, and how each fared.
    pub tried: Vec<Tried>,
    /// Who, and into which backend.
    pub note: Note,
}

/// What `/replay` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Replayed {
    /// The events that became dead letters, by their place in what was sent.
    pub refused: Vec<(usize, Outcome)>,
}

pub(super) async fn select(State(state): State<AppState>, body: Body) -> Response {
    let Select { filter, limit, brief } = match read(body).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let desk = state.0.parts.desk.clone();
    blocking(move || desk.select(&filter, limit, brief)).await
}

/// The ids alone.
pub(super) async fn ids(State(state): State<AppState>, body: Body) -> Response {
    let Select { filter, limit, .. } = match read(body).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let desk = state.0.parts.desk.clone();
    blocking(move || desk.ids(&filter, limit)).await
}

/// Some of the letters of these ids, whole, and how many ids that were.
pub(super) async fn first(State(state): State<AppState>, body: Body) -> Response {
    let ids: Vec<String> = match read(body).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let desk = state.0.parts.desk.clone();
    blocking(move || {
        let (letters, looked_at) = desk.first_letters(&ids)?;
        let texts = letters.iter().map(|letter| RawValue::from_string(letter_text(letter)));
        Ok((texts.collect::<Result<Vec<_>, _>>()?, looked_at))
    })
    .await
}

pub(super) async fn edit(State(state): State<AppState>, body: Body) -> Response {
    let EditLetters { edits, note } = match read(body).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let desk = state.0.parts.desk.clone();
    blocking(move || desk.edit(&edits, &note)).await
}

pub(super) async fn drop_letters(State(state): State<AppState>, body: Body) -> Response {
    let SomeLetters { ids, note } = match read(body).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let desk = state.0.parts.desk.clone();
    blocking(move || desk.drop_letters(&ids, &note)).await
}

pub(super) async fn settle(State(state): State<AppState>, body: Body) -> Response {
    let SettleLetters { tried, note } = match read(body).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let desk = state.0.parts.desk.clone();
    blocking(move || desk.settle(&tried, &note)).await
}

/// Tries letters again. Goes on, and notes how it ended, should whoever asked be gone.
pub(super) async fn retry(State(state): State<AppState>, body: Body) -> Response {
    let SomeLetters { ids, note } = match read(body).await {
        Ok(asked) => asked,
        Err(response) => return response,
    };
    let (desk, feed) = (state.0.parts.desk.clone(), state.0.parts.feed.clone());
    let trying = tokio::spawn(retry_letters(desk, feed, ids, note));
    match timeout(PATIENCE, trying).await {
        Ok(Ok(Ok(done))) => answer::json(StatusCode::OK, &done),
        Ok(Ok(Err(RetryError::Letters(error)))) => failed(&error),
        Ok(Ok(Err(RetryError::Ended(ended)))) => answer::unavailable(&ended.to_string(), None),
        Ok(Err(error)) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => still_waiting(),
    }
}

/// Takes events, one JSON object a line, and answers when each is stored or a dead letter.
pub(super) async fn replay(State(state): State<AppState>, body: Body) -> Response {
    let body = match bytes(body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let mut handed = Vec::new();
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        match Record::parse(line) {
            Ok(Record { channel, payload, event_id, time }) => handed.push(Handed {
                channel: channel.into(),
                payload,
                event_id: event_id.map(Into::into),
                time,
                is_letter: false,
            }),
            Err(reason) => {
                let detail = format!("line {}: {reason}", handed.len() + 1);
                return answer::error(StatusCode::UNPROCESSABLE_ENTITY, &detail);
            }
        }
    }
    match timeout(PATIENCE, state.0.parts.feed.hand(handed)).await {
        Ok(Ok(outcomes)) => {
            let refused = outcomes.into_iter().enumerate().filter(|(_, outcome)| *outcome != Outcome::Stored).collect();
            answer::json(StatusCode::OK, &Replayed { refused })
        }
        Ok(Err(ended @ Ended)) => answer::unavailable(&ended.to_string(), None),
        Err(_) => still_waiting(),
    }
}

fn still_waiting() -> Response {
    let detail = "they are not stored and confirmed yet; the worker keeps trying, see /health for the reason";
    answer::unavailable(detail, Some(Duration::from_secs(1)))
}

async fn bytes(body: Body) -> Result<Bytes, Response> {
    match timeout(BODY_PATIENCE, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let detail = format!("the request is too large or was cut short: {error}");
            Err(answer::error(StatusCode::PAYLOAD_TOO_LARGE, &detail))
        }
        Err(_) => Err(answer::error(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time")),
    }
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Response> {
    let bytes = bytes(body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| answer::error(StatusCode::UNPROCESSABLE_ENTITY, &format!("the request is wrong: {error}")))
}

async fn blocking<T: Serialize + Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => answer::json(StatusCode::OK, &value),
        Ok(Err(error)) => failed(&error),
        Err(error) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn failed(error: &io::Error) -> Response {
    let detail = json!({ "detail": format!("the dead letters cannot be read or changed: {error}") });
    answer::json(StatusCode::INTERNAL_SERVER_ERROR, &detail)
}
