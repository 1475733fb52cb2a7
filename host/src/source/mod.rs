//! Where deliveries come from.
//!
//! A source knows nothing of evaluations: it hands over what arrived and is told when a delivery is settled.
//! `pubsub.rs` is the source that subscribes to channels, `streams` the one that reads streams as a member of a consumer
//! group, `fed.rs` the one that is fed through the admin listener; `journaled.rs` puts a journal behind
//! a source; `redis_client.rs` builds every connection to Redis.

pub mod config;
pub mod fed;
pub mod journaled;
mod overrun;
pub mod pubsub;
pub mod redis_client;
mod standing;
pub mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::journal;

/// One message as it was received, with the token that settles it.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// The channel it was published on; on a stream, the channel that the entry names.
    pub channel: Arc<str>,
    /// The message.
    pub payload: Vec<u8>,
    /// When it was received, in microseconds since 1970.
    pub received_at: i64,
    /// The time that travelled with it, else that of the stream entry, in microseconds; none for pub/sub.
    pub entry_time: Option<i64>,
    /// The event id that travelled with it, for an event that has none of its own.
    pub event_id: Option<Arc<str>>,
    /// What the source wants to have back once the delivery is settled; none if it does not care.
    pub token: Option<Token>,
    /// It was delivered suspiciously often, so it is to be merged in a call of its own: then nobody else pays for it, and
    /// what it is guilty of shows.
    pub alone: bool,
    /// It is a dead letter that is tried again: whoever keeps it is told if it fails, and it becomes no second one.
    pub is_letter: bool,
}

/// What a source knows a delivery by. Only the source that gave it understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub [u64; 3]);

/// Something that deliveries come from. It is read by one thread of the worker, its own.
///
/// The one who reads may stay away for long, because the lanes are full: a source then stops taking from the far side,
/// and holds no more than it has taken already.
pub trait Source: Send + 'static {
    /// Its name in logs and metrics, say `pubsub`.
    fn name(&self) -> &'static str;

    /// What other threads need of it while this one reads.
    fn control(&self) -> Arc<dyn Control>;

    /// Waits for deliveries and appends them.
    ///
    /// # Behavior
    /// - Hands over what is there without waiting for more, and never an empty batch.
    /// - An outage of the far side is waited out, never reported as the end.
    /// - After [`Control::stop`] it hands over what had arrived by then, and ends.
    fn read(&mut self, deliveries: &mut Vec<Delivery>) -> Read;
}

/// How a read came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// There are deliveries, and may be more.
    Deliveries,
    /// The source has ended; nothing was appended.
    Ended,
}

/// The side of a source that may be used from any thread. No call waits, but for [`Control::finish`].
pub trait Control: std::fmt::Debug + Send + Sync + 'static {
    /// Asks the source to take nothing new and to end once it has handed over what had arrived.
    fn stop(&self);

    /// Says that deliveries are settled: what was persisted is confirmed, what was refused is a durable dead letter.
    fn acknowledge(&self, tokens: &[Token]);

    /// Says that a delivery is settled because it was refused: it is a durable dead letter, for this reason.
    fn refuse(&self, token: Token, _reason: &str, _error: &str) {
        self.acknowledge(&[token]);
    }

    /// The stream and the entry that a delivery came from, if it came from one.
    fn entry(&self, _token: Token) -> Option<(String, String)> {
        None
    }

    /// Waits until the far side knows of everything that was acknowledged, at most until the deadline.
    ///
    /// Called once, after the last acknowledgement. What the far side does not know it delivers again some day.
    fn finish(&self, deadline: Instant);

    /// How the source is.
    fn status(&self) -> Status;
}

/// How a source is, for health and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Deliveries can arrive now.
    pub connected: bool,
    /// How often the connection was made, the first time included.
    pub connections: u64,
    /// How long nothing could arrive since the first connection, all gaps together, the present one included.
    pub disconnected: Duration,
    /// How many deliveries arrived.
    pub received: u64,
    /// Why it is not connected; without secrets.
    pub last_error: Option<String>,
    /// How often Redis ended a subscription because it was not read fast enough.
    pub overruns: u64,
    /// The journal that the source has behind it, if it has one.
    pub journal: Option<journal::Status>,
    /// Of a source that reads streams, each of them.
    pub streams: Vec<StreamStatus>,
}

/// How a stream and its consumer group are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStatus {
    /// The key of the stream.
    pub stream: String,
    /// Entries that no worker of the group has read yet; none where Redis does not say.
    pub lag: Option<u64>,
    /// Entries that workers of the group have read and not acknowledged.
    pub pending: u64,
    /// Entries that this worker read for the first time.
    pub read: u64,
    /// Entries that this worker had read in an earlier life, or over an earlier connection, and took again.
    pub redelivered: u64,
    /// Entries that this worker took over from another one that was gone.
    pub claimed: u64,
    /// Entries that were delivered and removed from the stream before they were settled.
    pub missing: u64,
}

/// The time, in microseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
