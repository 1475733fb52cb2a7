//! The options of the backend `memory`, and what an instance of them promises.

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de::Error};
use storage_plugin_api::{Capabilities, Description};

/// Smallest limit that is of any use: a few evaluations.
const LEAST_BYTES: usize = 64 * 1024;

/// What can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Most memory that the stored states may take, in bytes or as text with a unit. Default `"256MiB"`.
    #[serde(deserialize_with = "size")]
    pub max_bytes: usize,
    /// At the limit, forget what was not used for long instead of refusing what is new. Only a cache may do that.
    /// Default `false`.
    pub evict: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_bytes: 256 * 1024 * 1024, evict: false }
    }
}

impl Options {
    pub(crate) fn describe(&self) -> Description {
        let capabilities = Capabilities {
            durable: false,
            evicting: self.evict,
            exclusive: true,
            list_by_id: true,
            list_by_created: true,
            counts: true,
            blobs: false,
            states: true,
            prune: true,
            parallel_calls: std::thread::available_parallelism().map_or(4, usize::from).max(2),
        };
        let mut problems = Vec::new();
        if self.max_bytes < LEAST_BYTES {
            problems.push(format!(
                "`max_bytes` is {}, which holds hardly anything; give at least {LEAST_BYTES}",
                self.max_bytes
            ));
        }
        let at_the_limit = if self.evict { "forgets what was not used for long" } else { "refuses what is new" };
        let note = format!("holds up to {}, then {at_the_limit}", ByteSize(self.max_bytes as u64).display().iec());
        Description { capabilities, problems, notes: vec![note], ..Description::default() }
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let expected = "a size is a number of bytes or text such as \"256MiB\"";
    let bytes = match Size::deserialize(deserializer).map_err(|_| D::Error::custom(expected))? {
        Size::Bytes(bytes) => bytes,
        Size::Text(text) => text.parse::<ByteSize>().map_err(|_| D::Error::custom(expected))?.as_u64(),
    };
    usize::try_from(bytes).map_err(|_| D::Error::custom("the size is beyond what this machine can address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_text_with_a_unit_or_a_number() {
        let read = |json: &str| serde_json::from_str::<Options>(json).map(|options| options.max_bytes);

        assert_eq!(read("{}").expect("defaults"), 256 << 20);
        assert_eq!(read(r#"{"max_bytes":"1MiB"}"#).expect("text"), 1 << 20);
        assert_eq!(read(r#"{"max_bytes":100000}"#).expect("number"), 100_000);
        assert!(read(r#"{"max_bytes":"much"}"#).is_err());
        assert!(read(r#"{"max_bytes":-1}"#).is_err());
        assert!(read(r#"{"max_byte":1}"#).expect_err("unknown key").to_string().contains("max_byte"));
    }

    #[test]
    fn only_an_evicting_memory_says_so() {
        assert!(!Options::default().describe().capabilities.evicting);
        assert!(Options { evict: true, ..Options::default() }.describe().capabilities.evicting);
        assert_eq!(Options { max_bytes: 1, evict: false }.describe().problems.len(), 1);
    }
}
