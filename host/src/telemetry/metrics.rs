//! Every metric, declared once: name, unit, labels, help. Others only count.
//!
//! Names begin with `storage_worker_`, except those of the process, which every Prometheus dashboard knows by their own.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter that counts in fractions, of seconds say.
pub type FloatCounter = Counter<f64, AtomicU64>;

/// A gauge of any number.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// A family of histograms.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of one worker; clones are handles to the same ones.
#[derive(Clone)]
pub struct Metrics {
    handles: Arc<Handles>,
    registry: Arc<Registry>,
    /// The names of what each backend's plugin measures.
    measured: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
}

/// A handle to every metric.
#[derive(Clone, Debug)]
pub struct Handles {
    /// Deliveries taken from a source.
    pub events_received: Family<ChannelLabel, Counter>,
    /// Events merged and confirmed, or handed to the confirmations that wait, by what their merge did.
    pub events_processed: Family<ResultLabel, Counter>,
    /// Deliveries that are no valid event.
    pub events_rejected: Family<ReasonLabel, Counter>,
    /// Items of merges, by what became of them.
    pub merges: Family<MergeLabels, Counter>,
    /// How long a call of `merge` took.
    pub merge_seconds: Histograms<BackendLabel>,
    /// How many items a call of `merge` had.
    pub merge_batch_events: Histograms<BackendLabel>,
    /// Calls or items that failed, by error kind.
    pub storage_failures: Family<FailureLabels, Counter>,
    /// Whether a backend is left alone because it is unavailable: 1 or 0.
    pub breaker_open: Family<BackendLabel, Gauge>,
    /// Calls that were made again.
    pub storage_retries: Counter,
    /// Whether there is a connection to Redis: 1 or 0.
    pub redis_connected: Gauge,
    /// Connections made anew.
    pub redis_reconnects: Counter,
    /// How long there was no connection.
    pub redis_disconnected_seconds: FloatCounter,
    /// Subscriptions that Redis ended because they were not read fast enough.
    pub redis_overruns: Counter,
    /// Entries of the journal that are not settled.
    pub journal_entries: Gauge,
    /// Bytes of the journal on disk.
    pub journal_bytes: Gauge,
    /// How long the oldest entry that is not settled has been there.
    pub journal_oldest_seconds: FloatGauge,
    /// Whether the journal takes nothing: 1 or 0.
    pub journal_blocked: Gauge,
    /// Damaged places found in the journal.
    pub journal_damages: Counter,
    /// Bytes of the journal that were lost to damage.
    pub journal_damaged_bytes: Counter,
    /// Confirmations that Redis took.
    pub confirmations_published: Counter,
    /// Confirmations that wait for Redis now.
    pub confirmations_kept: Gauge,
    /// Confirmations given up because too many waited.
    pub confirmations_dropped: Counter,
    /// From receipt to confirmation.
    pub processing_lag_seconds: Histogram,
    /// From the event's own time to confirmation.
    pub event_lag_seconds: Histogram,
    /// Events that wait or are being merged now.
    pub queue_events: Gauge,
    /// About how many bytes they hold.
    pub queue_bytes: Gauge,
    /// Events written to the dead letters.
    pub dead_letters: Family<ReasonLabel, Counter>,
    /// Dead letters that rotation dropped.
    pub dead_letters_dropped: Counter,
    /// Entries of a stream, by how they came to this worker.
    pub stream_entries: Family<StreamEntryLabels, Counter>,
    /// Entries of a stream that were removed before they were settled.
    pub stream_entries_missing: Family<StreamLabel, Counter>,
    /// Entries of a stream that the group has not read; absent where Redis does not say.
    pub stream_lag: Family<StreamLabel, Gauge>,
    /// Entries of a stream that the group has read and not acknowledged.
    pub stream_pending: Family<StreamLabel, Gauge>,
    /// Whatever a plugin counts.
    pub backend_count: Family<BackendMetricLabels, FloatCounter>,
    /// Whatever a plugin measures.
    pub backend_gauge: Family<BackendMetricLabels, FloatGauge>,
    /// Plugin libraries that are loaded; none is ever unloaded.
    pub plugins_loaded: Gauge,
    /// The configuration in force; counts up with every reload.
    pub generation: Gauge,
}

/// A channel that has an event row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChannelLabel {
    /// The channel.
    pub channel: String,
}

/// Why something was refused; from a fixed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The reason.
    pub reason: &'static str,
}

/// What the merge of an event did, as its confirmation says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `created`, `updated`, `repeated` or `accepted`.
    pub result: &'static str,
}

/// A stream that is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabel {
    /// The key of the stream.
    pub stream: String,
}

/// A stream and how an entry of it came to this worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamEntryLabels {
    /// The key of the stream.
    pub stream: String,
    /// `new`, `redelivered` (this worker had read it before) or `claimed` (from a worker that was gone).
    pub how: &'static str,
}

/// A configured backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BackendLabel {
    /// Its name in the configuration.
    pub backend: String,
}

/// A backend and what became of an item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MergeLabels {
    /// The backend's name in the configuration.
    pub backend: String,
    /// `created`, `updated`, `unchanged`, `accepted` or `rejected`.
    pub outcome: &'static str,
}

/// A backend and the kind of an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    /// The backend's name in the configuration.
    pub backend: String,
    /// The name of a `storage_plugin_api::ErrorKind`.
    pub kind: &'static str,
}

/// A backend and the name that its plugin gives to a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BackendMetricLabels {
    /// The backend's name in the configuration.
    pub backend: String,
    /// The plugin's name for it.
    pub metric: String,
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        let handles = Handles::new(registry.sub_registry_with_prefix("storage_worker"));
        Self { handles: Arc::new(handles), registry: Arc::new(registry), measured: Arc::default() }
    }

    /// Sets what a backend's plugin measures.
    pub fn set_backend_gauge(&self, backend: &str, metric: &str, value: f64) {
        let labels = BackendMetricLabels { backend: backend.to_owned(), metric: metric.to_owned() };
        if self.backend_gauge.get(&labels).is_none() {
            let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
            measured.entry(backend.to_owned()).or_default().insert(metric.to_owned());
        }
        self.backend_gauge.get_or_create(&labels).set(value);
    }

    /// A backend is gone: what was measured of it last is so no more. What was counted stays.
    pub fn forget_backend(&self, backend: &str) {
        self.breaker_open.remove(&BackendLabel { backend: backend.to_owned() });
        let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner).remove(backend);
        for metric in measured.into_iter().flatten() {
            self.backend_gauge.remove(&BackendMetricLabels { backend: backend.to_owned(), metric });
        }
    }

    /// All metrics as text, in the OpenMetrics format; see [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Metrics {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Handles {
    #[expect(clippy::too_many_lines, reason = "one declaration after the other")]
    fn new(registry: &mut Registry) -> Self {
        macro_rules! register {
            ($metric:expr, $name:literal, $help:literal) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
            ($metric:expr, $name:literal, $unit:expr, $help:literal) => {{
                let metric = $metric;
                registry.register_with_unit($name, $help, $unit, metric.clone());
                metric
            }};
        }
        registry.register("build", "What runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            events_received: register!(Family::default(), "events_received", "Deliveries taken from a source"),
            events_processed: register!(
                Family::default(),
                "events_processed",
                "Events merged and confirmed, by result; those that were stored before are repeated"
            ),
            events_rejected: register!(Family::default(), "events_rejected", "Deliveries that are no valid event"),
            merges: register!(Family::default(), "merges", "Items of merges, by what became of them"),
            merge_seconds: register!(
                Histograms::new_with_constructor(latency),
                "merge",
                Unit::Seconds,
                "How long a merge call took"
            ),
            merge_batch_events: register!(
                Histograms::new_with_constructor(batch),
                "merge_batch_events",
                "How many items a merge call had"
            ),
            storage_failures: register!(
                Family::default(),
                "storage_failures",
                "Calls or items that failed, by error kind"
            ),
            breaker_open: register!(
                Family::default(),
                "breaker_open",
                "Whether a backend is left alone because it is unavailable: 1 or 0"
            ),
            storage_retries: register!(Counter::default(), "storage_retries", "Calls that were made again"),
            redis_connected: register!(
                Gauge::default(),
                "redis_connected",
                "Whether there is a connection to Redis: 1 or 0"
            ),
            redis_reconnects: register!(Counter::default(), "redis_reconnects", "Connections to Redis made anew"),
            redis_disconnected_seconds: register!(
                FloatCounter::default(),
                "redis_disconnected",
                Unit::Seconds,
                "How long there was no connection to Redis"
            ),
            redis_overruns: register!(
                Counter::default(),
                "redis_overruns",
                "Subscriptions that Redis ended because they were not read fast enough"
            ),
            journal_entries: register!(
                Gauge::default(),
                "journal_entries",
                "Entries of the journal that are not stored and confirmed"
            ),
            journal_bytes: register!(Gauge::default(), "journal", Unit::Bytes, "Bytes of the journal on disk"),
            journal_oldest_seconds: register!(
                FloatGauge::default(),
                "journal_oldest",
                Unit::Seconds,
                "Since when the oldest entry that is not settled has been in the journal"
            ),
            journal_blocked: register!(
                Gauge::default(),
                "journal_blocked",
                "Whether the journal is full or cannot be written, and nothing is read: 1 or 0"
            ),
            journal_damages: register!(Counter::default(), "journal_damages", "Damaged places found in the journal"),
            journal_damaged_bytes: register!(
                Counter::default(),
                "journal_damaged",
                Unit::Bytes,
                "Bytes of the journal that were lost to damage"
            ),
            confirmations_published: register!(
                Counter::default(),
                "confirmations_published",
                "Confirmations that Redis took"
            ),
            confirmations_kept: register!(
                Gauge::default(),
                "confirmations_kept",
                "Confirmations that wait for Redis now"
            ),
            confirmations_dropped: register!(
                Counter::default(),
                "confirmations_dropped",
                "Confirmations given up because too many waited"
            ),
            processing_lag_seconds: register!(
                latency(),
                "processing_lag",
                Unit::Seconds,
                "From the receipt of an event to its confirmation"
            ),
            event_lag_seconds: register!(
                latency(),
                "event_lag",
                Unit::Seconds,
                "From the time of an event to its confirmation"
            ),
            queue_events: register!(Gauge::default(), "queue_events", "Events that wait or are being merged now"),
            queue_bytes: register!(
                Gauge::default(),
                "queue",
                Unit::Bytes,
                "Payload of the events that wait or are being merged now"
            ),
            dead_letters: register!(Family::default(), "dead_letters", "Events written to the dead letters"),
            dead_letters_dropped: register!(
                Counter::default(),
                "dead_letters_dropped",
                "Dead letters that rotation dropped"
            ),
            stream_entries: register!(
                Family::default(),
                "stream_entries",
                "Entries taken from a stream, by how they came to this worker"
            ),
            stream_entries_missing: register!(
                Family::default(),
                "stream_entries_missing",
                "Pending entries that were removed from a stream before they were settled"
            ),
            stream_lag: register!(Family::default(), "stream_lag", "Entries that the group has not read yet"),
            stream_pending: register!(
                Family::default(),
                "stream_pending",
                "Entries that the group has read and not acknowledged"
            ),
            backend_count: register!(Family::default(), "backend_count", "What plugins count, by their own names"),
            backend_gauge: register!(Family::default(), "backend_gauge", "What plugins measure, by their own names"),
            plugins_loaded: register!(
                Gauge::default(),
                "plugins_loaded",
                "Plugin libraries that are loaded; none is unloaded, so each new build adds one"
            ),
            generation: register!(Gauge::default(), "generation", "The configuration in force; counts up with reloads"),
        }
    }
}

/// Half a millisecond to a minute, in steps of about two: fine enough for a p99 of some milliseconds.
fn latency() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.002, 0.003, 0.005, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

/// One item to the largest usual batch, doubling.
fn batch() -> Histogram {
    Histogram::new((0..=10).map(|power| f64::from(1 << power)))
}
