//! The keys of `[redis]` and `[source]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::redis_client::{URL_FORMS, url_problem};
use crate::secret::Secret;
use crate::units;

/// `[redis]`: the server that events come from and confirmations go to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Where it is: `redis://`, `rediss://` (TLS), `unix://`, `redis+cluster://` or `redis+sentinel://`. Default
    /// `redis://redis:6379`; `REDIS_URL`.
    pub url: Secret,
    /// How long one attempt to connect may take. Default 5 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// How long an answer may take before the connection is given up. Default 10 s.
    #[serde(with = "units::duration")]
    pub response_timeout: Duration,
    /// Longest pause between two attempts to connect; the first is far shorter, and jitter spreads them. Default 5 s.
    #[serde(with = "units::duration")]
    pub reconnect_max: Duration,
    /// `[redis.tls]`.
    pub tls: TlsConfig,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: Secret::new("redis://redis:6379"),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            reconnect_max: Duration::from_secs(5),
            tls: TlsConfig::default(),
        }
    }
}

/// `[redis.tls]`: certificates for `rediss://`, PEM files that are read for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The authorities that the server's certificate may come from. Default those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificate that the worker shows, with those that lead to its authority. Default none.
    pub certificate_file: Option<PathBuf>,
    /// The key of that certificate.
    pub key_file: Option<PathBuf>,
}

impl RedisConfig {
    /// What does not fit together: the key and what to do.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if let Some(reason) = url_problem(self.url.expose()) {
            let message = format!("`redis.url` is no Redis URL: `{}` ({reason}); {URL_FORMS}", self.url);
            problems.push(("url", message));
        }
        let TlsConfig { certificate_file, key_file, .. } = &self.tls;
        if certificate_file.is_some() != key_file.is_some() {
            let message = "`redis.tls.certificate_file` and `redis.tls.key_file` belong together; give both, or none";
            problems.push(("tls", message.to_owned()));
        }
        problems
    }
}

/// `[source]`: where deliveries come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[source.pubsub]`.
    pub pubsub: PubSubConfig,
    /// `[source.streams]`.
    pub streams: StreamsConfig,
}

/// `[source.pubsub]`: the channels of the event rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PubSubConfig {
    /// Whether the channels are subscribed to. Default true.
    pub enabled: bool,
}

impl Default for PubSubConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[source.streams]`: streams, read as a member of a consumer group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamsConfig {
    /// The keys of the streams. Default none, which turns this source off.
    pub streams: Vec<String>,
    /// The consumer group, the same for all workers that share the work. Default `storage-worker`.
    pub group: String,
    /// Where a group starts that does not exist yet. Default `0`, the oldest entry.
    pub start: Start,
    /// Most entries read at once; fewer where entries are large. Default 1000.
    #[serde(with = "units::count")]
    pub count: usize,
    /// How long one read waits for entries; the end of the worker may have to wait for it. Default 500 ms.
    #[serde(with = "units::duration")]
    pub block: Duration,
    /// A worker of the group that says nothing for so long counts as dead, and the others take its entries. Default 30 s.
    #[serde(with = "units::duration")]
    pub claim_after: Duration,
    /// After so many deliveries an entry is merged in a call of its own. Default 10.
    #[serde(with = "units::count")]
    pub alone_after: u64,
    /// Consumers that said nothing for so long and hold no entries are removed from the group. Default 1 h.
    #[serde(with = "units::duration")]
    pub remove_after: Duration,
    /// Whether entries are trimmed that every group of the stream has acknowledged. Default false.
    pub trim: bool,
    /// The field of an entry that names the event's channel. Default `channel`.
    pub channel_field: String,
    /// The field that holds the event as JSON, in an entry that has no others but the channel. Default `data`.
    pub data_field: String,
    /// Fields that hold a JSON object as text, in an entry of an event's own fields. Default `metadata`.
    pub json_fields: Vec<String>,
    /// Fields that hold an integer, in such an entry. Default `exit_code`, `runtime_ms`, `memory_used_mb`.
    pub integer_fields: Vec<String>,
}

/// Where a new consumer group starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With the oldest entry of the stream.
    #[serde(rename = "0")]
    Oldest,
    /// With the first entry that is added after the group.
    #[serde(rename = "$")]
    New,
}

impl Default for StreamsConfig {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            streams: Vec::new(),
            group: "storage-worker".to_owned(),
            start: Start::Oldest,
            count: 1000,
            block: Duration::from_millis(500),
            claim_after: Duration::from_secs(30),
            alone_after: 10,
            remove_after: Duration::from_secs(3600),
            trim: false,
            channel_field: "channel".to_owned(),
            data_field: "data".to_owned(),
            json_fields: owned(&["metadata"]),
            integer_fields: owned(&["exit_code", "runtime_ms", "memory_used_mb"]),
        }
    }
}

/// A worker says that it lives twice a second; on a busy machine it may miss one.
const LEAST_CLAIM_AFTER: Duration = Duration::from_secs(1);
/// The end of a worker may have to wait for a read that blocks.
const LONGEST_BLOCK: Duration = Duration::from_secs(5);

impl StreamsConfig {
    /// Whether any stream is read.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        !self.streams.is_empty()
    }

    /// What does not fit together: the key and what to do.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut add = |key, message: &str| problems.push((key, message.to_owned()));
        if self.streams.iter().enumerate().any(|(index, name)| self.streams[..index].contains(name)) {
            add("streams", "`source.streams.streams` names a stream twice; name each once");
        }
        if self.streams.iter().any(String::is_empty) {
            add("streams", "`source.streams.streams` holds an empty name; give the key of a stream");
        }
        if self.group.is_empty() {
            add("group", "`source.streams.group` is empty; give the group a name");
        }
        if self.claim_after < LEAST_CLAIM_AFTER {
            add(
                "claim_after",
                "`source.streams.claim_after` is below 1s, so that workers that live would count as dead; raise it",
            );
        }
        if self.remove_after < self.claim_after {
            add(
                "remove_after",
                "`source.streams.remove_after` is below `source.streams.claim_after`; raise it, or lower the other",
            );
        }
        if self.block > LONGEST_BLOCK {
            add(
                "block",
                "`source.streams.block` is above 5s, and the end of the worker may have to wait for it; lower it",
            );
        }
        if self.channel_field.is_empty() || self.channel_field == self.data_field {
            add(
                "channel_field",
                "`source.streams.channel_field` and `source.streams.data_field` must be two names; change one",
            );
        }
        problems
    }
}
