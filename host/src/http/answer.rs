//! How answers look: JSON, and errors as `{"detail": …}`.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// An answer of a value.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => raw_json(status, bytes),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("the answer cannot be written: {failure}")),
    }
}

/// An answer that is JSON already.
pub(crate) fn raw_json(status: StatusCode, bytes: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, kind)], Body::from(bytes)).into_response()
}

/// An answer that says what went wrong.
pub(crate) fn error(status: StatusCode, detail: &str) -> Response {
    raw_json(status, json!({ "detail": detail }).to_string().into_bytes())
}

/// An answer that says what is away, and when to ask again if that is known.
pub(crate) fn unavailable(detail: &str, retry_after: Option<Duration>) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, detail);
    if let Some(delay) = retry_after {
        // The header knows whole seconds only, and 0 would mean "at once".
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(delay.as_secs().saturating_add(1)));
    }
    response
}
