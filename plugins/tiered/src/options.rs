//! The options of the backend `tiered`, and what an instance over given children promises.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de::Error};
use storage_plugin_api::{Capabilities, ChildDescription, Description, Role};

use crate::role;

/// Shortest `collect_after`: far longer than a call can take, and than clocks differ.
const LEAST_COLLECT_AFTER: Duration = Duration::from_secs(3600);

/// What can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bodies of more bytes than this go to `blobs`, in bytes or as text with a unit. Default `"1MiB"`.
    #[serde(deserialize_with = "size")]
    pub threshold: usize,
    /// How much of the beginning of such a body stays in the state, in bytes. Default `"1KiB"`.
    #[serde(deserialize_with = "size")]
    pub preview: usize,
    /// A blob that no state refers to is removed when it was not stored again for so long; at least an hour.
    /// Default `"24h"`.
    #[serde(deserialize_with = "duration")]
    pub collect_after: Duration,
    /// How often this worker looks for such blobs; `"0s"` leaves it to other workers. Default `"6h"`.
    #[serde(deserialize_with = "duration")]
    pub collect_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 1 << 20,
            preview: 1 << 10,
            collect_after: Duration::from_secs(24 * 3600),
            collect_every: Duration::from_secs(6 * 3600),
        }
    }
}

impl Options {
    pub(crate) fn describe(&self, children: &[ChildDescription]) -> Description {
        let child = |role: &str| children.iter().find(|child| child.role == role);
        let (primary, blobs) = (child(role::PRIMARY), child(role::BLOBS));
        let mut problems = Vec::new();
        if self.preview > self.threshold {
            problems.push(format!(
                "`preview` is {} bytes, more than the `threshold` of {}, so that a reference would be larger than what it stands for; lower it",
                self.preview, self.threshold
            ));
        }
        if self.collect_after < LEAST_COLLECT_AFTER {
            problems.push(format!(
                "`collect_after` is {}, in which a blob may not have its state yet; give at least 1h",
                humantime::format_duration(self.collect_after)
            ));
        }
        if let Some(primary) = primary.filter(|primary| !primary.capabilities.list_by_id)
            && !self.collect_every.is_zero()
        {
            problems.push(format!(
                "`{}` cannot list by id, so that nobody can tell which blobs are used; name another primary, or set `collect_every = \"0s\"` and keep every blob",
                primary.name
            ));
        }
        let mut notes = Vec::new();
        if let (Some(primary), Some(blobs)) = (primary, blobs) {
            notes.push(format!(
                "bodies over {} go to `{}`, all else to `{}`",
                ByteSize(self.threshold as u64).display().iec(),
                blobs.name,
                primary.name
            ));
            notes.push(self.collection());
        }
        let capabilities = match (primary, blobs) {
            (Some(primary), Some(blobs)) => capabilities(primary, blobs),
            _ => Capabilities::default(),
        };
        Description { capabilities, roles: roles(), problems, notes }
    }

    fn collection(&self) -> String {
        let [after, every] = [self.collect_after, self.collect_every].map(humantime::format_duration);
        match self.collect_every.is_zero() {
            true => "leaves it to other workers to remove blobs that no state refers to".to_owned(),
            false => {
                format!("removes blobs that no state has referred to for {after}, and looks for them every {every}")
            }
        }
    }
}

/// What the primary can do, as lasting as the weaker of the two. The blobs are this layer's own, so none are offered.
fn capabilities(primary: &ChildDescription, blobs: &ChildDescription) -> Capabilities {
    let (primary, blobs) = (&primary.capabilities, &blobs.capabilities);
    Capabilities {
        durable: primary.durable && blobs.durable,
        exclusive: primary.exclusive || blobs.exclusive,
        blobs: false,
        ..primary.clone()
    }
}

fn roles() -> Vec<Role> {
    let role = |name: &str| Role { name: name.to_owned(), required: true, ..Role::default() };
    vec![role(role::PRIMARY), Role { blobs: true, ..role(role::BLOBS) }]
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|cause| D::Error::custom(format_args!("`{text}` is no duration such as \"24h\": {cause}")))
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let expected = "a size is a number of bytes or text such as \"1MiB\"";
    let bytes = match Size::deserialize(deserializer).map_err(|_| D::Error::custom(expected))? {
        Size::Bytes(bytes) => bytes,
        Size::Text(text) => text.parse::<ByteSize>().map_err(|_| D::Error::custom(expected))?.as_u64(),
    };
    usize::try_from(bytes).map_err(|_| D::Error::custom("the size is beyond what this machine can address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(role: &str, capabilities: Capabilities) -> ChildDescription {
        ChildDescription { role: role.to_owned(), name: role.to_uppercase(), capabilities }
    }

    fn store() -> Capabilities {
        Capabilities { durable: true, list_by_id: true, exclusive: false, prune: true, ..Capabilities::default() }
    }

    #[test]
    fn it_promises_what_its_primary_does_as_lasting_as_the_weaker_child() {
        let volatile = Capabilities { blobs: true, states: false, exclusive: true, ..Capabilities::default() };
        let durable = Capabilities { durable: true, ..volatile.clone() };
        let of = |blobs| Options::default().describe(&[child("primary", store()), child("blobs", blobs)]);

        assert_eq!(of(durable).capabilities, Capabilities { exclusive: true, ..store() });
        assert!(!of(volatile).capabilities.durable);
    }

    #[test]
    fn what_cannot_work_is_a_problem() {
        let primary = child("primary", Capabilities { list_by_id: false, ..store() });
        let options: Options =
            serde_json::from_str(r#"{"threshold":10,"preview":"1KiB","collect_after":"59m"}"#).expect("options");

        let problems = options.describe(std::slice::from_ref(&primary)).problems;

        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[2].contains("`PRIMARY` cannot list by id"), "{problems:?}");
        let uncollected = Options { collect_every: Duration::ZERO, ..Options::default() };
        assert_eq!(uncollected.describe(&[primary]).problems, [""; 0]);
    }

    #[test]
    fn unknown_keys_and_odd_values_are_refused() {
        let refused = |json: &str| serde_json::from_str::<Options>(json).expect_err("refused").to_string();

        assert!(refused(r#"{"treshold":1}"#).contains("treshold"));
        assert!(refused(r#"{"threshold":"much"}"#).contains("a size is"));
        assert!(refused(r#"{"collect_after":"soon"}"#).contains("no duration such as"));
    }
}
