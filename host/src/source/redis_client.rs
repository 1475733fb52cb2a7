//! Builds connections to Redis. Passwords stay in here: what it shows of an address carries none.
//!
//! Who connects decides when to try again; see `pubsub.rs` and `worker/confirm.rs`.

use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisError};

use super::config::RedisConfig;

/// A far side that vanished without a word is found by probes within about 20 seconds, whatever we are waiting for.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// Why there is no connection to Redis.
#[derive(Debug, thiserror::Error)]
pub enum RedisClientError {
    /// The URL is none.
    #[error(
        "the redis URL cannot be read: {reason}; give one like `redis://host:6379` or `rediss://host:6379` for TLS"
    )]
    Url {
        /// What is wrong with it, without the URL itself.
        reason: String,
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

/// An address of Redis that connections can be made to. Cheap to clone.
#[derive(Clone)]
pub struct RedisClient {
    client: Client,
    address: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    reconnect_max: Duration,
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RedisClient").field("address", &self.address).finish_non_exhaustive()
    }
}

impl RedisClient {
    /// Reads the URL; connects to nothing. `rediss://` stands for TLS, `unix://` for a socket.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(config: &RedisConfig) -> Result<Self, RedisClientError> {
        // The crate's own text may quote the URL, and with it the password.
        let unreadable = |error: RedisError| RedisClientError::Url { reason: error.category().to_owned() };
        let info = config.url.expose().into_connection_info().map_err(unreadable)?;
        // The first one stays; a second client finds it there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true).set_keepalive(keepalive));
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => format!("{host}:{port}"),
            other => other.to_string(),
        };
        let RedisConfig { connect_timeout, response_timeout, reconnect_max, .. } = *config;
        let client = Client::open(info).map_err(unreadable)?;
        Ok(Self { client, address, connect_timeout, response_timeout, reconnect_max })
    }

    /// Host and port, or the path of the socket; nothing secret.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
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

    /// A connection for subscriptions.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub async fn subscriber(&self) -> Result<PubSub, RedisClientError> {
        self.connect(self.client.get_async_pubsub()).await
    }

    /// A connection for commands.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub async fn connection(&self) -> Result<MultiplexedConnection, RedisClientError> {
        self.patient_connection(Duration::ZERO).await
    }

    /// A connection for commands that Redis answers so much later on purpose.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub async fn patient_connection(&self, block: Duration) -> Result<MultiplexedConnection, RedisClientError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout + block));
        self.connect(self.client.get_multiplexed_async_connection_with_config(&config)).await
    }

    /// A connection for a command line, which may block.
    ///
    /// # Errors
    /// When Redis cannot be reached in time, or refuses.
    pub fn blocking_connection(&self) -> Result<redis::Connection, RedisClientError> {
        let connection = self.client.get_connection_with_timeout(self.connect_timeout).and_then(|connection| {
            connection.set_read_timeout(Some(self.response_timeout))?;
            connection.set_write_timeout(Some(self.response_timeout))?;
            Ok(connection)
        });
        connection
            .map_err(|error| RedisClientError::Connect { address: self.address.clone(), reason: error.to_string() })
    }

    async fn connect<T>(&self, attempt: impl Future<Output = redis::RedisResult<T>>) -> Result<T, RedisClientError> {
        match tokio::time::timeout(self.connect_timeout, attempt).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                Err(RedisClientError::Connect { address: self.address.clone(), reason: error.to_string() })
            }
            Err(_) => Err(RedisClientError::Timeout { address: self.address.clone(), timeout: self.connect_timeout }),
        }
    }
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
    fn an_unreadable_url_is_not_repeated() {
        let error = client("http://user:hunter2@example.org").expect_err("not a redis URL");

        assert!(!error.to_string().contains("hunter2"), "{error}");
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
