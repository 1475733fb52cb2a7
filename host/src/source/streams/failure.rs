//! What can go wrong with a stream, what an operator does about it, and how far it reaches.

use std::fmt;

use redis::RedisError;

use crate::source::redis_client::RedisClientError;

/// Why nothing could be read or acknowledged.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no connection.
    Client(RedisClientError),
    /// Redis refused a command, or the connection broke.
    Redis(RedisError),
    /// Redis takes no acknowledgements of the stream, so nothing more of it is read.
    Unacknowledged(usize),
}

/// How far a failure reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The connection, or the server as a whole.
    Server,
    /// A stream or its group: whether the others can be read shows when each is looked at.
    Stream,
}

impl Failure {
    /// The first word of what Redis answered.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Redis(error) => error.code(),
            Self::Client(_) | Self::Unacknowledged(_) => None,
        }
    }

    pub(super) fn reach(&self) -> Reach {
        match self {
            Self::Client(_) => Reach::Server,
            Self::Unacknowledged(_) => Reach::Stream,
            Self::Redis(_) => match self.code() {
                Some("NOGROUP" | "WRONGTYPE" | "UNBLOCKED" | "NOPERM" | "OOM" | "ERR") => Reach::Stream,
                _ => Reach::Server,
            },
        }
    }
}

/// What an operator does about it; empty where waiting is all.
pub(crate) fn advice(error: &RedisError) -> &'static str {
    match error.code() {
        Some("WRONGTYPE") => {
            "; the key holds something else than a stream: rename that key, or correct `source.streams.streams`"
        }
        Some("NOGROUP") => "; the group or its stream was deleted, it is created anew",
        Some("NOPERM") => "; give the worker's user the commands and keys that docs/streams.md names",
        Some("OOM") => "; Redis is at its `maxmemory`: raise it, or trim the streams (`source.streams.trim`)",
        Some("READONLY") => "; this is a read-only replica: give `redis.url` the address of the primary",
        Some("MISCONF") => "; Redis cannot write to its disk: look at its log",
        Some("MOVED") => {
            "; the key is on another node of a cluster: that is followed, if `redis.url` begins with `redis+cluster://`"
        }
        Some("NOAUTH" | "WRONGPASS") => "; correct user and password in `redis.url`",
        _ => "",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(formatter),
            Self::Redis(error) => write!(formatter, "{error}{}", advice(error)),
            Self::Unacknowledged(waiting) => {
                write!(formatter, "{waiting} entries are settled and redis does not take their acknowledgements")
            }
        }
    }
}

impl From<RedisClientError> for Failure {
    fn from(error: RedisClientError) -> Self {
        Self::Client(error)
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}
