//! Takes deliveries from sources, merges their events through the storage tree, and settles them.
//!
//! ```text
//!  source ─► intake ─► lane queues ─► lanes ─► outbox ─► confirmer ─► acknowledge
//!            decode    `Budget`       merge    postbox ─► dead-letter writer ─► acknowledge
//! ```
//! The worker alone knows both rooms: sources know nothing of evaluations, storage nothing of Redis. Backends are
//! called from lane threads only, never from an async thread. Start with `lane.rs`; `retry.rs` decides what is tried
//! again, `settle.rs` what is said of the rest.

mod aside;
pub mod config;
mod confirm;
mod counters;
mod dead_letter;
mod gather;
mod intake;
mod lane;
mod queue;
mod retry;
mod running;
mod served;
mod settle;
mod spent;
mod status;
mod taken;
#[cfg(test)]
mod test_kit;
mod troubles;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use self::config::Config;
use self::confirm::{Acknowledge, Confirmer, Outbox};
use self::counters::Counters;
use self::dead_letter::{Postbox, Writer};
use self::intake::{Channels, Intake};
use self::lane::{Lane, LaneState};
use self::queue::{Budget, Held};
pub use self::running::Died;
use self::running::Running;
pub use self::served::Served;
use self::served::Slot;
use self::spent::Spent;
pub use self::status::{SourceStatus, Status};
pub use self::troubles::Since;
use self::troubles::Troubles;
use self::watch::Watch;
use crate::event::decode::Limits;
use crate::event::row::EventRows;
use crate::letters::Destination;
use crate::source::redis_client::RedisClient;
use crate::source::{Control, Source, now as source_now};
use crate::telemetry::metrics::Metrics;

/// What a worker is made of.
pub struct Parts {
    /// Where deliveries come from.
    pub sources: Vec<Box<dyn Source>>,
    /// What the deliveries of a channel mean.
    pub rows: EventRows,
    /// Where events are merged.
    pub served: Served,
    /// How many calls the tree makes use of at once; there are no more lanes than that.
    pub parallel_calls: usize,
    /// Where confirmations go.
    pub redis: RedisClient,
    /// Where dead letters go.
    pub dead_letters: Destination,
    /// Where everything is counted.
    pub metrics: Metrics,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.sources.iter().map(|source| source.name()).collect();
        formatter.debug_struct("Parts").field("sources", &names).field("served", &self.served).finish_non_exhaustive()
    }
}

/// What the threads of a worker share.
#[derive(Debug)]
struct Shared {
    config: Config,
    batch_limit: Held,
    slot: Slot,
    budget: Arc<Budget>,
    outbox: Arc<Outbox>,
    postbox: Arc<Postbox>,
    spent: Spent,
    acknowledge: Arc<Acknowledge>,
    counters: Arc<Counters>,
    troubles: Troubles,
}

/// A running worker. It runs until it is drained; dropped without that, its threads go on until the process ends.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    sources: Vec<(&'static str, Arc<dyn Control>)>,
    lanes: Vec<Arc<LaneState>>,
    draining: AtomicBool,
    groups: tokio::sync::Mutex<Groups>,
    died: tokio::sync::Mutex<mpsc::Receiver<Died>>,
}

/// The threads and tasks, in the order in which they end.
#[derive(Debug)]
struct Groups {
    intakes: Running,
    lanes: Running,
    tail: Running,
}

/// What a drain left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Deliveries that were taken, or wait in the memory of a journal, are neither persisted nor dead letters, and will
    /// not come again.
    pub deliveries: u64,
    /// Confirmations that were not published, nor ever will be.
    pub confirmations: usize,
    /// Deliveries that were not acknowledged: their sources will deliver them again.
    pub kept: u64,
}

impl Left {
    /// True if everything that was taken is settled.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// True if something of it will not come again.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.deliveries > 0 || self.confirmations > 0
    }
}

impl Worker {
    /// Starts to read the sources.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(config: &Config, parts: Parts, runtime: &Handle) -> io::Result<Self> {
        let Parts { sources, rows, served, parallel_calls, redis, dead_letters, metrics } = parts;
        let controls: Vec<_> = sources.iter().map(|source| (source.name(), source.control())).collect();
        let acknowledge =
            Arc::new(Acknowledge { sources: controls.iter().map(|(_, control)| Arc::clone(control)).collect() });
        let shared = Arc::new(Shared {
            config: config.clone(),
            batch_limit: Held { events: config.batch_events, bytes: config.batch_bytes },
            slot: Slot::new(served),
            budget: Arc::new(Budget::new(Held { events: config.queue_events, bytes: config.queue_bytes })),
            outbox: Arc::new(Outbox::new(config.queue_events, config.confirmations_kept)),
            postbox: Arc::default(),
            spent: Spent::default(),
            acknowledge,
            counters: Arc::new(Counters::new(metrics)),
            troubles: Troubles::default(),
        });
        let lanes: Vec<_> = (0..config.lanes.min(parallel_calls).max(1)).map(|_| Arc::new(LaneState::new())).collect();
        let (tell, died) = mpsc::channel(1);
        let group = || Running::new(tell.clone());
        let groups = Groups { intakes: group(), lanes: group(), tail: group() };

        start_tail(&shared, redis, dead_letters, &groups.tail, runtime)?;
        for (index, state) in lanes.iter().enumerate() {
            let lane = Lane::new(index, Arc::clone(state), Arc::clone(&shared));
            groups.lanes.spawn(format!("lane-{index}"), move || lane.run())?;
        }
        let watch =
            Watch::new(Arc::clone(&shared), lanes.clone(), controls.iter().map(|(_, control)| Arc::clone(control)));
        runtime.spawn(watch.run(groups.lanes.alive()));
        let channels = Arc::new(Channels::new(&rows, &shared.counters.metrics));
        for (index, source) in sources.into_iter().enumerate() {
            let intake = Intake {
                source: index,
                channels: Arc::clone(&channels),
                limits: Limits { max_payload_bytes: config.max_payload_bytes },
                lanes: lanes.clone(),
                outgoing: lanes.iter().map(|_| Vec::new()).collect(),
                shared: Arc::clone(&shared),
            };
            groups.intakes.spawn(format!("intake-{}", source.name()), move || intake.run(source))?;
        }
        show_generation(&shared.counters.metrics, shared.slot.current().generation);
        let (groups, died) = (tokio::sync::Mutex::new(groups), tokio::sync::Mutex::new(died));
        Ok(Self { shared, sources: controls, lanes, draining: AtomicBool::new(false), groups, died })
    }

    /// Makes another storage tree the one that is merged into, from the next call of each lane on.
    ///
    /// Returns the one before; a call may still be under way in it for as long as somebody else holds it too.
    pub fn replace(&self, served: Served) -> Arc<Served> {
        let generation = served.generation;
        let before = self.shared.slot.replace(served);
        show_generation(&self.shared.counters.metrics, generation);
        before
    }

    /// Waits until one of its threads has panicked, which is a defect: the worker is to be drained and begun anew.
    pub async fn died(&self) -> Died {
        match self.died.lock().await.recv().await {
            Some(died) => died,
            // All threads have ended as they should.
            None => std::future::pending().await,
        }
    }

    /// How the worker is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::of(self)
    }

    /// Takes nothing new, finishes what was taken, and says what is left at the deadline.
    pub async fn drain(&self, deadline: Instant) -> Left {
        let mut groups = self.groups.lock().await;
        self.draining.store(true, Ordering::Relaxed);
        for (_, control) in &self.sources {
            control.stop();
        }
        let mut in_time = groups.intakes.ended(deadline).await;
        self.lanes.iter().for_each(|lane| lane.queue.close());
        in_time &= groups.lanes.ended(deadline).await;
        self.shared.outbox.close();
        self.shared.postbox.close();
        in_time &= groups.tail.ended(deadline).await;
        if !in_time {
            self.give_up();
        }
        self.finish_sources(deadline).await;
        let left = self.left();
        if left.is_nothing() {
            info!(events_processed = self.shared.counters.processed.get(), "drained");
        } else {
            let Left { deliveries, confirmations, kept } = left;
            warn!(
                deliveries,
                confirmations,
                kept,
                "not drained in time; what is kept by the journal or a stream comes again, the rest is lost"
            );
        }
        left
    }

    /// Lets the sources tell their far sides of what is settled.
    async fn finish_sources(&self, deadline: Instant) {
        let controls: Vec<_> = self.sources.iter().map(|(_, control)| Arc::clone(control)).collect();
        let deadline = deadline.into_std();
        let finish = move || controls.iter().for_each(|control| control.finish(deadline));
        if tokio::task::spawn_blocking(finish).await.is_err() {
            warn!("a source has panicked at its end");
        }
    }

    /// Ends every wait, so that the threads end that are in no call; what they hold is left.
    pub fn give_up(&self) {
        self.shared.budget.abort();
        self.lanes.iter().for_each(|lane| lane.queue.abort());
        self.shared.outbox.abort();
        self.shared.postbox.abort();
    }

    /// What is taken, or waits in memory, and is not settled.
    #[must_use]
    pub fn left(&self) -> Left {
        let counters = &self.shared.counters;
        let settled = counters.processed.get() + counters.dead_letters.get();
        let all = counters.taken.get().saturating_sub(settled);
        let kept = counters.taken_kept.get().saturating_sub(counters.settled_kept.get()).min(all);
        let journals = self.sources.iter().filter_map(|(_, control)| control.status().journal);
        let unrecorded: u64 = journals.map(|journal| journal.unrecorded).sum();
        let (confirmations, confirmations_kept) = self.shared.outbox.left();
        let kept_confirmations = u64::try_from(confirmations_kept).unwrap_or(u64::MAX);
        Left {
            deliveries: all - kept + unrecorded,
            confirmations: confirmations.saturating_sub(confirmations_kept),
            kept: kept + kept_confirmations,
        }
    }
}

fn show_generation(metrics: &Metrics, generation: u64) {
    metrics.generation.set(generation.try_into().unwrap_or(i64::MAX));
}

/// Starts what comes behind the lanes: the confirmer and the writer of dead letters.
fn start_tail(
    shared: &Arc<Shared>,
    redis: RedisClient,
    dead_letters: Destination,
    tail: &Running,
    runtime: &Handle,
) -> io::Result<()> {
    let confirmer = Confirmer {
        client: redis,
        outbox: Arc::clone(&shared.outbox),
        acknowledge: Arc::clone(&shared.acknowledge),
        counters: Arc::clone(&shared.counters),
    };
    tail.spawn_async("confirmer", confirmer.run(), runtime);
    let writer = Writer {
        destination: dead_letters,
        postbox: Arc::clone(&shared.postbox),
        budget: Arc::clone(&shared.budget),
        acknowledge: Arc::clone(&shared.acknowledge),
        counters: Arc::clone(&shared.counters),
    };
    tail.spawn("dead-letters".to_owned(), move || writer.run())
}
