//! What can be configured: `backends.<name>.options`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// The options.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long a round trip takes. Default 5 ms. Above `storage.call_timeout` no call succeeds.
    #[serde(deserialize_with = "duration")]
    pub latency: Duration,
    /// Every merge panics, to see what the worker makes of it. Default false.
    pub panic: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { latency: Duration::from_millis(5), panic: false }
    }
}

/// A text with a unit, as all durations of the configuration: `5ms`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| D::Error::custom(format_args!("`{text}` is no duration: {error}")))
}
