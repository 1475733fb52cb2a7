//! Builds connections to Redis, to the server or to the node of a cluster that it takes. Passwords stay in here: what it
//! shows of an address carries none.
//!
//! Who connects decides when to try again; see `pubsub.rs` and `worker/confirm.rs`. Where to connect to is found out each
//! time, so whoever loses a connection and makes a new one follows a failover.

mod address;
mod nodes;
mod sentinel;
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, RedisError, Value};

use self::address::{Address, place};
use self::nodes::Nodes;
use super::config::{RedisConfig, TlsConfig};

/// A far side that vanished without a word is found by probes within about 20 seconds, whatever we are waiting for.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// What a URL may look like.
pub(crate) const URL_FORMS: &str = "write redis://host:6379, rediss://host:6380 for TLS, unix:///path, \
    redis+cluster://host:6379,host:6379 or redis+sentinel://host:26379,host:26379/name";

/// Why there is no connection to Redis.
#[derive(Debug, thiserror::Error)]
pub enum RedisClientError {
    /// The URL is none.
    #[error("the redis URL cannot be read: {reason}; {URL_FORMS}")]
    Url {
        /// What is wrong with it, without the URL itself.
        reason: String,
    },
    /// A certificate or a key cannot be read.
    #[error("cannot read `{}` for TLS with redis: {reason}", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// None of several servers that were asked where to go could tell.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<RedisClientError>),
    /// The cluster answers, and no node has the key.
    #[error("no node of the redis cluster at `{address}` has the slot of `{key}`; see `redis-cli --cluster check`")]
    NoOwner {
        /// The nodes.
        address: String,
        /// The key.
        key: String,
    },
    /// Redis refused, or could not be reached.
    #[error("cannot connect to redis at `{address}`: {reason}")]
    Connect {
        /// Host and port.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// It took too long.
    #[error("cannot connect to redis at `{address}`: no answer within {}", humantime::format_duration(*.timeout))]
    Timeout {
        /// Host and port.
        address: String,
        /// How long was waited.
        timeout: Duration,
    },
}

/// Redis, as connections can be made to it. Cheap to clone.
#[derive(Clone)]
pub struct RedisClient {
    target: Arc<Target>,
    tls: TlsConfig,
    address: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    reconnect_max: Duration,
}

/// What the URL leads to.
enum Target {
    Server(ConnectionInfo),
    Cluster(Nodes),
    Sentinel { sentinels: Vec<ConnectionInfo>, name: String, primary: ConnectionInfo },
}

impl Target {
    fn has_tls(&self) -> bool {
        match self {
            Self::Server(info) | Self::Sentinel { primary: info, .. } => address::has_tls(info),
            Self::Cluster(nodes) => nodes.steady().iter().all(address::has_tls),
        }
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RedisClient").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What is wrong with a URL, without the URL itself; none if it can be read.
pub(crate) fn url_problem(url: &str) -> Option<String> {
    Address::read(url).err()
}

impl RedisClient {
    /// Reads the URL; connects to nothing.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &RedisConfig) -> Result<Self, RedisClientError> {
        let address = Address::read(config.url.expose()).map_err(|reason| RedisClientError::Url { reason })?;
        // The first one stays; a second client finds it there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let shown = address.shown();
        let target = match address {
            Address::Server(info) => Target::Server(info),
            Address::Cluster(nodes) => Target::Cluster(Nodes::new(nodes)),
            Address::Sentinel { sentinels, name, primary } => Target::Sentinel { sentinels, name, primary },
        };
        if config.tls != TlsConfig::default() && !target.has_tls() {
            tracing::warn!(
                redis = shown,
                "`redis.tls` has certificates and `redis.url` asks for no TLS; begin it with `rediss`"
            );
        }
        let RedisConfig { connect_timeout, response_timeout, reconnect_max, .. } = *config;
        let (target, tls) = (Arc::new(target), config.tls.clone());
        Ok(Self { target, tls, address: shown, connect_timeout, response_timeout, reconnect_max })
    }

    /// Hosts and ports, or the path of the socket; nothing secret.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether different keys may have to be asked for on different servers.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(*self.target, Target::Cluster(_))
    }

    /// How long an answer may take before the connection counts as dead.
    #[must_use]
    pub fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// The pauses between attempts to reach Redis: none at first, then from 50 ms on, jittered, for ever.
    #[must_use]
    pub fn pauses(&self) -> Pauses {
        let later = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50).min(self.reconnect_max))
            // The jitter adds up to as much again.
            .with_max_delay(self.reconnect_max / 2)
            .with_jitter()
            .without_max_times()
            .build();
        Pauses { first: true, later, max: self.reconnect_max }
    }

    /// A connection for subscriptions; in a cluster every node brings what is published on any.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub async fn subscriber(&self) -> Result<PubSub, RedisClientError> {
        let info = self.locate(None).await?;
        let client = self.client(info.clone())?;
        self.within(&info, client.get_async_pubsub()).await
    }

    /// A connection for commands without a key: to any node of a cluster.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub async fn connection(&self) -> Result<MultiplexedConnection, RedisClientError> {
        let info = self.locate(None).await?;
        self.open(info, Duration::ZERO).await
    }

    /// A connection for commands about a key, which Redis may answer so much later on purpose.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub async fn connection_to(&self, key: &str, block: Duration) -> Result<MultiplexedConnection, RedisClientError> {
        let info = self.locate(Some(key)).await?;
        self.open(info, block).await
    }

    /// A connection for a thread that may block: for commands about a key, or without one.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub fn blocking_connection(&self, key: Option<&str>) -> Result<redis::Connection, RedisClientError> {
        let info = match &*self.target {
            Target::Server(info) => info.clone(),
            Target::Cluster(_) | Target::Sentinel { .. } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let refused = |error: std::io::Error| RedisClientError::Connect {
                    address: self.address.clone(),
                    reason: error.to_string(),
                };
                runtime.map_err(refused)?.block_on(self.locate(key))?
            }
        };
        let client = self.client(info.clone())?;
        let connection = client.get_connection_with_timeout(self.connect_timeout).and_then(|connection| {
            connection.set_read_timeout(Some(self.response_timeout))?;
            connection.set_write_timeout(Some(self.response_timeout))?;
            Ok(connection)
        });
        connection.map_err(|error| failed(&info, &error))
    }

    /// Finds the server for a key, or for what has none.
    async fn locate(&self, key: Option<&str>) -> Result<ConnectionInfo, RedisClientError> {
        match (&*self.target, key) {
            (Target::Server(info), _) => Ok(info.clone()),
            (Target::Cluster(nodes), None) => {
                let (node, _) = self.ask_nodes(nodes, nodes.steady(), "").await?;
                nodes.prefer(&node);
                Ok(node)
            }
            (Target::Cluster(nodes), Some(key)) => {
                let (_, owner) = self.ask_nodes(nodes, nodes.in_turn(), key).await?;
                owner.ok_or_else(|| RedisClientError::NoOwner { address: self.address.clone(), key: key.to_owned() })
            }
            (Target::Sentinel { sentinels, name, primary }, _) => self.ask_sentinels(sentinels, name, primary).await,
        }
    }

    /// The first node that answers, and the one that it says has the key.
    async fn ask_nodes(
        &self,
        nodes: &Nodes,
        known: Vec<ConnectionInfo>,
        key: &str,
    ) -> Result<(ConnectionInfo, Option<ConnectionInfo>), RedisClientError> {
        let mut failures = Vec::new();
        for node in known {
            match self.ask_node(&node, key).await {
                Ok(answer) => {
                    let owner = nodes.learn(&node, answer);
                    return Ok((node, owner));
                }
                Err(error) => failures.push(error),
            }
        }
        Err(RedisClientError::Several(failures))
    }

    async fn ask_node(&self, node: &ConnectionInfo, key: &str) -> Result<nodes::Answer, RedisClientError> {
        let refused = |reason: &str| RedisClientError::Connect { address: place(node), reason: reason.to_owned() };
        let mut connection = self.open(node.clone(), Duration::ZERO).await?;
        let answer: redis::RedisResult<(i64, Value)> = nodes::question(key).query_async(&mut connection).await;
        let (slot, slots) = answer.map_err(|error| failed(node, &error))?;
        let answer = nodes::read(slot, &slots, node).ok_or_else(|| refused("its answer to CLUSTER SLOTS is none"))?;
        // One that was taken out of its cluster hears nothing of what is published there.
        if answer.is_empty() { Err(refused("it belongs to no cluster")) } else { Ok(answer) }
    }

    async fn open(&self, info: ConnectionInfo, block: Duration) -> Result<MultiplexedConnection, RedisClientError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout + block));
        let client = self.client(info.clone())?;
        self.within(&info, client.get_multiplexed_async_connection_with_config(&config)).await
    }

    fn client(&self, info: ConnectionInfo) -> Result<Client, RedisClientError> {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
        let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        tls::client(info.set_tcp_settings(settings), &self.tls)
    }

    async fn within<T>(
        &self,
        info: &ConnectionInfo,
        attempt: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, RedisClientError> {
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(failed(info, &error)),
            Err(_) => Err(RedisClientError::Timeout { address: place(info), timeout: self.connect_timeout }),
        }
    }
}

fn failed(info: &ConnectionInfo, error: &RedisError) -> RedisClientError {
    RedisClientError::Connect { address: place(info), reason: error.to_string() }
}

/// See [`RedisClient::pauses`].
#[derive(Debug)]
pub struct Pauses {
    first: bool,
    later: ExponentialBackoff,
    max: Duration,
}

impl Pauses {
    /// How long to wait before the next attempt.
    pub fn pause(&mut self) -> Duration {
        if std::mem::take(&mut self.first) {
            return Duration::ZERO;
        }
        self.later.next().unwrap_or(self.max).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn client(url: &str) -> Result<RedisClient, RedisClientError> {
        RedisClient::new(&RedisConfig { url: Secret::new(url), ..RedisConfig::default() })
    }

    #[test]
    fn an_address_shows_no_password() {
        let client = client("redis://user:hunter2@example.org:7000/1").expect("a readable URL");

        assert_eq!(client.address(), "example.org:7000");
        assert!(!format!("{client:?}").contains("hunter2"));
    }

    #[test]
    fn pauses_begin_at_once_and_are_capped() {
        let mut pauses = client("redis://example.org").expect("a readable URL").pauses();

        assert_eq!(pauses.pause(), Duration::ZERO);
        for _ in 0..100 {
            assert!((Duration::from_millis(50)..=Duration::from_secs(5)).contains(&pauses.pause()));
        }
    }
}
