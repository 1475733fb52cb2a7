//! Looks at the worker twice a second: logs when a lane gets stuck or free, sets the gauges, and notes since when what is
//! wrong is wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::ErrorKind;
use tokio::sync::mpsc;
use tokio::time::interval;
use tracing::{error, info};

use super::lane::LaneState;
use super::troubles::Seen;
use super::{Shared, source_now};
use crate::journal;
use crate::source::{Control, StreamStatus};
use crate::telemetry::metrics::{Metrics, StreamEntryLabels, StreamLabel};

const EVERY: Duration = Duration::from_millis(500);

/// What is looked at, and what was seen the last time.
pub(super) struct Watch {
    shared: Arc<Shared>,
    lanes: Vec<Arc<LaneState>>,
    sources: Vec<Arc<dyn Control>>,
    stuck: Vec<bool>,
    reconnects: u64,
    disconnected: Duration,
    overruns: u64,
    /// Damaged places of the journal, and their bytes.
    damages: (u64, u64),
    streams: HashMap<String, StreamStatus>,
}

impl Watch {
    pub(super) fn new(
        shared: Arc<Shared>,
        lanes: Vec<Arc<LaneState>>,
        sources: impl Iterator<Item = Arc<dyn Control>>,
    ) -> Self {
        let stuck = vec![false; lanes.len()];
        Self {
            shared,
            lanes,
            sources: sources.collect(),
            stuck,
            reconnects: 0,
            disconnected: Duration::ZERO,
            overruns: 0,
            damages: (0, 0),
            streams: HashMap::new(),
        }
    }

    /// Ends with the lanes.
    pub(super) async fn run(mut self, alive: Option<mpsc::WeakSender<()>>) {
        let mut ticks = interval(EVERY);
        while alive.as_ref().is_some_and(|alive| alive.upgrade().is_some()) {
            ticks.tick().await;
            self.look_at_lanes();
            self.set_gauges();
        }
    }

    fn look_at_lanes(&mut self) {
        for (index, (lane, was_stuck)) in self.lanes.iter().zip(&mut self.stuck).enumerate() {
            let is_stuck = lane.is_stuck();
            if is_stuck && !*was_stuck {
                error!(lane = index, "lane is stuck: a call of the backend does not come back; look at its logs");
            }
            if !is_stuck && *was_stuck {
                info!(lane = index, "lane is free again: the call came back");
            }
            *was_stuck = is_stuck;
        }
    }

    fn set_gauges(&mut self) {
        let metrics: &Metrics = &self.shared.counters.metrics;
        let held = self.shared.budget.held();
        metrics.queue_events.set(gauge(held.events));
        metrics.queue_bytes.set(gauge(held.bytes));
        metrics.confirmations_kept.set(gauge(self.shared.outbox.len()));

        let statuses: Vec<_> = self.sources.iter().map(|source| source.status()).collect();
        let connected = self.shared.outbox.is_connected() && statuses.iter().all(|status| status.connected);
        metrics.redis_connected.set(i64::from(connected));
        let reconnects = statuses.iter().map(|status| status.connections.saturating_sub(1)).sum();
        metrics.redis_reconnects.inc_by(reconnects - self.reconnects);
        self.reconnects = reconnects;
        let disconnected = statuses.iter().map(|status| status.disconnected).sum::<Duration>();
        metrics.redis_disconnected_seconds.inc_by(disconnected.saturating_sub(self.disconnected).as_secs_f64());
        self.disconnected = disconnected;
        let overruns = statuses.iter().map(|status| status.overruns).sum();
        metrics.redis_overruns.inc_by(overruns - self.overruns);
        self.overruns = overruns;
        let journals = || statuses.iter().filter_map(|status| status.journal.as_ref());
        let seen = Seen {
            redis_is_away: !connected,
            journal_is_blocked: journals().any(|journal| journal.problem.is_some()),
            storage_is_away: self.lanes.iter().any(|lane| is_stalled(lane)),
            stored: self.shared.counters.processed.get(),
        };
        self.shared.troubles.note(Instant::now(), seen);
        journals().for_each(|journal| self.show_journal(journal));
        statuses.iter().flat_map(|status| &status.streams).for_each(|stream| self.show_stream(stream));
    }

    fn show_journal(&mut self, now: &journal::Status) {
        let metrics: &Metrics = &self.shared.counters.metrics;
        metrics.journal_entries.set(now.entries.try_into().unwrap_or(i64::MAX));
        metrics.journal_bytes.set(now.bytes.try_into().unwrap_or(i64::MAX));
        metrics.journal_oldest_seconds.set(now.oldest_age(source_now()).as_secs_f64());
        metrics.journal_blocked.set(i64::from(now.problem.is_some()));
        metrics.journal_damages.inc_by(now.damages - self.damages.0);
        metrics.journal_damaged_bytes.inc_by(now.damaged_bytes - self.damages.1);
        self.damages = (now.damages, now.damaged_bytes);
    }

    fn show_stream(&mut self, now: &StreamStatus) {
        let metrics: &Metrics = &self.shared.counters.metrics;
        let label = || StreamLabel { stream: now.stream.clone() };
        let before = self.streams.insert(now.stream.clone(), now.clone()).unwrap_or_default();
        for (how, now_in_all, before) in [
            ("new", now.read, before.read),
            ("redelivered", now.redelivered, before.redelivered),
            ("claimed", now.claimed, before.claimed),
        ] {
            let labels = StreamEntryLabels { stream: now.stream.clone(), how };
            metrics.stream_entries.get_or_create(&labels).inc_by(now_in_all - before);
        }
        metrics.stream_entries_missing.get_or_create(&label()).inc_by(now.missing - before.missing);
        metrics.stream_pending.get_or_create(&label()).set(now.pending.try_into().unwrap_or(i64::MAX));
        match now.lag {
            Some(lag) => {
                metrics.stream_lag.get_or_create(&label()).set(lag.try_into().unwrap_or(i64::MAX));
            }
            None => {
                metrics.stream_lag.remove(&label());
            }
        }
    }
}

/// Whether a lane waits for its backend. What is `internal` may be the fault of a single event that waits for company, but
/// not of several.
fn is_stalled(lane: &LaneState) -> bool {
    lane.retrying().is_some_and(|error| match error.kind {
        ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => true,
        ErrorKind::InvalidItem | ErrorKind::Internal => lane.holds_several(),
    })
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
