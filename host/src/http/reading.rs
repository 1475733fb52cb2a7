//! `/evaluations`, `/evaluations/{id}`, `/evaluations/{id}/events` and `/statistics`.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;
use storage_plugin_api::{Call, Error, Status};

use super::calls::Refused;
use super::{AppState, answer};
use crate::storage::Tree;
use crate::storage::read::{self, PageRequest, ReadError};
use crate::suggest::suggest;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
const PARAMETERS: [&str; 5] = ["status", "language", "since", "limit", "cursor"];

type Pairs = Vec<(String, String)>;

pub(crate) async fn evaluation(State(state): State<AppState>, id: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(id)) = id else { return not_found() };
    found(&state, move |tree, call| read::evaluation(&**tree.root(), call, &id)).await
}

pub(crate) async fn events(State(state): State<AppState>, id: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(id)) = id else { return not_found() };
    found(&state, move |tree, call| read::events(&**tree.root(), call, &id)).await
}

pub(crate) async fn evaluations(
    State(state): State<AppState>,
    parameters: Result<Query<Pairs>, QueryRejection>,
) -> Response {
    let request = match parameters.map_err(|error| error.body_text()).and_then(|Query(pairs)| page_request(pairs)) {
        Ok(request) => request,
        Err(detail) => return answer::error(StatusCode::UNPROCESSABLE_ENTITY, &detail),
    };
    let page =
        move |tree: &Tree, call: &Call| Ok(Some(read::page(&**tree.root(), tree.capabilities(), call, request)?));
    found(&state, page).await
}

pub(crate) async fn statistics(State(state): State<AppState>) -> Response {
    found(&state, |tree, call| Ok(Some(read::statistics(&**tree.root(), tree.capabilities(), call)?))).await
}

/// Reads a value and answers it; it is written where it was read, since it may be large.
async fn found<T: Serialize>(
    state: &AppState,
    read: impl FnOnce(&Tree, &Call) -> Result<Option<T>, ReadError> + Send + 'static,
) -> Response {
    let work = move |tree: &Tree, call: &Call| match read(tree, call)? {
        Some(value) => serde_json::to_vec(&value).map(Some).map_err(|error| ReadError::Storage(Error::internal(error))),
        None => Ok(None),
    };
    match state.0.reads.read(&state.0.parts.storage, work).await {
        Ok(Some(bytes)) => answer::raw_json(StatusCode::OK, bytes),
        Ok(None) => not_found(),
        Err(Refused::Unavailable(detail, retry_after)) => answer::unavailable(&detail, retry_after),
        Err(Refused::NotOffered(detail)) => answer::error(StatusCode::NOT_IMPLEMENTED, &detail),
        Err(Refused::Invalid(detail)) => answer::error(StatusCode::UNPROCESSABLE_ENTITY, &detail),
        Err(Refused::Internal(detail)) => answer::error(StatusCode::INTERNAL_SERVER_ERROR, &detail),
    }
}

fn not_found() -> Response {
    answer::error(StatusCode::NOT_FOUND, "Evaluation not found")
}

/// The page that a query string asks for. An unknown parameter is refused: what is ignored gives a wrong answer.
fn page_request(pairs: Pairs) -> Result<PageRequest, String> {
    let mut request = PageRequest { limit: DEFAULT_LIMIT, ..PageRequest::default() };
    for (name, value) in pairs {
        match name.as_str() {
            "status" => request.status = Some(parse_status(&value)?),
            "language" => request.language = Some(value),
            "since" => request.since = Some(parse_time(&value)?),
            "limit" => request.limit = parse_limit(&value)?,
            "cursor" => request.cursor = Some(value).filter(|cursor| !cursor.is_empty()),
            other => return Err(format!("unknown parameter `{other}`; {}", suggest(other, PARAMETERS, "known are"))),
        }
    }
    Ok(request)
}

fn parse_status(name: &str) -> Result<Status, String> {
    let names = Status::ALL.map(Status::as_str);
    Status::parse(name).ok_or_else(|| format!("`status` cannot be `{name}`; {}", suggest(name, names, "known are")))
}

/// A time in microseconds: RFC 3339, in UTC if it has no zone, at midnight if it has no time of day.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    // An unescaped `+` of a zone arrives as a space.
    let text = if text.contains('T') { text.replace(' ', "+") } else { text.to_owned() };
    let in_utc = |time: DateTime| time.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp());
    let time = text.parse::<Timestamp>().or_else(|_| text.parse::<DateTime>().and_then(in_utc));
    time.map(Timestamp::as_microsecond)
        .map_err(|_| format!("`since` cannot be `{text}`; write a time such as `2025-01-31T12:00:00Z`"))
}

fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| format!("`limit` cannot be `{text}`; write a number from 1 to {MAX_LIMIT}"))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn request(query: &[(&str, &str)]) -> Result<PageRequest, String> {
        page_request(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn parameters_are_read() {
        let all = request(&[
            ("status", "failed"),
            ("language", "python"),
            ("since", "1970-01-01T00:00:01Z"),
            ("limit", "1000"),
            ("cursor", "x"),
        ]);

        let expected = PageRequest {
            status: Some(Status::Failed),
            language: Some("python".to_owned()),
            since: Some(1_000_000),
            limit: 1000,
            cursor: Some("x".to_owned()),
        };
        assert_eq!(all, Ok(expected));
        assert_eq!(request(&[]), Ok(PageRequest { limit: 100, ..PageRequest::default() }));
    }

    #[test]
    fn times_have_a_zone_or_are_in_utc() {
        for (text, expected) in [
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-01T01:00:00 01:00", 0),
            ("1970-01-01T00:00:00.000005", 5),
            ("1970-01-02", 86_400_000_000),
        ] {
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_what_is_allowed() {
        for (query, expected) in [
            (("status", "complete"), "`status` cannot be `complete`; did you mean `completed`?"),
            (("since", "yesterday"), "write a time such as"),
            (("limit", "0"), "a number from 1 to 1000"),
            (("limit", "1001"), "a number from 1 to 1000"),
            (("limit", "-1"), "a number from 1 to 1000"),
            (("offset", "100"), "unknown parameter `offset`; known are"),
        ] {
            let detail = request(&[query]).expect_err("it is wrong");
            assert!(detail.contains(expected), "{detail}");
        }
    }
}
