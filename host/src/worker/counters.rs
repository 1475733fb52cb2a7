//! What the worker counts. Each is added to where the fact is decided, and nowhere else.
//!
//! The numbers here are those that health and the drain need by themselves; the metrics hold the same ones by label.

use std::sync::atomic::{AtomicU64, Ordering};

use super::settle::{ByResult, MergeResult};
use crate::telemetry::metrics::{Metrics, ReasonLabel, ResultLabel};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, number: usize) {
        self.0.fetch_add(number as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The worker's numbers since its start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Deliveries taken from sources.
    pub(super) taken: Counter,
    /// Those of them that come again unless they are acknowledged.
    pub(super) taken_kept: Counter,
    /// Those of them that are persisted, or dead letters.
    pub(super) settled_kept: Counter,
    /// Events that a backend took.
    pub(super) processed: Counter,
    /// Deliveries that were no events.
    pub(super) rejected: Counter,
    /// Deliveries that are durable dead letters, rejected ones among them.
    pub(super) dead_letters: Counter,
    /// Dead letters that a rotation of their file dropped.
    pub(super) dead_letters_dropped: Counter,
    /// Calls of the storage tree that failed, whole or in part.
    pub(super) failed_calls: Counter,
    /// Confirmations that were published.
    pub(super) confirmations: Counter,
    /// Confirmations that never will be.
    pub(super) confirmations_dropped: Counter,
    /// Events that a backend took, by result, as they are shown.
    shown: [prometheus_client::metrics::counter::Counter; MergeResult::ALL.len()],
    /// Where the same facts are shown.
    pub(super) metrics: Metrics,
}

impl Counters {
    pub(super) fn new(metrics: Metrics) -> Self {
        let shown = MergeResult::ALL.map(|result| {
            let label = ResultLabel { result: result.as_str() };
            metrics.events_processed.get_or_create(&label).clone()
        });
        Self { shown, metrics, ..Self::default() }
    }

    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejected.add(1);
        self.metrics.events_rejected.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn processed(&self, results: &ByResult) {
        self.processed.add(results.all());
        for (shown, events) in self.shown.iter().zip(results.each()) {
            shown.inc_by(events as u64);
        }
    }

    pub(super) fn dead_letter(&self, reason: &'static str) {
        self.dead_letters.add(1);
        self.metrics.dead_letters.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn dead_letters_dropped(&self, letters: usize) {
        self.dead_letters_dropped.add(letters);
        self.metrics.dead_letters_dropped.inc_by(letters as u64);
    }

    pub(super) fn confirmed(&self, confirmations: usize) {
        self.confirmations.add(confirmations);
        self.metrics.confirmations_published.inc_by(confirmations as u64);
    }

    pub(super) fn confirmations_dropped(&self, confirmations: usize) {
        self.confirmations_dropped.add(confirmations);
        self.metrics.confirmations_dropped.inc_by(confirmations as u64);
    }
}
