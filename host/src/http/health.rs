//! `/health`, `/livez` and `/readyz`: whether the parts work, the process lives, anything progresses.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;

use super::calls::Refused;
use super::{AppState, answer};
use crate::storage::{BackendHealth, TreeHealth};

/// How long the storage tree has to say how it is.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How the worker is, apart from storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Events arrive and confirmations can be published.
    pub redis_healthy: bool,
    /// What is wrong with Redis; empty if nothing is.
    pub redis_reason: String,
    /// Events taken since the start.
    pub events_processed: u64,
    /// The generation of the configuration.
    pub generation: u64,
    /// Nothing new is taken, since the worker is ending.
    pub draining: bool,
    /// Lanes whose call does not come back, in words.
    pub stuck: Vec<String>,
    /// The journal, if anything goes through one.
    pub journal: Option<JournalHealth>,
}

/// How the journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalHealth {
    /// What goes through it: `always` or `spill`.
    pub mode: &'static str,
    /// Entries that are not stored and confirmed.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// How long the oldest of the entries has been there.
    pub oldest_seconds: u64,
    /// Why it takes nothing now, so that nothing is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The answer of `/health`.
#[derive(Serialize)]
struct Health {
    healthy: bool,
    redis: &'static str,
    storage: &'static str,
    events_processed: u64,
    uptime: String,
    uptime_seconds: u64,
    version: &'static str,
    generation: u64,
    draining: bool,
    /// Why it is not healthy; empty if it is.
    reasons: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<JournalHealth>,
    backends: BTreeMap<String, BackendHealth>,
}

pub(crate) async fn health(State(state): State<AppState>) -> Response {
    let worker = (state.0.parts.worker)();
    let storage = storage_health(&state).await;
    let uptime_seconds = state.0.started.elapsed().as_secs();
    let works = storage.healthy && worker.stuck.is_empty();
    let records = worker.journal.as_ref().is_none_or(|journal| journal.problem.is_none());
    let healthy = worker.redis_healthy && works && records;
    let body = Health {
        healthy,
        redis: word(worker.redis_healthy),
        storage: word(works),
        events_processed: worker.events_processed,
        uptime: uptime(uptime_seconds),
        uptime_seconds,
        version: env!("CARGO_PKG_VERSION"),
        generation: worker.generation,
        draining: worker.draining,
        reasons: reasons(&worker, &storage),
        journal: worker.journal,
        backends: storage.backends,
    };
    answer::json(status(healthy), &body)
}

/// Says that the process answers, and nothing else: restarting it would not help Redis or storage.
pub(crate) async fn livez() -> Response {
    answer::json(StatusCode::OK, &json!({ "alive": true }))
}

/// Red when nothing progresses, with the reasons.
pub(crate) async fn readyz(State(state): State<AppState>) -> Response {
    let worker = (state.0.parts.worker)();
    let mut reasons = reasons(&worker, &storage_health(&state).await);
    if worker.draining {
        reasons.push("draining: the worker is ending and takes nothing new".to_owned());
    }
    let ready = reasons.is_empty();
    answer::json(status(ready), &json!({ "ready": ready, "reasons": reasons }))
}

/// Asks the tree, which may hang: one question at a time, and none waits longer than the timeout.
pub(crate) async fn storage_health(state: &AppState) -> TreeHealth {
    match state.0.probe.read(&state.0.parts.storage, |tree, _| Ok(tree.health())).await {
        Ok(health) => health,
        Err(
            Refused::Unavailable(reason, _)
            | Refused::NotOffered(reason)
            | Refused::Invalid(reason)
            | Refused::Internal(reason),
        ) => TreeHealth { healthy: false, reason, backends: BTreeMap::new() },
    }
}

fn reasons(worker: &WorkerStatus, storage: &TreeHealth) -> Vec<String> {
    let mut reasons = Vec::new();
    if !worker.redis_healthy {
        reasons.push(reason("redis", &worker.redis_reason));
    }
    if !storage.healthy {
        reasons.push(reason("storage", &storage.reason));
    }
    reasons.extend(worker.stuck.iter().cloned());
    let problem = worker.journal.as_ref().and_then(|journal| journal.problem.as_ref());
    reasons.extend(problem.map(|problem| reason("journal", problem)));
    reasons
}

fn reason(part: &str, why: &str) -> String {
    if why.is_empty() { format!("{part}: unhealthy") } else { format!("{part}: {why}") }
}

fn word(healthy: bool) -> &'static str {
    if healthy { "healthy" } else { "unhealthy" }
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `26h 3m 19s`, as it has always been.
fn uptime(seconds: u64) -> String {
    format!("{}h {}m {}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
