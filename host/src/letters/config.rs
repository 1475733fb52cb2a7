//! The keys of `[dead_letters]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units;

/// `[dead_letters]`: where the events go that will not be tried again by themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// The file, one JSON object a line. Default `./journal/dead-letters.jsonl`.
    pub path: PathBuf,
    /// The key of a stream of `[redis]` that takes them instead of the file. Default none.
    pub stream: Option<String>,
    /// Largest size of the file. Beyond it what is still open goes to `<path>.1`, and what does not fit there, the oldest
    /// letters, is dropped, counted and logged. Default 256 MiB, so at most twice that on disk; of a stream what its entries hold.
    #[serde(with = "units::size")]
    pub max_bytes: u64,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("./journal/dead-letters.jsonl"), stream: None, max_bytes: 256 << 20 }
    }
}

impl DeadLettersConfig {
    /// What does not fit together: the key and what to do. `streams` are those that events are read from.
    pub(crate) fn problems(&self, streams: &[String]) -> Vec<(&'static str, String)> {
        let Some(stream) = &self.stream else { return Vec::new() };
        let mut problems = Vec::new();
        if stream.is_empty() {
            problems.push((
                "stream",
                "`dead_letters.stream` is empty; give the key of a stream, or leave it out".to_owned(),
            ));
        }
        if streams.contains(stream) {
            let message = format!(
                "`dead_letters.stream` is `{stream}`, which events are read from, so that letters would become letters; give another key"
            );
            problems.push(("stream", message));
        }
        problems
    }
}
