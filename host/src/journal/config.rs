//! The keys of `[journal]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// A sync that comes later would break what is promised: that what arrived 50 ms ago survives the machine.
const LONGEST_SYNC_INTERVAL: Duration = Duration::from_millis(50);
/// Segments are a sixteenth of the journal, and smaller ones would cost more than they free.
const LEAST_MAX_BYTES: u64 = 1 << 20;
const LARGEST_SEGMENT: u64 = 8 << 20;

/// `[journal]`: where what arrives by pub/sub is kept until it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What goes through the journal. Default `always`.
    pub mode: Mode,
    /// The directory, of this worker alone. Default `./journal`.
    pub path: PathBuf,
    /// Most that may wait on disk; then nothing more is read. Default 1 GiB.
    #[serde(with = "units::size")]
    pub max_bytes: u64,
    /// How long what arrived may wait for the disk; at most 50 ms. Default 20 ms.
    #[serde(with = "units::duration")]
    pub sync_interval: Duration,
    /// Whether what is stored already is kept for a replay. Default false.
    pub archive: bool,
    /// How much of it is kept. Default 1 GiB.
    #[serde(with = "units::size")]
    pub archive_bytes: u64,
    /// How long it is kept. Default 7 days.
    #[serde(with = "units::duration")]
    pub archive_age: Duration,
}

/// What goes through the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything, so that nothing that arrived is lost with the worker.
    Always,
    /// What does not fit into memory, because storage falls behind.
    Spill,
    /// Nothing.
    Off,
}

impl Mode {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Spill => "spill",
            Self::Off => "off",
        }
    }

    /// What it promises, in a sentence for operators.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Self::Always => {
                "what arrived is on disk until it is stored: a kill loses none of it, the end of the machine at most what came within `journal.sync_interval`"
            }
            Self::Spill => {
                "on disk only while storage falls behind: a kill, or a stop that storage is away for, loses what is in memory, up to `worker.queue_events` and 4096 more"
            }
            Self::Off => "a kill loses what arrived and is not stored; an outage of storage stops the reading",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Always,
            path: PathBuf::from("./journal"),
            max_bytes: 1 << 30,
            sync_interval: Duration::from_millis(20),
            archive: false,
            archive_bytes: 1 << 30,
            archive_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

impl Config {
    /// How large a segment grows before the next begins.
    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.max_bytes / 16).min(LARGEST_SEGMENT)
    }

    /// What does not fit together: the key and what to do.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.max_bytes < LEAST_MAX_BYTES {
            problems.push(("max_bytes", "`journal.max_bytes` is below 1MiB; raise it".to_owned()));
        }
        if self.sync_interval > LONGEST_SYNC_INTERVAL {
            let message =
                "`journal.sync_interval` is above 50ms, and what arrives would be at risk for longer; lower it";
            problems.push(("sync_interval", message.to_owned()));
        }
        if self.path.as_os_str().is_empty() {
            problems.push(("path", "`journal.path` is empty; give a directory".to_owned()));
        }
        problems
    }
}
