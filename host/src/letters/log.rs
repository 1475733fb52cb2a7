//! Where letters are kept: a file, or a stream of Redis.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tracing::warn;

use super::config::DeadLettersConfig;
use super::file::FileLog;
use super::fold::Snapshot;
use super::line::{self, Action};
use super::stream::StreamLog;
use crate::source::config::RedisConfig;
use crate::source::redis_client::{RedisClient, RedisClientError};

/// Where letters go, as configured. Cheap to clone; connects to nothing.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A file of one JSON object a line.
    File {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        max_bytes: u64,
    },
    /// A stream.
    Stream {
        /// Where it is.
        redis: RedisClient,
        /// Its key.
        key: String,
        /// How many bytes of lines it may hold.
        max_bytes: u64,
    },
}

impl Destination {
    /// The destination of a configuration.
    ///
    /// # Errors
    /// When the URL of Redis is none.
    pub fn new(config: &DeadLettersConfig, redis: &RedisConfig) -> Result<Self, RedisClientError> {
        let DeadLettersConfig { path, stream, max_bytes } = config.clone();
        Ok(match stream {
            Some(key) => Self::Stream { redis: RedisClient::new(redis)?, key, max_bytes },
            None => Self::File { path, max_bytes },
        })
    }

    /// What an operator does when it takes no letters.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::File { .. } => "free the disk and make it writable, or set `dead_letters.path`",
            Self::Stream { .. } => "see to Redis, or set `dead_letters.path` instead of `dead_letters.stream`",
        }
    }

    pub(crate) fn open(&self) -> Log {
        match self {
            Self::File { path, max_bytes } => Log::File(FileLog::new(path, *max_bytes)),
            Self::Stream { redis, key, max_bytes } => {
                Log::Stream(Box::new(StreamLog::new(redis.clone(), key, *max_bytes)))
            }
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(formatter),
            Self::Stream { redis, key, .. } => write!(formatter, "stream {key} at {}", redis.address()),
        }
    }
}

/// The letters and what was done with them.
#[derive(Debug)]
pub(crate) enum Log {
    File(FileLog),
    Stream(Box<StreamLog>),
}

impl Log {
    /// Sees whether letters can be kept, so that an operator learns of it before there is one.
    pub(crate) fn prepare(&mut self) -> io::Result<()> {
        match self {
            Self::File(log) => log.prepare(),
            Self::Stream(log) => log.prepare(),
        }
    }

    /// Adds letters, whole lines, and makes them durable. Returns how many old ones were dropped for want of room.
    pub(crate) fn append(&mut self, lines: &str) -> io::Result<usize> {
        match self {
            Self::File(log) => log.append(lines),
            Self::Stream(log) => log.append(lines),
        }
    }

    /// The open letters.
    pub(crate) fn snapshot(&self) -> io::Result<Snapshot> {
        match self {
            Self::File(log) => log.snapshot(),
            Self::Stream(log) => log.snapshot(),
        }
    }

    /// Changes letters of a snapshot, all or none of them.
    pub(crate) fn change(&mut self, snapshot: &Snapshot, actions: &[Action]) -> io::Result<()> {
        match self {
            _ if actions.is_empty() => Ok(()),
            Self::File(log) => {
                let lines: String = actions.iter().map(|action| line::action_text(action) + "\n").collect();
                let dropped = log.append(&lines)?;
                if dropped > 0 {
                    warn!(dropped, "the file of dead letters is full, its oldest letters were dropped");
                }
                Ok(())
            }
            Self::Stream(log) => log.change(snapshot, actions),
        }
    }

    /// Adds whole lines to what is kept of every action, for people.
    pub(crate) fn audit(&mut self, lines: &str) -> io::Result<()> {
        match self {
            Self::File(log) => log.audit(lines),
            Self::Stream(log) => log.audit(lines),
        }
    }
}
