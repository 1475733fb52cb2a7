//! Opens a planned tree from the leaves up, and waits for backends that are not there yet as it waits for Redis.
//!
//! Each attempt runs on a thread of its own, since a plugin may hang. What it opened after all is closed there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::{Backend, Call, Child, ChildDescription, Error, ErrorKind};
use tracing::{info, warn};

use super::change::Carried;
use super::current::Current;
use super::deadline::{Missed, within};
use super::gate::{drop_caught, panic_message};
use super::guard::Guard;
use super::inside::Inside;
use super::plan::{Plan, Planned};
use super::tree::Tree;
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
    /// It is not there now, and nobody is to wait for it.
    #[error("cannot open backend `{instance}` (plugin `{plugin}`): {error}")]
    Unavailable {
        /// The instance's name.
        instance: String,
        /// The plugin's name.
        plugin: String,
        /// What the plugin said.
        error: Error,
    },
    /// It came back, and says that it cannot work.
    #[error("backend `{instance}` (plugin `{plugin}`) was opened and is not healthy: {reason}")]
    Unhealthy {
        /// The instance's name.
        instance: String,
        /// The plugin's name.
        plugin: String,
        /// What it said.
        reason: String,
    },
    /// An earlier call still hangs.
    #[error(
        "cannot open backend `{instance}`: plugin `{plugin}` has not returned yet from an earlier attempt to open or close a backend; wait for it, or restart the worker"
    )]
    StillHangs {
        /// The instance's name.
        instance: String,
        /// The plugin's name.
        plugin: String,
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
            Self::Unavailable { .. }
            | Self::Unhealthy { .. }
            | Self::StillHangs { .. }
            | Self::Defect { .. }
            | Self::Late { .. }
            | Self::Thread { .. }
            | Self::Stopped => false,
        }
    }
}

/// What to do about a backend that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Wait for it, however long it takes.
    Endless,
    /// Say so.
    None,
}

impl Plan {
    /// Opens every backend, children before their layers, to be used; blocks, however long a backend is unavailable, until
    /// `stop`.
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
        let tree = self.open_beside(&Carried::nothing(self), Patience::Endless, metrics, current, stop)?;
        if !self.read_only {
            tree.begin();
        }
        Ok(tree)
    }

    /// Opens what is not carried over from another tree. It is not in use yet: see [`Tree::begin`].
    ///
    /// # Errors
    /// When a backend cannot be opened; those that are carried over stay open.
    pub(crate) fn open_beside(
        &self,
        carried: &Carried,
        patience: Patience,
        metrics: &Metrics,
        current: Option<&Current>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Tree, OpenError> {
        let opened = self.open_some(carried, &|_| true, patience, metrics, current, stop)?;
        Ok(self.tree_of(&opened))
    }

    /// Opens those that are wanted and not there yet. What is there already is in the answer, too.
    ///
    /// # Errors
    /// When a backend cannot be opened; those that were there already stay open.
    pub(crate) fn open_some(
        &self,
        there: &Carried,
        wanted: &dyn Fn(usize) -> bool,
        patience: Patience,
        metrics: &Metrics,
        current: Option<&Current>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Carried, OpenError> {
        let mut all = there.clone();
        for (index, planned) in self.nodes.iter().enumerate() {
            if all.guard(index).is_some() || !wanted(index) {
                continue;
            }
            let opened = match patience {
                Patience::Endless => self.open_patiently(planned, &all, current, stop),
                Patience::None => self.open_now(planned, &all, stop),
            };
            match opened {
                Ok(backend) => {
                    let capabilities = planned.description.capabilities.clone();
                    let guard = Guard::new(&planned.name, backend, capabilities, &self.config, metrics);
                    let guard = if planned.children.is_empty() { guard } else { guard.of_layer() };
                    info!(backend = %planned.name, plugin = planned.about.name, version = planned.about.version, "storage.backend_opened");
                    all.add(index, Arc::new(guard));
                }
                Err(error) => {
                    self.close_new(&all, there);
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// Opens one backend and tries it out, or says why that cannot be now.
    fn open_now(
        &self,
        planned: &Planned,
        below: &Carried,
        stop: &dyn Fn() -> bool,
    ) -> Result<Arc<dyn Backend>, OpenError> {
        let (instance, plugin) = (planned.name.to_string(), planned.about.name.clone());
        let inside = Inside::to_open(&planned.plugin, &planned.name, &planned.options);
        let opened = match self.open_once(planned, below, inside, stop)? {
            Ok(opened) => opened,
            Err(error) if error.kind == ErrorKind::Configuration => {
                return Err(OpenError::Configuration { instance, plugin, error });
            }
            Err(error) => return Err(OpenError::Unavailable { instance, plugin, error }),
        };
        let (limit, close_timeout) = (self.config.call_timeout, self.config.close_timeout);
        let work = move || match try_out(&*opened.backend, limit) {
            Ok(()) => Ok(opened),
            Err(reason) => {
                opened.abandon(close_timeout);
                Err(reason)
            }
        };
        let abandoned = move |tried: Result<Opened, String>| {
            if let Ok(opened) = tried {
                opened.abandon(close_timeout);
            }
        };
        let reason = match within("try-out", limit + GRACE, stop, work, abandoned) {
            Ok(Ok(opened)) => return Ok(opened.backend),
            Ok(Err(reason)) => reason,
            Err(Missed::Stopped) => return Err(OpenError::Stopped),
            Err(Missed::NoThread(source)) => return Err(OpenError::Thread { instance, source }),
            Err(Missed::Panicked(message)) => format!("it panicked: {message}"),
            Err(Missed::Late) => format!("it did not say how it is and take an empty merge within {limit:?}"),
        };
        Err(OpenError::Unhealthy { instance, plugin, reason })
    }

    /// Opens one backend, again and again while it is unavailable.
    fn open_patiently(
        &self,
        planned: &Planned,
        below: &Carried,
        current: Option<&Current>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Arc<dyn Backend>, OpenError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1_u32;
        loop {
            let inside = Inside::to_reopen(&planned.plugin, &planned.name, &planned.options);
            let error = match self.open_once(planned, below, inside, stop) {
                Ok(Ok(opened)) => return Ok(opened.backend),
                Ok(Err(error)) => error,
                // It was left behind for the sake of a change, and may yet come back.
                Err(hangs @ OpenError::StillHangs { .. }) => Error::unavailable(hangs),
                Err(error) => return Err(error),
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
        below: &Carried,
        inside: Option<Inside>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Result<Opened, Error>, OpenError> {
        let child = |edge: &super::plan::Edge| {
            let guard = below.guard(edge.node).expect("children are opened before their layers");
            let (role, name) = (edge.role.clone(), guard.instance().to_string());
            let description =
                ChildDescription { role: role.clone(), name: name.clone(), capabilities: guard.capabilities().clone() };
            Child { role, name, description, backend: Arc::clone(guard) as Arc<dyn Backend> }
        };
        let children = planned.children.iter().map(child).collect();
        let (budget, close_timeout) = (self.config.open_timeout, self.config.close_timeout);
        let Some(inside) = inside else {
            let (instance, plugin) = (planned.name.to_string(), planned.about.name.clone());
            return Err(OpenError::StillHangs { instance, plugin });
        };
        let work = {
            let (plugin, name, options) =
                (Arc::clone(&planned.plugin), Arc::clone(&planned.name), planned.options.clone());
            let read_only = self.read_only;
            let durability = planned.description.capabilities.durability();
            move || {
                let backend = plugin.open(&name, &options, children, durability, budget, read_only)?;
                Ok(Opened { backend, inside })
            }
        };
        let abandoned = move |opened: Result<Opened, Error>| {
            if let Ok(opened) = opened {
                opened.abandon(close_timeout);
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

/// What a plugin opened, and is not left alone with yet.
struct Opened {
    backend: Arc<dyn Backend>,
    inside: Inside,
}

impl Opened {
    /// Ends what was never used, and what nobody waits for any more: nobody is left to tell of a failure.
    fn abandon(self, limit: Duration) {
        let Self { backend, inside } = self;
        let close = || drop(backend.close(&Call::with_budget(limit)));
        drop_caught(catch_unwind(AssertUnwindSafe(close)));
        drop_caught(backend);
        drop(inside);
    }
}

/// Whether a backend that was just opened can be used: it says that it is well, and takes a merge of nothing.
fn try_out(backend: &dyn Backend, limit: Duration) -> Result<(), String> {
    let trial = || {
        let health = backend.health();
        if !health.healthy {
            return Err(health.reason);
        }
        match backend.merge(&Call::with_budget(limit), &[]) {
            Ok(answers) if answers.is_empty() => Ok(()),
            Ok(answers) => Err(format!("it gave {} answers to an empty merge", answers.len())),
            Err(error) => Err(format!("it does not take an empty merge: {error}")),
        }
    };
    catch_unwind(AssertUnwindSafe(trial))
        .unwrap_or_else(|payload| Err(format!("it panicked: {}", panic_message(payload))))
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
mod tests;
