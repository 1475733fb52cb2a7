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

/// Storage that says it is well and takes no events for so long is not well: beyond the longest pause between attempts.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// How long the storage tree has to say how it is.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How the worker is, apart from storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Events arrive and confirmations can be published.
    pub redis_healthy: bool,
    /// What is wrong with Redis; empty if nothing is.
    pub redis_reason: String,
    /// How long that has been so.
    pub redis_away_for: Option<Duration>,
    /// How long the journal has taken nothing.
    pub journal_blocked_for: Option<Duration>,
    /// Why events wait for storage, if none is stored.
    pub stalled: Option<Stalled>,
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

/// What events wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// What storage said last.
    pub reason: String,
    /// How long no event was stored.
    pub lasts: Duration,
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
    let works = storage.healthy && worker.stuck.is_empty() && !is_stalled(&worker);
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
        ) => TreeHealth { healthy: false, reason, failing_for: None, backends: BTreeMap::new() },
    }
}

fn is_stalled(worker: &WorkerStatus) -> bool {
    worker.stalled.as_ref().is_some_and(|stalled| stalled.lasts >= STALLED_AFTER)
}

fn reasons(worker: &WorkerStatus, storage: &TreeHealth) -> Vec<String> {
    let mut reasons = Vec::new();
    if !worker.redis_healthy {
        reasons.push(reason("redis", &worker.redis_reason, worker.redis_away_for));
    }
    let waiting_for = worker.stalled.as_ref().map(|stalled| stalled.lasts);
    if !storage.healthy {
        reasons.push(reason("storage", &storage.reason, waiting_for.max(storage.failing_for)));
    } else if let Some(stalled) = worker.stalled.as_ref().filter(|_| is_stalled(worker)) {
        reasons.push(reason("storage", &format!("it takes no events: {}", stalled.reason), waiting_for));
    }
    reasons.extend(worker.stuck.iter().cloned());
    let problem = worker.journal.as_ref().and_then(|journal| journal.problem.as_ref());
    reasons.extend(problem.map(|problem| reason("journal", problem, worker.journal_blocked_for)));
    reasons
}

/// What is wrong with a part, and how long it has been so where that is known.
fn reason(part: &str, why: &str, lasts: Option<Duration>) -> String {
    let why = if why.is_empty() { "unhealthy" } else { why };
    match lasts.map(|lasts| Duration::from_secs(lasts.as_secs())) {
        Some(lasts) => format!("{part}: {why} (for {})", humantime::format_duration(lasts)),
        None => format!("{part}: {why}"),
    }
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
