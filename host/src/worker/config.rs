//! The keys of `[worker]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// Beyond this a number of threads is a typing error.
const MOST_LANES: usize = 1024;

/// `[worker]`: how events become merges and confirmations, and the bounds of every queue and wait between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What this worker is called in consumer groups: stable, and its own. Default the name of the host.
    pub name: Option<String>,
    /// Lanes, each with its own thread; the events of an evaluation share one. Default 4.
    #[serde(with = "units::count")]
    pub lanes: usize,
    /// Most events merged in one call. Default 512.
    #[serde(with = "units::count")]
    pub batch_events: usize,
    /// Most payload bytes merged in one call; a single larger event is a batch of its own. Default 8 MiB.
    #[serde(with = "units::size")]
    pub batch_bytes: usize,
    /// Most events that wait, over all lanes. Default 8192.
    #[serde(with = "units::count")]
    pub queue_events: usize,
    /// About how many bytes the events that wait may hold, over all lanes. Default 64 MiB.
    ///
    /// A payload counts twice, for itself and for the state made of it, and each event for 1 KiB more.
    #[serde(with = "units::size")]
    pub queue_bytes: usize,
    /// Pause after the first failed call; it doubles, with jitter, up to `retry_max`. Default 50 ms.
    #[serde(with = "units::duration")]
    pub retry_initial: Duration,
    /// Longest pause between two calls. Default 5 s.
    #[serde(with = "units::duration")]
    pub retry_max: Duration,
    /// How long what was received may take to be stored after SIGTERM. Default 25 s.
    #[serde(with = "units::duration")]
    pub drain_timeout: Duration,
    /// Largest payload; a larger one is a dead letter. Default 16 MiB.
    #[serde(with = "units::size")]
    pub max_payload_bytes: usize,
    /// Confirmations kept while Redis is away; beyond, the oldest are dropped and counted. Default 100 000.
    #[serde(with = "units::count")]
    pub confirmations_kept: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            lanes: 4,
            batch_events: 512,
            batch_bytes: 8 << 20,
            queue_events: 8192,
            queue_bytes: 64 << 20,
            retry_initial: Duration::from_millis(50),
            retry_max: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(25),
            max_payload_bytes: 16 << 20,
            confirmations_kept: 100_000,
        }
    }
}

impl Config {
    /// What this worker is called: as configured, else the name of the host.
    pub(crate) fn name(&self) -> String {
        let of_host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.name.clone().unwrap_or_else(of_host)
    }

    /// What does not fit together: the key and what to do.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        // A name of two words with `run` between them is that of one run, see `source/streams/keeper.rs`.
        let is_name =
            |name: &String| !name.trim().is_empty() && !name.chars().any(char::is_control) && !name.contains(" run ");
        if !self.name.as_ref().is_none_or(is_name) {
            let message =
                "`worker.name` is empty, or holds control characters or ` run `; give a name, or leave it out"
                    .to_owned();
            problems.push(("name", message));
        }
        if self.queue_bytes < self.max_payload_bytes {
            let (queue, payload) = (size(self.queue_bytes), size(self.max_payload_bytes));
            let message = format!(
                "`worker.queue_bytes` ({queue}) is below `worker.max_payload_bytes` ({payload}), so that an allowed payload would never fit; raise it, or lower the other"
            );
            problems.push(("queue_bytes", message));
        }
        if self.lanes > MOST_LANES {
            let message =
                format!("`worker.lanes` is {}, and each is a thread of its own; give at most {MOST_LANES}", self.lanes);
            problems.push(("lanes", message));
        }
        if self.retry_initial > self.retry_max {
            let (initial, max) =
                (humantime::format_duration(self.retry_initial), humantime::format_duration(self.retry_max));
            let message = format!(
                "`worker.retry_initial` ({initial}) is above `worker.retry_max` ({max}); lower it, or raise the other"
            );
            problems.push(("retry_initial", message));
        }
        problems
    }
}

fn size(bytes: usize) -> String {
    units::size_text(bytes as u64)
}
