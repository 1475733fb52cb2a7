//! The opened tree: the root for the worker and for reading, the health of every backend, and the orderly end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use storage_plugin_api::{Backend, Call, Capabilities, Durability};
use tracing::error;

use super::breaker::BreakerState;
use super::config::Config;
use super::deadline::{Missed, within};
use super::guard::Guard;
use super::inside::Inside;
use super::plan::{Edge, Identity, Plan};
use super::plugin::{About, Plugin};

/// A plugin looks at its deadline by itself; only one that does not is left behind.
const GRACE: Duration = Duration::from_millis(200);

/// An opened tree of backends.
#[derive(Debug)]
pub struct Tree {
    /// Children before their layers, the root last.
    pub(crate) nodes: Vec<Node>,
    pub(crate) config: Config,
    /// It was opened to read, and nothing was merged into it.
    read_only: bool,
}

/// An opened backend.
pub(crate) struct Node {
    pub(crate) guard: Arc<Guard>,
    plugin: Arc<dyn Plugin>,
    pub(crate) about: About,
    pub(crate) notes: Vec<String>,
    pub(crate) children: Vec<Edge>,
    pub(crate) identity: Identity,
}

/// How a tree is.
#[derive(Clone, Debug, PartialEq)]
pub struct TreeHealth {
    /// The root can do its work.
    pub healthy: bool,
    /// Why not, or what the operator should know; may be empty.
    pub reason: String,
    /// How long the root has been failing, as far as its calls showed; of a layer, how long those below it that are not
    /// well.
    pub failing_for: Option<Duration>,
    /// Every backend by name.
    pub backends: BTreeMap<String, BackendHealth>,
}

/// How a backend is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendHealth {
    /// It can do its work.
    pub healthy: bool,
    /// Why not, or what the operator should know.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Figures of the plugin's own, and the state of the breaker.
    #[serde(flatten)]
    pub details: BTreeMap<String, Value>,
}

/// A backend that did not end as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFailure {
    /// The instance's name.
    pub instance: Arc<str>,
    /// What happened.
    pub reason: String,
}

impl Node {
    pub(crate) fn new(plan: &Plan, node: usize, guard: Arc<Guard>) -> Self {
        let planned = &plan.nodes[node];
        Self {
            guard,
            plugin: Arc::clone(&planned.plugin),
            about: planned.about.clone(),
            notes: planned.description.notes.clone(),
            children: planned.children.clone(),
            identity: plan.identity(node),
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Node").field("guard", &self.guard).field("about", &self.about).finish_non_exhaustive()
    }
}

impl Tree {
    pub(crate) fn new(config: &Config, read_only: bool) -> Self {
        Self { nodes: Vec::new(), config: config.clone(), read_only }
    }

    /// The backend that stands for the whole tree.
    #[must_use]
    pub fn root(&self) -> &Arc<Guard> {
        &self.nodes.last().expect("an opened tree has at least its root").guard
    }

    /// The backend of a name.
    #[must_use]
    pub fn guard(&self, name: &str) -> Option<&Arc<Guard>> {
        self.guards().find(|guard| **guard.instance() == *name)
    }

    /// Every backend, children before their layers.
    pub(crate) fn guards(&self) -> impl Iterator<Item = &Arc<Guard>> {
        self.nodes.iter().map(|node| &node.guard)
    }

    /// What the whole tree promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.root().capabilities()
    }

    /// What an answer of the tree promises at least.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.capabilities().durability()
    }

    /// Asks every backend how it is. Calls plugins, so it may hang where they do.
    #[must_use]
    pub fn health(&self) -> TreeHealth {
        let mut backends = BTreeMap::new();
        let (mut healthy, mut reason) = (false, String::new());
        let mut failing_since = None;
        for node in &self.nodes {
            let health = node.guard.health();
            if !health.healthy {
                failing_since = failing_since.into_iter().chain(node.guard.failing_since()).min();
            }
            // The root comes last and is what counts: a layer may well do without one of its children.
            (healthy, reason) = (health.healthy, health.reason.clone());
            let health = BackendHealth { healthy: health.healthy, reason: health.reason, details: health.details };
            backends.insert(node.guard.instance().to_string(), health);
        }
        let failing_for = failing_since.filter(|_| !healthy).map(|since| since.elapsed());
        TreeHealth { healthy, reason, failing_for, backends }
    }

    /// Names of backends and the calls that hang in them.
    #[must_use]
    pub fn hanging(&self) -> Vec<String> {
        let text = |node: &Node| {
            let call = node.guard.hanging()?;
            Some(format!(
                "backend `{}` has not returned from `{}` for {:.0?}",
                node.guard.instance(),
                call.call,
                call.running
            ))
        };
        self.nodes.iter().filter_map(text).collect()
    }

    /// The state of every backend's breaker.
    #[must_use]
    pub fn breakers(&self) -> Vec<(Arc<str>, BreakerState)> {
        self.nodes.iter().map(|node| (Arc::clone(node.guard.instance()), node.guard.breaker_state())).collect()
    }

    /// Tells every backend that was not told before that the tree is in use from now on. What hangs is left behind.
    pub(crate) fn begin(&self) {
        let limit = self.config.call_timeout;
        for guard in self.guards().filter(|guard| !guard.has_begun()) {
            let (backend, guard) = (Arc::clone(guard.instance()), Arc::clone(guard));
            let work = move || guard.begin(&Call::with_budget(limit));
            match within("begin", limit + GRACE, &|| false, work, drop) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(%backend, %error, "storage.not_begun"),
                Err(missed) => error!(%backend, ?missed, "storage.not_begun"),
            }
        }
    }

    /// Flushes, closes and drops every backend, layers before those below them. Blocks at most for the budget.
    /// What was opened to read is not flushed.
    ///
    /// Returns what went wrong; whatever it is, the next backend is closed all the same.
    pub fn close(&self, budget: Duration) -> Vec<CloseFailure> {
        self.close_but(&|_| false, budget)
    }

    /// The same, but for the backends that are kept, and those that are closed already.
    pub(crate) fn close_but(&self, kept: &dyn Fn(&Arc<Guard>) -> bool, budget: Duration) -> Vec<CloseFailure> {
        let deadline = Instant::now() + budget;
        let mut failures = Vec::new();
        for node in self.nodes.iter().rev().filter(|node| !kept(&node.guard) && !node.guard.is_closed()) {
            let limit = deadline.saturating_duration_since(Instant::now()).min(self.config.close_timeout);
            let (guard, is_flushed) = (Arc::clone(&node.guard), !self.read_only);
            let instance = Arc::clone(guard.instance());
            let inside = Inside::to_close(&node.plugin, &instance, node.identity.options());
            let work = move || {
                let _inside = inside;
                end(&guard, is_flushed, limit)
            };
            let reasons = match within("close", limit + GRACE, &|| false, work, drop) {
                Ok(reasons) => reasons,
                Err(Missed::Late | Missed::Stopped) => vec![format!("it did not end within {limit:?}")],
                Err(Missed::Panicked(message)) => vec![format!("it panicked: {message}")],
                Err(Missed::NoThread(error)) => vec![format!("there is no thread to close it on: {error}")],
            };
            failures.extend(reasons.into_iter().map(|reason| CloseFailure { instance: Arc::clone(&instance), reason }));
        }
        failures
    }
}

/// Flush, close and drop of one backend; the flush has half of the time.
fn end(guard: &Guard, is_flushed: bool, limit: Duration) -> Vec<String> {
    let call = Call::with_budget(limit);
    let mut reasons = Vec::new();
    if is_flushed && let Err(error) = guard.flush(&call.at_most(limit / 2)) {
        reasons.push(format!("flush failed: {error}"));
    }
    if let Err(error) = guard.close(&call) {
        reasons.push(format!("close failed: {error}"));
    }
    if let Some(panic) = guard.release() {
        reasons.push(format!("it panicked when it was dropped: {panic}"));
    }
    reasons
}
