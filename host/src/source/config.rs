//! The keys of `[redis]` and `[source]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::units;

/// `[redis]`: the server that events come from and confirmations go to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Where it is, `redis://`, `rediss://` (TLS) or `unix://`. Default `redis://redis:6379`; `REDIS_URL`.
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
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: Secret::new("redis://redis:6379"),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            reconnect_max: Duration::from_secs(5),
        }
    }
}

/// `[source]`: where deliveries come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[source.pubsub]`.
    pub pubsub: PubSubConfig,
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
