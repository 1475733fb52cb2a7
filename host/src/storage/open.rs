//! Opens a planned tree from the leaves up, and waits for backends that are not there yet as it waits for Redis.
//!
//! Each attempt runs on a thread of its own, since a plugin may hang. What it opened after all is closed there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::{Backend, Call, Child, ChildDescription, Error, ErrorKind};
use tracing::{info, warn};

use super::current::Current;
use super::deadline::{Missed, within};
use super::gate::drop_caught;
use super::guard::Guard;
use super::plan::{Plan, Planned};
use super::tree::{Node, Tree};
use crate::telemetry::metrics::Metrics;

/// A plugin looks at its budget by itself; only one that does not is left behind.
const GRACE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often a pause looks whether it shall stop.
const STEP: Duration = Duration::from_millis(20);

/// Why a tree could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operator must change something.
    #[error("cannot open backend `{instance}` (plugin `{plugin}`): {error}")]
    Configuration {
        /// The instance's name.
        instance: String,
        /// The plugin's name.
        plugin: String,
        /// What the plugin said.
        error: Error,
    },
    /// It has a defect.
    #[error("cannot open backend `{instance}` (plugin `{plugin}`): {reason}; report this to the plugin's author")]
    Defect {
        /// The instance's name.
        instance: String,
        /// The plugin's name.
        plugin: String,
        /// What happened.
        reason: String,
    },
    /// It did not come back.
    #[error(
        "cannot open backend `{instance}` (plugin `{plugin}`): it did not return within {limit:?}; see whether what it connects to answers, or raise `storage.open_timeout`"
    )]
    Late {
        /// The instance's name.
        instance: String,
        /// The plugin's name.
        plugin: String,
        /// How long it was given.
        limit: Duration,
    },
    /// The system gave no thread.
    #[error("cannot open backend `{instance}`: no thread to open it on; raise the limit of threads or memory")]
    Thread {
        /// The instance's name.
        instance: String,
        /// Why.
        source: std::io::Error,
    },
    /// The worker is ending.
    #[error("storage was not opened: the worker is ending")]
    Stopped,
}

impl OpenError {
    /// True if another start with the same configuration fails the same way.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Configuration { .. } => true,
            Self::Defect { .. } | Self::Late { .. } | Self::Thread { .. } | Self::Stopped => false,
        }
    }
}

impl Plan {
    /// Opens every backend, children before their layers; blocks, however long a backend is unavailable, until `stop`.
    ///
    /// What it waits for is written to `current`, for health; the opened tree is not put there.
    ///
    /// # Errors
    /// When a backend cannot be opened now or later; the ones that were open are closed again.
    pub fn open(
        &self,
        metrics: &Metrics,
        current: Option<&Current>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Tree, OpenError> {
        let mut tree = Tree::new(&self.config);
        for planned in &self.nodes {
            match self.open_patiently(planned, &tree, current, stop) {
                Ok(backend) => {
                    let capabilities = planned.description.capabilities.clone();
                    let guard = Guard::new(&planned.name, backend, capabilities, &self.config, metrics);
                    info!(backend = %planned.name, plugin = planned.about.name, version = planned.about.version, "storage.backend_opened");
                    tree.nodes.push(Node::new(planned, Arc::new(guard)));
                }
                Err(error) => {
                    for failure in tree.close(self.config.close_timeout) {
                        warn!(backend = %failure.instance, reason = failure.reason, "storage.close_failed");
                    }
                    return Err(error);
                }
            }
        }
        Ok(tree)
    }

    /// Opens one backend, again and again while it is unavailable.
    fn open_patiently(
        &self,
        planned: &Planned,
        below: &Tree,
        current: Option<&Current>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Arc<dyn Backend>, OpenError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1_u32;
        loop {
            let error = match self.open_once(planned, below, stop)? {
                Ok(backend) => return Ok(backend),
                Err(error) => error,
            };
            let (instance, plugin) = (planned.name.to_string(), planned.about.name.clone());
            match error.kind {
                ErrorKind::Unavailable | ErrorKind::Overloaded => {}
                ErrorKind::Configuration => return Err(OpenError::Configuration { instance, plugin, error }),
                ErrorKind::InvalidItem | ErrorKind::Internal => {
                    return Err(OpenError::Defect { instance, plugin, reason: error.message });
                }
            }
            let wait = error.retry_after.unwrap_or(pause).min(self.config.open_retry_max);
            let wait = wait.mul_f64(0.75 + 0.5 * fastrand::f64());
            warn!(backend = instance, attempt, retry_in = ?wait, %error, "storage.backend_unavailable");
            if let Some(current) = current {
                current
                    .clear(format!("waiting for backend `{instance}` (attempt {attempt} to open it failed): {error}"));
            }
            if !sleep(wait, stop) {
                return Err(OpenError::Stopped);
            }
            pause = (pause * 2).min(self.config.open_retry_max);
            attempt = attempt.saturating_add(1);
        }
    }

    fn open_once(
        &self,
        planned: &Planned,
        below: &Tree,
        stop: &dyn Fn() -> bool,
    ) -> Result<Result<Arc<dyn Backend>, Error>, OpenError> {
        let child = |edge: &super::plan::Edge| {
            let guard = &below.nodes[edge.node].guard;
            let (role, name) = (edge.role.clone(), guard.instance().to_string());
            let description =
                ChildDescription { role: role.clone(), name: name.clone(), capabilities: guard.capabilities().clone() };
            Child { role, name, description, backend: Arc::clone(guard) as Arc<dyn Backend> }
        };
        let children = planned.children.iter().map(child).collect();
        let (budget, close_timeout) = (self.config.open_timeout, self.config.close_timeout);
        let work = {
            let (plugin, name, options) =
                (Arc::clone(&planned.plugin), Arc::clone(&planned.name), planned.options.clone());
            let read_only = self.read_only;
            let durability = planned.description.capabilities.durability();
            move || plugin.open(&name, &options, children, durability, budget, read_only)
        };
        let abandoned = move |opened: Result<Arc<dyn Backend>, Error>| {
            if let Ok(backend) = opened {
                // Nobody waits for it any more, so nobody is left to tell of a failure.
                let _ = backend.close(&Call::with_budget(close_timeout));
                drop_caught(backend);
            }
        };
        let missed = match within("open", budget + GRACE, stop, work, abandoned) {
            Ok(opened) => return Ok(opened),
            Err(missed) => missed,
        };
        let (instance, plugin) = (planned.name.to_string(), planned.about.name.clone());
        Err(match missed {
            Missed::Late => OpenError::Late { instance, plugin, limit: budget },
            Missed::Panicked(message) => {
                OpenError::Defect { instance, plugin, reason: format!("it panicked: {message}") }
            }
            Missed::NoThread(source) => OpenError::Thread { instance, source },
            Missed::Stopped => OpenError::Stopped,
        })
    }
}

/// Sleeps; false if it shall stop.
fn sleep(wait: Duration, stop: &dyn Fn() -> bool) -> bool {
    let end = Instant::now() + wait;
    loop {
        if stop() {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STEP));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use storage_plugin_api::Health;

    use super::super::lock;
    use super::super::testing::{TestPlugins, backends, quick};
    use super::*;

    fn open(plugins: &TestPlugins, options: Value, current: &Current) -> Result<Tree, OpenError> {
        let backends = backends(&[
            ("root", "layer", &[("primary", &["a"]), ("shadow", &["b"])], json!({})),
            ("a", "store", &[], options),
            ("b", "store", &[], json!({})),
        ]);
        let plan = Plan::of(&quick(), &backends, plugins).expect("all fits");
        plan.open(&Metrics::new(), Some(current), &|| false)
    }

    fn fails_to_open(options: Value) -> OpenError {
        open(&TestPlugins::default(), options, &Current::opening()).expect_err("it cannot be opened")
    }

    #[test]
    fn a_tree_is_opened_from_the_leaves_up_and_closed_from_the_root_down() {
        let plugins = TestPlugins::default();

        let tree = open(&plugins, json!({}), &Current::opening()).expect("all open");
        lock(&plugins.opened).clear();
        assert_eq!(tree.close(Duration::from_secs(5)), []);

        let expected = [
            "open a()",
            "open b()",
            "open root(primary=a,shadow=b)",
            "flush root",
            "close root",
            "drop root",
            "flush b",
            "close b",
            "drop b",
            "flush a",
            "close a",
            "drop a",
        ];
        assert_eq!(*lock(&plugins.events), expected);
    }

    #[test]
    fn an_unavailable_backend_is_waited_for_and_health_says_so() {
        let current = Current::opening();

        let tree = open(&TestPlugins::default(), json!({ "open": "away" }), &current).expect("it comes");

        let reason = current.tree().expect_err("the tree is not put there yet");
        assert_eq!(reason, "waiting for backend `a` (attempt 3 to open it failed): connection refused");
        assert!(tree.health().healthy);
    }

    #[test]
    fn a_wait_for_a_backend_ends_when_the_worker_does() {
        let backends = backends(&[("root", "store", &[], json!({ "open": "away" }))]);
        let plan = Plan::of(&quick(), &backends, &TestPlugins::default()).expect("all fits");

        let opened = plan.open(&Metrics::new(), None, &|| true);

        assert!(matches!(opened, Err(OpenError::Stopped)), "{opened:?}");
    }

    #[test]
    fn what_cannot_be_opened_says_why_and_stops_the_start() {
        let error = fails_to_open(json!({ "open": "configuration" }));
        assert_eq!(error.to_string(), "cannot open backend `a` (plugin `store`): the path is a file");
        assert!(error.is_configuration());

        let error = fails_to_open(json!({ "open": "panic" }));
        assert!(error.to_string().contains("it panicked: out of luck"), "{error}");
        assert!(!error.is_configuration());
    }

    #[test]
    fn an_open_that_hangs_is_given_up_and_what_it_opens_is_closed() {
        let plugins = TestPlugins::default();

        let error = open(&plugins, json!({ "open": "hang" }), &Current::opening()).expect_err("it hangs");

        assert!(error.to_string().contains("it did not return within 500ms"), "{error}");
        super::super::testing::eventually("it is closed", || lock(&plugins.events).contains(&"close a".to_owned()));
    }

    #[test]
    fn a_failed_open_closes_what_was_open() {
        let plugins = TestPlugins::default();
        let backends = backends(&[
            ("root", "layer", &[("primary", &["a"])], json!({ "open": "configuration" })),
            ("a", "store", &[], json!({})),
        ]);
        let plan = Plan::of(&quick(), &backends, &plugins).expect("all fits");

        assert!(plan.open(&Metrics::new(), None, &|| false).is_err());

        assert_eq!(*lock(&plugins.events), ["open a()", "flush a", "close a"]);
    }

    #[test]
    fn the_root_decides_on_the_health_of_the_tree() {
        let plugins = TestPlugins::default();
        let tree = open(&plugins, json!({}), &Current::opening()).expect("all open");
        lock(&plugins.opened)["b"].is_away();

        let health = tree.health();

        assert!(health.healthy && health.reason.is_empty());
        assert!(!health.backends["b"].healthy);
        assert_eq!(health.backends["b"].reason, "the disk is gone");
        assert_eq!(tree.root().health(), Health::healthy().with("evaluations", 0).with("breaker", "closed"));
    }

    #[test]
    fn a_close_that_hangs_does_not_keep_the_others_from_closing() {
        let plugins = TestPlugins::default();
        let tree = open(&plugins, json!({}), &Current::opening()).expect("all open");
        let (_release, _told) = lock(&plugins.opened)["root"].hang();

        let failures = tree.close(Duration::from_millis(300));

        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(&*failures[0].instance, "root");
        assert!(lock(&plugins.events).contains(&"close a".to_owned()));
    }
}
