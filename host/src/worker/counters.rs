//! What the worker counts. Each is added to where the fact is decided, and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};

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
}
