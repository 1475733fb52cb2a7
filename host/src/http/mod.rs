//! What the worker answers over HTTP: health, metrics and reading for anyone, and more on the admin listener.
//!
//! `listener.rs` serves connections, `health.rs`, `reading.rs`, `handing.rs` and `backends.rs` answer, `calls.rs` keeps a plugin that
//! hangs from hanging anything else. `client.rs` is how the commands ask a worker that runs, `remote.rs` how they call one
//! of its backends.

mod admin;
mod answer;
mod backends;
mod calls;
pub mod client;
pub mod config;
pub mod handing;
mod health;
mod listener;
mod reading;
pub mod remote;
#[cfg(test)]
mod tests;
mod wire;

use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use self::calls::Calls;
pub use self::config::{AdminConfig, Config};
pub use self::health::{JournalHealth, Stalled, WorkerStatus};
pub use self::listener::{BindError, Listener};
pub(crate) use self::reading::parse_time;
pub use self::wire::BackendEntry;
use crate::letters::desk::Desk;
use crate::source::fed::Feed;
use crate::storage::explain::Setting;
use crate::storage::{Current, ReloadError, Reloaded};
use crate::telemetry::metrics::{CONTENT_TYPE as METRICS_TYPE, Metrics};

/// What answering needs of the rest of the worker. Clones are handles to the same.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// What [`AppState::new`] is given.
pub struct Parts {
    /// Where the storage tree is found.
    pub storage: Arc<Current>,
    /// Says how the worker is; cheap, and never waits.
    pub worker: Box<dyn Fn() -> WorkerStatus + Send + Sync>,
    /// The worker's metrics.
    pub metrics: Metrics,
    /// The configuration in force and where it came from, without secrets.
    pub settings: Arc<RwLock<Vec<Setting>>>,
    /// Changes storage to what the configuration says now; by force also if that drops what is stored nowhere else.
    pub reload: Box<dyn Fn(bool) -> Reloading + Send + Sync>,
    /// Where dead letters are worked on.
    pub desk: Desk,
    /// What is handed over goes through the worker.
    pub feed: Feed,
}

/// A reload under way.
pub type Reloading = Pin<Box<dyn Future<Output = Result<Reloaded, ReloadError>> + Send>>;

impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parts").finish_non_exhaustive()
    }
}

struct Shared {
    parts: Parts,
    reads: Calls,
    probe: Calls,
    /// For `/backends/…`.
    calls: Calls,
    started: Instant,
}

impl AppState {
    /// Takes the start of the process for now.
    #[must_use]
    pub fn new(parts: Parts, config: &Config) -> Self {
        let reads = Calls::new(config.max_reads, config.read_timeout);
        let probe = Calls::new(1, health::PROBE_TIMEOUT);
        let calls = Calls::new(backends::PLACES, backends::MAX_TIMEOUT);
        Self(Arc::new(Shared { parts, reads, probe, calls, started: Instant::now() }))
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AppState").finish_non_exhaustive()
    }
}

/// What anyone may ask.
pub fn public(state: &AppState) -> Router {
    finish(common(), state)
}

/// What only the operator may ask.
pub fn admin(state: &AppState) -> Router {
    let router = common()
        .route("/explain", get(admin::explain))
        .route("/reload", post(admin::reload))
        .route("/dead-letters/select", post(handing::select))
        .route("/dead-letters/ids", post(handing::ids))
        .route("/dead-letters/first", post(handing::first))
        .route("/dead-letters/edit", post(handing::edit))
        .route("/dead-letters/drop", post(handing::drop_letters))
        .route("/dead-letters/retry", post(handing::retry))
        .route("/dead-letters/settle", post(handing::settle))
        .route("/replay", post(handing::replay))
        .route("/backends", get(backends::all))
        .route("/backends/{name}", get(backends::one))
        .route("/backends/{name}/{call}", post(backends::call));
    finish(router.layer(axum::middleware::from_fn(admin::only_from_here)), state)
}

fn common() -> Router<AppState> {
    Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics))
        .route("/evaluations", get(reading::evaluations))
        .route("/evaluations/{id}", get(reading::evaluation))
        .route("/evaluations/{id}/events", get(reading::events))
        .route("/statistics", get(reading::statistics))
}

fn finish(router: Router<AppState>, state: &AppState) -> Router {
    router
        .fallback(async || answer::error(StatusCode::NOT_FOUND, "Not Found"))
        .method_not_allowed_fallback(async || answer::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
        .with_state(state.clone())
}

async fn metrics(State(state): State<AppState>) -> Response {
    ([(CONTENT_TYPE, METRICS_TYPE)], state.0.parts.metrics.encode()).into_response()
}
