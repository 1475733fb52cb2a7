//! What a guard counts and times of its backend. Every metric is there from the start, at zero.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use storage_plugin_api::{Answer, ErrorKind, Outcome};

use super::breaker::BreakerState;
use crate::telemetry::metrics::{BackendLabel, FailureLabels, MergeLabels, Metrics};

const OUTCOMES: [&str; 5] = ["created", "updated", "unchanged", "accepted", "rejected"];

/// The metrics of one backend.
#[derive(Debug)]
pub(crate) struct Meter {
    merges: [Counter; OUTCOMES.len()],
    failures: [Counter; ErrorKind::ALL.len()],
    merge_seconds: Histogram,
    merge_batch_events: Histogram,
    breaker_open: Gauge,
}

impl Meter {
    pub(crate) fn new(metrics: &Metrics, instance: &str) -> Self {
        let backend = || instance.to_owned();
        let label = BackendLabel { backend: backend() };
        let merges = OUTCOMES.map(|outcome| MergeLabels { backend: backend(), outcome });
        let failures = ErrorKind::ALL.map(|kind| FailureLabels { backend: backend(), kind: kind.as_str() });
        Self {
            merges: merges.map(|labels| metrics.merges.get_or_create_owned(&labels)),
            failures: failures.map(|labels| metrics.storage_failures.get_or_create_owned(&labels)),
            merge_seconds: metrics.merge_seconds.get_or_create_owned(&label),
            merge_batch_events: metrics.merge_batch_events.get_or_create_owned(&label),
            breaker_open: metrics.breaker_open.get_or_create_owned(&label),
        }
    }

    /// A merge came back from the backend, whatever it answered.
    pub(crate) fn merge_called(&self, items: usize, elapsed: Duration) {
        self.merge_seconds.observe(elapsed.as_secs_f64());
        // A batch is far below 2^32.
        self.merge_batch_events.observe(f64::from(u32::try_from(items).unwrap_or(u32::MAX)));
    }

    /// A merge was answered item by item.
    pub(crate) fn merged(&self, answers: &[Answer]) {
        let mut counts = [0; OUTCOMES.len()];
        for answer in answers {
            counts[index(&answer.outcome)] += 1;
            if let Outcome::Rejected(error) = &answer.outcome {
                self.failed(error.kind);
            }
        }
        for (counter, count) in self.merges.iter().zip(counts).filter(|(_, count)| *count > 0) {
            counter.inc_by(count);
        }
    }

    /// A call, or one item of it, failed: in the backend or for want of a place.
    pub(crate) fn failed(&self, kind: ErrorKind) {
        let index = ErrorKind::ALL.iter().position(|known| *known == kind);
        self.failures[index.expect("every kind is among all kinds")].inc();
    }

    /// The breaker opened or closed.
    pub(crate) fn breaker(&self, state: BreakerState) {
        self.breaker_open.set(i64::from(state != BreakerState::Closed));
    }
}

fn index(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Created => 0,
        Outcome::Updated => 1,
        Outcome::Unchanged => 2,
        Outcome::Accepted => 3,
        Outcome::Rejected(_) => 4,
    }
}
