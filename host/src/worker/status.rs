//! How the worker is, for health, metrics and people.

use std::time::Duration;

use storage_plugin_api::Error;

use super::{Since, Worker};
use crate::source::{self, now};

/// How a worker is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Events that the storage tree took since the start, repeats among them.
    pub events_processed: u64,
    /// Deliveries that were no events.
    pub events_rejected: u64,
    /// Dead letters written, rejected deliveries among them.
    pub dead_letters: u64,
    /// Dead letters that a rotation of their file dropped.
    pub dead_letters_dropped: u64,
    /// Calls of the storage tree that failed, whole or in part.
    pub failed_calls: u64,
    /// Confirmations published.
    pub confirmations: u64,
    /// Confirmations that wait to be published.
    pub confirmations_waiting: usize,
    /// Confirmations that were dropped or refused.
    pub confirmations_dropped: u64,
    /// Confirmations can be published, as far as is known.
    pub confirming: bool,
    /// Events taken and neither persisted nor dead letters.
    pub queue_events: usize,
    /// About how many bytes these hold.
    pub queue_bytes: usize,
    /// How long the oldest of them has waited.
    pub oldest_unsettled: Option<Duration>,
    /// How many lanes there are.
    pub lanes: usize,
    /// The lanes whose call does not come back.
    pub stuck_lanes: Vec<usize>,
    /// Lanes that wait for their next attempt, and why.
    pub retrying_lanes: Vec<(usize, Error)>,
    /// Since when what is wrong is wrong.
    pub troubles: Since,
    /// The generation of the storage tree.
    pub generation: u64,
    /// The sources.
    pub sources: Vec<SourceStatus>,
    /// It takes nothing new.
    pub draining: bool,
}

/// How a source is.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// Its name.
    pub name: &'static str,
    /// How it is.
    pub status: source::Status,
}

impl Status {
    /// Every source can receive, and confirmations can be published.
    #[must_use]
    pub fn is_redis_connected(&self) -> bool {
        self.confirming && self.sources.iter().all(|source| source.status.connected)
    }

    pub(super) fn of(worker: &Worker) -> Self {
        let shared = &worker.shared;
        let counters = &shared.counters;
        let held = shared.budget.held();
        let oldest = worker.lanes.iter().filter_map(|lane| lane.oldest()).min();
        let lanes = || worker.lanes.iter().enumerate();
        Self {
            events_processed: counters.processed.get(),
            events_rejected: counters.rejected.get(),
            dead_letters: counters.dead_letters.get(),
            dead_letters_dropped: counters.dead_letters_dropped.get(),
            failed_calls: counters.failed_calls.get(),
            confirmations: counters.confirmations.get(),
            confirmations_waiting: shared.outbox.len(),
            confirmations_dropped: counters.confirmations_dropped.get(),
            confirming: shared.outbox.is_connected(),
            queue_events: held.events,
            queue_bytes: held.bytes,
            oldest_unsettled: oldest.map(|oldest| Duration::from_micros((now() - oldest).try_into().unwrap_or(0))),
            lanes: worker.lanes.len(),
            stuck_lanes: lanes().filter(|(_, lane)| lane.is_stuck()).map(|(index, _)| index).collect(),
            retrying_lanes: lanes().filter_map(|(index, lane)| Some((index, lane.retrying()?))).collect(),
            troubles: shared.troubles.since(),
            generation: shared.slot.current().generation,
            sources: (worker.sources.iter())
                .map(|(name, control)| SourceStatus { name, status: control.status() })
                .collect(),
            draining: worker.draining.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}
