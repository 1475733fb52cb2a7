//! Publishes events, and says how many listeners Redis handed each to.

use std::time::Duration;

use redis::Connection;

use crate::redis_server::RedisServer;
use crate::second_model::Sent;

/// How many messages go to Redis in one round trip.
const PIPELINE: usize = 256;

/// A connection that publishes.
#[allow(missing_debug_implementations, reason = "a connection has none")]
pub struct Publisher {
    connection: Connection,
}

impl Publisher {
    /// A publisher on its own connection.
    #[must_use]
    pub fn new(redis: &RedisServer) -> Self {
        Self { connection: redis.connect() }
    }

    /// A publisher to a Redis of that URL, if it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn connect(url: &str) -> redis::RedisResult<Self> {
        let connection = redis::Client::open(url)?.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { connection })
    }

    /// Publishes messages; gives for each the number of listeners that it was handed to.
    ///
    /// # Errors
    /// When Redis does not answer; then nobody knows which of them were handed on.
    pub fn try_publish_all(&mut self, messages: &[Sent]) -> redis::RedisResult<Vec<u64>> {
        let mut pipeline = redis::pipe();
        for message in messages {
            pipeline.cmd("PUBLISH").arg(&message.channel).arg(&message.payload);
        }
        pipeline.query(&mut self.connection)
    }

    /// Publishes one message; gives the number of listeners that it was handed to.
    ///
    /// # Errors
    /// When Redis does not answer; then nobody knows whether the message was handed on.
    pub fn try_publish(&mut self, message: &Sent) -> redis::RedisResult<u64> {
        redis::cmd("PUBLISH").arg(&message.channel).arg(&message.payload).query(&mut self.connection)
    }

    /// Publishes messages in order, and expects one listener for each.
    ///
    /// # Panics
    /// When Redis does not answer, or nobody listens.
    #[track_caller]
    pub fn publish(&mut self, messages: &[Sent]) {
        for chunk in messages.chunks(PIPELINE) {
            let listeners = self.try_publish_all(chunk).expect("publish");
            assert!(listeners.iter().all(|listeners| *listeners > 0), "nobody listens: {listeners:?}");
        }
    }
}
