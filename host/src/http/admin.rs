//! What only the operator may ask: the tree explained, and changes. No web page may, whatever it talks a browser into.

use std::net::IpAddr;
use std::sync::PoisonError;

use axum::extract::{Query, Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::{AppState, answer};
use crate::storage::ReloadError;
use crate::storage::explain::Explanation;

/// The tree and the configuration, as JSON.
pub(super) async fn explain(State(state): State<AppState>) -> Response {
    match state.0.parts.storage.tree() {
        Ok(tree) => {
            let settings = state.0.parts.settings.read().unwrap_or_else(PoisonError::into_inner).clone();
            answer::json(StatusCode::OK, &Explanation { settings, ..tree.explain() })
        }
        Err(reason) => answer::error(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

/// What a reload may be told.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(super) struct ReloadQuery {
    force: bool,
}

/// Changes storage to what the configuration says now, and answers when that is done.
pub(super) async fn reload(State(state): State<AppState>, Query(query): Query<ReloadQuery>) -> Response {
    match (state.0.parts.reload)(query.force).await {
        Ok(reloaded) => answer::json(StatusCode::OK, &reloaded),
        Err(ReloadError::Config(problems)) => {
            let body = json!({ "detail": problems.join("\n"), "problems": problems });
            answer::json(StatusCode::UNPROCESSABLE_ENTITY, &body)
        }
        Err(error) => {
            let status = match &error {
                ReloadError::TooMany | ReloadError::Ending => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CONFLICT,
            };
            answer::error(status, &error.to_string())
        }
    }
}

/// Refuses what a browser sends for a page of somebody else: such a request names where it comes from, or, if the page's
/// name was made to lead here, a host that is not this one.
pub(super) async fn only_from_here(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) || !names_an_address(request.headers()) {
        let detail = "the admin listener answers no web pages; use its address, and no browser";
        return answer::error(StatusCode::FORBIDDEN, detail);
    }
    next.run(request).await
}

/// True if the host is an address, or the one name that always leads to this machine.
fn names_an_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}
