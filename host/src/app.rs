//! Puts the parts together: storage tree, sources, worker and HTTP; runs them, and ends them in order.
//!
//! The only place that knows all parts. Storage is opened while the worker takes events already: until it is open they
//! wait, as they do in any outage.

mod keeper;
mod signals;
mod waiting;

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::keeper::Keeper;
pub use self::keeper::Reread;
use self::signals::Signal;
pub(crate) use self::signals::Signals;
use self::waiting::Waiting;
use crate::config::{Config, ConfigError, Loaded};
use crate::http::{self, AppState, BindError, JournalHealth, Listener, Stalled, WorkerStatus};
use crate::journal::config::Mode;
use crate::journal::{self, Journal, JournalError};
use crate::letters::Destination;
use crate::letters::desk::Desk;
use crate::plugin::Loader;
use crate::plugin::lock::Lock;
use crate::secret::redact_url;
use crate::source::fed::Fed;
use crate::source::journaled::Journaled;
use crate::source::pubsub::PubSub;
use crate::source::redis_client::{RedisClient, RedisClientError};
use crate::source::streams::Streams;
use crate::source::{Source, now};
use crate::storage::explain::Setting;
use crate::storage::{Current, OpenError, Plan, Problems, ReloadError};
use crate::telemetry::metrics::Metrics;
use crate::worker::{Died, Left, Parts, Served, Since, Worker};

/// The generation of the configuration that a start has.
const FIRST_GENERATION: u64 = 1;

/// Why the worker ended otherwise than by being told to.
#[derive(Debug, Error)]
pub enum AppError {
    /// The configuration cannot be run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The Redis URL cannot be read.
    #[error("`redis.url` cannot be used")]
    Redis(#[from] RedisClientError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A backend cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The system refused what the worker needs.
    #[error("cannot start the worker; raise the limits of threads and open files")]
    System(#[from] io::Error),
    /// It was told to end and could not store everything that it had taken.
    #[error(
        "ended before everything was stored: {} events and {} confirmations are lost; raise `worker.drain_timeout`",
        .0.deliveries, .0.confirmations
    )]
    NotDrained(Left),
    /// A thread panicked; without it the worker would only seem to run.
    #[error(
        "the thread `{0}` has panicked, which is a defect; please report it with the log. What was taken is drained"
    )]
    Died(String),
    /// A backend could not be closed.
    #[error("ended, but storage was not closed as it should: {0}")]
    NotClosed(String),
}

impl AppError {
    /// True if the operator has to change the configuration.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Config(_) | Self::Redis(_) | Self::Journal(_) | Self::Bind(_) => true,
            Self::Open(error) => error.is_configuration(),
            Self::System(_) | Self::Died(_) | Self::NotDrained(_) | Self::NotClosed(_) => false,
        }
    }
}

/// Makes sense of the storage tree of a configuration: loads its plugins, opens nothing.
///
/// # Errors
/// Everything that is wrong with it, each with its line.
pub fn plan(loaded: &Loaded, metrics: &Metrics) -> Result<Plan, ConfigError> {
    plan_with(loaded, &loader(loaded, metrics))
}

/// Says why the journal of a configuration could not be written, as far as can be told without touching it.
///
/// # Errors
/// The problem, with its line.
pub fn check_journal(loaded: &Loaded) -> Result<(), ConfigError> {
    let config = &loaded.config;
    let is_journaled = config.source.pubsub.enabled && config.journal.mode != Mode::Off;
    match journal::unwritable(&config.journal).filter(|_| is_journaled) {
        Some(error) => Err(ConfigError::Problems(vec![loaded.problem(&["journal", "path"], error.to_string())])),
        None => Ok(()),
    }
}

/// Makes sense of some backends of a configuration and what is below them; opens nothing.
///
/// # Errors
/// Everything that is wrong with them, each with its line.
pub fn plan_some(loaded: &Loaded, metrics: &Metrics, names: &[&str]) -> Result<Plan, ConfigError> {
    let loader = with_lock(loaded, &loader(loaded, metrics))?;
    Plan::of_some(&loaded.config.storage, &loaded.config.backends, &loader, names).map_err(placed(loaded))
}

fn loader(loaded: &Loaded, metrics: &Metrics) -> Loader {
    let storage = &loaded.config.storage;
    Loader::new(&storage.plugin_dirs, storage.plugin_cache_dir.as_deref(), Arc::new(metrics.clone()))
}

/// The plan of a configuration, with the plugins that a loader knows already.
fn plan_with(loaded: &Loaded, loader: &Loader) -> Result<Plan, ConfigError> {
    let loader = with_lock(loaded, loader)?;
    Plan::of(&loaded.config.storage, &loaded.config.backends, &loader).map_err(placed(loaded))
}

/// The loader as a configuration wants it.
fn with_lock(loaded: &Loaded, loader: &Loader) -> Result<Loader, ConfigError> {
    let storage = &loaded.config.storage;
    let lock = loaded.file.as_deref().map(Lock::beside).transpose();
    let lock = lock.map_err(|error| ConfigError::Problems(vec![loaded.problem(&["backends"], error.to_string())]))?;
    Ok(loader.looking_in(&storage.plugin_dirs, storage.plugin_cache_dir.as_deref()).with_lock(lock.flatten()))
}

/// Problems of storage with their lines.
fn placed(loaded: &Loaded) -> impl Fn(Problems) -> ConfigError + '_ {
    let place = |problem: crate::storage::Problem| loaded.problem(&problem.path, problem.message);
    move |problems| ConfigError::Problems(problems.0.into_iter().map(place).collect())
}

/// Runs the worker until it is told to end. `reread` gives the configuration as it is when storage is to be changed.
///
/// # Errors
/// When it cannot start, or did not end as it should.
pub async fn run(loaded: Loaded, reread: Reread) -> Result<(), AppError> {
    let mut signals = Signals::listen()?;
    let drain_timeout = loaded.config.worker.drain_timeout;
    let app = App::start(loaded, reread).await?;
    let (mut failed, mut died) = (pin!(app.failed()), pin!(app.worker.died()));
    let ended = loop {
        tokio::select! {
            failure = &mut failed => break Err(failure),
            Died(thread) = &mut died => break Err(AppError::Died(thread)),
            signal = signals.next() => match signal {
                Signal::Reload => {
                    info!("SIGHUP, reading the configuration again");
                    let keeper = Arc::clone(&app.keeper);
                    tokio::spawn(async move {
                        // Whatever had its turn has logged how it ended.
                        if let Err(error @ (ReloadError::TooMany | ReloadError::Ending)) = keeper.reload(false).await {
                            warn!(%error, "storage.not_reloaded");
                        }
                    });
                }
                Signal::End(signal) => {
                    info!(signal, "storage_worker.stopping");
                    break Ok(());
                }
            },
        }
    };
    app.draining.store(true, Ordering::Relaxed);
    let result = tokio::select! {
        result = app.end(drain_timeout) => result,
        signal = signals.end() => {
            warn!(signal, "told to end a second time, ending at once");
            let left = app.abandon();
            if left.is_lost() { Err(AppError::NotDrained(left)) } else { Ok(()) }
        }
    };
    info!("storage_worker.stopped");
    ended.and(result)
}

/// The running parts.
struct App {
    worker: Arc<Worker>,
    keeper: Arc<Keeper>,
    draining: Arc<AtomicBool>,
    opening: tokio::sync::Mutex<oneshot::Receiver<OpenError>>,
}

impl App {
    async fn start(loaded: Loaded, reread: Reread) -> Result<Self, AppError> {
        let metrics = Metrics::new();
        let loader = loader(&loaded, &metrics);
        let plan = plan_with(&loaded, &loader)?;
        let settings: Vec<Setting> = loaded.settings().into_iter().map(Setting::from).collect();
        let settings = Arc::new(RwLock::new(settings));
        let config = loaded.config;
        let current = Arc::new(Current::opening());
        let redis = RedisClient::new(&config.redis)?;
        // Before anything is received: an address in use must not cost an event.
        let public = Listener::bind("http", config.http.listen).await?;
        let admin = Listener::bind("admin", config.admin.listen).await?;
        let fed = Fed::default();
        let letters = Destination::new(&config.dead_letters, &config.redis)?;
        let (feed, desk) = (fed.feed(), Desk::new(letters.clone()));
        let worker = Arc::new(start_worker(&config, &plan, redis, letters, &current, &metrics, fed)?);
        let draining = Arc::new(AtomicBool::new(false));
        info!(
            backend = config.storage.backend,
            redis_url = %redact_url(config.redis.url.expose()),
            version = env!("CARGO_PKG_VERSION"),
            generation = FIRST_GENERATION,
            "storage_worker.initialized"
        );
        let (http, max_connections) = (config.http.clone(), config.http.max_connections);
        let (failed, opening) = oneshot::channel();
        let parts = keeper::Parts {
            worker: Arc::clone(&worker),
            current: Arc::clone(&current),
            metrics: metrics.clone(),
            loader,
            plan,
            config,
            settings: Arc::clone(&settings),
            generation: FIRST_GENERATION,
            reread,
        };
        let keeper = Arc::new(Keeper::start(parts, failed)?);
        let worker_status = worker_status(&worker, &draining);
        let reload = Arc::clone(&keeper);
        let reload = move |force| -> http::Reloading {
            let keeper = Arc::clone(&reload);
            Box::pin(async move { keeper.reload(force).await })
        };
        let parts = http::Parts {
            storage: current,
            worker: worker_status,
            metrics,
            settings,
            reload: Box::new(reload),
            desk,
            feed,
        };
        let state = AppState::new(parts, &http);
        for (listener, router) in [(public, http::public(&state)), (admin, http::admin(&state))] {
            // Served until the process ends: health is worth most while the worker drains.
            tokio::spawn(listener.serve(router, max_connections, CancellationToken::new()));
        }
        Ok(Self { worker, keeper, draining, opening: tokio::sync::Mutex::new(opening) })
    }

    /// Waits until it turns out that storage cannot be opened, for ever if it can.
    async fn failed(&self) -> AppError {
        match (&mut *self.opening.lock().await).await {
            Ok(error) => error.into(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Finishes what was taken, then closes storage.
    async fn end(&self, drain_timeout: Duration) -> Result<(), AppError> {
        self.keeper.hold();
        let left = self.worker.drain(Instant::now() + drain_timeout).await;
        let keeper = Arc::clone(&self.keeper);
        let failures = tokio::task::spawn_blocking(move || keeper.end()).await.unwrap_or_default();
        for failure in &failures {
            error!(backend = %failure.instance, reason = failure.reason, "storage.close_failed");
        }
        match failures.first() {
            _ if left.is_lost() => Err(AppError::NotDrained(left)),
            None => Ok(()),
            Some(first) => Err(AppError::NotClosed(format!("backend `{}`: {}", first.instance, first.reason))),
        }
    }

    /// Ends every wait.
    fn abandon(&self) -> Left {
        self.worker.give_up();
        self.worker.left()
    }
}

fn start_worker(
    config: &Config,
    plan: &Plan,
    redis: RedisClient,
    dead_letters: Destination,
    current: &Arc<Current>,
    metrics: &Metrics,
    fed: Fed,
) -> Result<Worker, AppError> {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(fed)];
    let is_journaled = config.source.pubsub.enabled && config.journal.mode != Mode::Off;
    if config.source.pubsub.enabled {
        let channels = config.events.channels().map(str::to_owned);
        let pubsub = Box::new(PubSub::new(redis.clone(), channels, &Handle::current())?);
        sources.push(match is_journaled {
            true => Box::new(Journaled::new(pubsub, Journal::open(&config.journal)?)),
            false => pubsub,
        });
    }
    let left = if is_journaled { 0 } else { journal::left_behind(&config.journal) };
    if left > 0 {
        let path = config.journal.path.display();
        warn!(%path, bytes = left, "the journal is off and holds events that were not stored; start once with it on, or remove it");
    }
    if config.source.streams.is_enabled() {
        let channels = config.events.channels().map(str::to_owned);
        let (streams, name) = (&config.source.streams, config.worker.name());
        sources.push(Box::new(Streams::new(&redis, streams, &name, channels, &Handle::current())?));
    }
    let parts = Parts {
        sources,
        rows: config.events.clone(),
        served: Served {
            backend: Arc::new(Waiting::new(Arc::clone(current))),
            name: config.storage.backend.as_str().into(),
            generation: FIRST_GENERATION,
            call_timeout: config.storage.call_timeout,
        },
        parallel_calls: plan.capabilities().parallel_calls,
        redis,
        dead_letters,
        metrics: metrics.clone(),
    };
    Ok(Worker::start(&config.worker, parts, &Handle::current())?)
}

fn journal_health(status: &journal::Status) -> JournalHealth {
    JournalHealth {
        mode: status.mode.as_str(),
        entries: status.entries,
        bytes: status.bytes,
        oldest_seconds: status.oldest_age(now()).as_secs(),
        problem: status.problem.clone(),
    }
}

/// How health learns of the worker.
fn worker_status(worker: &Arc<Worker>, draining: &Arc<AtomicBool>) -> Box<dyn Fn() -> WorkerStatus + Send + Sync> {
    let (worker, draining) = (Arc::clone(worker), Arc::clone(draining));
    let stuck = |lane: &usize| format!("storage: lane {lane} waits for a call that does not come back");
    Box::new(move || {
        let status = worker.status();
        let last_error = status.sources.iter().find_map(|source| source.status.last_error.clone());
        let redis_healthy = status.is_redis_connected();
        let journal = status.sources.iter().find_map(|source| source.status.journal.as_ref());
        let Since { redis, journal: blocked, storage } = status.troubles;
        let lasts = |since: Option<std::time::Instant>| since.map(|since| since.elapsed());
        let stalled = storage
            .zip(status.retrying_lanes.first())
            .map(|(since, (_, error))| Stalled { reason: error.to_string(), lasts: since.elapsed() });
        WorkerStatus {
            redis_healthy,
            redis_reason: last_error.filter(|_| !redis_healthy).unwrap_or_default(),
            redis_away_for: lasts(redis),
            journal_blocked_for: lasts(blocked),
            stalled,
            events_processed: status.events_processed,
            generation: status.generation,
            draining: draining.load(Ordering::Relaxed),
            stuck: status.stuck_lanes.iter().map(stuck).collect(),
            journal: journal.map(journal_health),
        }
    })
}
