//! Dead letters: the events that will not be tried again by themselves, and what people do about them.
//!
//! ```text
//!  worker ──► Log (letters and actions, one JSON object a line) ◄── list, show, edit, retry, drop ──► audit
//! ```
//! Letters and actions are appended to one log; folded in order they say which letters are open and how. `line.rs` is the
//! form of a line, `log.rs` the log, which is a file (`file.rs`: its lock and its compaction) or a stream of Redis
//! (`stream.rs`), `fold.rs` what the lines come to, `desk.rs` what can be done with letters, `retry.rs` how they go through
//! the worker again. For operators: `docs/dead-letters.md`.

pub mod config;
pub mod desk;
mod file;
mod fold;
pub(crate) mod line;
mod log;
pub mod retry;
mod stream;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::log::Destination;
pub(crate) use self::log::Log;

/// An event that will not be tried again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The same for the same event, so a repeat is recognised.
    pub id: String,
    /// The channel of the event.
    pub channel: String,
    /// The key of the stream and the id of the entry that it came from; none for pub/sub.
    pub entry: Option<(String, String)>,
    /// The bytes as they were received.
    pub payload: Vec<u8>,
    /// The payload that takes the place of the original when it is tried again.
    pub edited: Option<String>,
    /// The id that the event had, or would have had.
    pub event_id: Option<String>,
    /// The evaluation that the payload names.
    pub evaluation_id: Option<String>,
    /// The event's time, in microseconds since 1970, as are the others.
    pub time: i64,
    /// A class from a fixed set.
    pub reason: String,
    /// What was wrong with it.
    pub error: String,
    /// How many calls of a backend, and retries, failed with it.
    pub attempts: u32,
    /// When it was received.
    pub first_at: i64,
    /// When it was given up the last time.
    pub last_at: i64,
    /// The generation of the configuration at that time.
    pub generation: u64,
    /// Whether it failed again after it was tried again.
    pub state: LetterState,
}

/// How a letter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetterState {
    /// It waits for somebody to look at it.
    #[default]
    Dead,
    /// It was tried again and failed again: it is left alone until it is edited, or named by its id.
    Parked,
}

impl LetterState {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Parked => "parked",
        }
    }
}

impl Letter {
    /// What is tried again: the edited payload, or else the original.
    #[must_use]
    pub fn current_payload(&self) -> &[u8] {
        self.edited.as_ref().map_or(&self.payload, |edited| edited.as_bytes())
    }
}

/// The id of a dead letter. `carried` is the id of its event, where that came with it and is not to be found in the payload:
/// then the same payload may be that of another event.
#[must_use]
pub fn id_of(channel: &str, payload: &[u8], carried: Option<&str>) -> String {
    let mut hash = Sha256::new().chain_update(channel).chain_update([0]).chain_update(payload);
    if let Some(event_id) = carried {
        hash.update([0]);
        hash.update(event_id);
    }
    hex::encode(&hash.finalize()[..12])
}
