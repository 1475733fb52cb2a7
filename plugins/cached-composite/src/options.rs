//! The options of the backend `cached-composite`, and what an instance over given children promises.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};
use storage_plugin_api::{Capabilities, ChildDescription, Description, Role};

use crate::role;

/// What can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long an entry of the cache is used. Default `"30s"`.
    ///
    /// What this worker merges is in the entry at once; what other workers merge may be missing for so long.
    #[serde(deserialize_with = "duration")]
    pub ttl: Duration,
    /// Most evaluations that are merged back from the fallback in one call. Default 256.
    pub catch_up_batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30), catch_up_batch: 256 }
    }
}

impl Options {
    pub(crate) fn describe(&self, children: &[ChildDescription]) -> Description {
        let child = |role: &str| children.iter().find(|child| child.role == role);
        let (cache, primary, fallback) = (child(role::CACHE), child(role::PRIMARY), child(role::FALLBACK));
        let mut problems = Vec::new();
        if self.ttl.is_zero() {
            problems.push("`ttl` is 0, so no entry of the cache would be used; leave the cache out instead".to_owned());
        }
        if self.catch_up_batch == 0 {
            problems.push("`catch_up_batch` is 0; give at least 1".to_owned());
        }
        if let Some(fallback) = fallback.filter(|fallback| !fallback.capabilities.list_by_id) {
            problems.push(format!(
                "the fallback `{}` cannot list by id, so that nothing would come back from it; name another backend",
                fallback.name
            ));
        }
        Description {
            capabilities: primary.map(|primary| capabilities(primary, children)).unwrap_or_default(),
            roles: roles(),
            problems,
            notes: self.notes(cache, primary, fallback),
        }
    }

    fn notes(
        &self,
        cache: Option<&ChildDescription>,
        primary: Option<&ChildDescription>,
        fallback: Option<&ChildDescription>,
    ) -> Vec<String> {
        let Some(primary) = primary else { return Vec::new() };
        let mut notes = Vec::new();
        if let Some(cache) = cache {
            let ttl = humantime::format_duration(self.ttl);
            notes.push(format!(
                "reads `{}` before `{}`; what other workers stored may be missing for {ttl}",
                cache.name, primary.name
            ));
        }
        if let Some(fallback) = fallback {
            notes.push(format!(
                "while `{}` is unavailable merges go to `{}` and are accepted; they are merged back when it returns",
                primary.name, fallback.name
            ));
        }
        notes
    }
}

/// What the primary can do; a volatile primary makes a volatile composite, whatever the fallback is.
fn capabilities(primary: &ChildDescription, children: &[ChildDescription]) -> Capabilities {
    let is_store = |child: &&ChildDescription| child.role != role::CACHE;
    Capabilities {
        evicting: false,
        exclusive: children.iter().filter(is_store).any(|child| child.capabilities.exclusive),
        // A read that the cache answers shall not wait for one that the primary answers.
        parallel_calls: children.iter().map(|child| child.capabilities.parallel_calls).sum(),
        ..primary.capabilities.clone()
    }
}

fn roles() -> Vec<Role> {
    let role = |name: &str| Role { name: name.to_owned(), ..Role::default() };
    vec![
        Role { evicting: true, ..role(role::CACHE) },
        Role { required: true, ..role(role::PRIMARY) },
        Role { durable: true, only_copy: true, ..role(role::FALLBACK) },
    ]
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|cause| D::Error::custom(format_args!("`{text}` is no duration such as \"30s\": {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(role: &str, capabilities: Capabilities) -> ChildDescription {
        ChildDescription { role: role.to_owned(), name: role.to_uppercase(), capabilities }
    }

    fn store() -> Capabilities {
        Capabilities { durable: true, list_by_id: true, parallel_calls: 3, exclusive: false, ..Capabilities::default() }
    }

    #[test]
    fn it_promises_what_its_primary_promises() {
        let cache = Capabilities { evicting: true, ..Capabilities::default() };
        let primary = Capabilities { prune: true, counts: true, ..store() };
        let children = [child("cache", cache), child("primary", primary.clone()), child("fallback", store())];

        let description = Options::default().describe(&children);

        assert_eq!(description.capabilities, Capabilities { parallel_calls: 7, ..primary });
        assert_eq!(description.problems, Vec::<String>::new());
        assert!(description.notes[0].contains("may be missing for 30s"), "{:?}", description.notes);
    }

    #[test]
    fn what_cannot_work_is_a_problem() {
        let fallback = child("fallback", Capabilities { list_by_id: false, ..store() });
        let options: Options = serde_json::from_str(r#"{"ttl":"0s","catch_up_batch":0}"#).expect("options");

        let problems = options.describe(&[child("primary", store()), fallback]).problems;

        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[2].contains("`FALLBACK` cannot list by id"), "{problems:?}");
    }

    #[test]
    fn unknown_keys_and_other_durations_are_refused() {
        let refused = |json: &str| serde_json::from_str::<Options>(json).expect_err("refused").to_string();

        assert!(refused(r#"{"tll":"1s"}"#).contains("tll"));
        assert!(refused(r#"{"ttl":"soon"}"#).contains("no duration such as"));
    }
}
