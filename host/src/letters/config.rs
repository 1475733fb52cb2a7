//! The keys of `[dead_letters]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units;

/// `[dead_letters]`: the file of the events that will not be tried again by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// The file, one JSON object a line. Default `./journal/dead-letters.jsonl`.
    pub path: PathBuf,
    /// Largest size of the file. Beyond it what is still open goes to `<path>.1`, and what does not fit there, the oldest
    /// letters, is dropped, counted and logged. Default 256 MiB, so at most twice that on disk.
    #[serde(with = "units::size")]
    pub max_bytes: u64,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("./journal/dead-letters.jsonl"), max_bytes: 256 << 20 }
    }
}
