//! The options of the backend `mirror`, and what an instance over given children promises.

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de::Error};
use storage_plugin_api::{Capabilities, ChildDescription, Description, Role};

use crate::role;

/// What can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Who must have an evaluation before it is answered as stored. Default `"primary"`.
    pub ack: Ack,
    /// Most changes that wait for one shadow. Default 20 000. Of no effect with `ack = "all"`, like the next two.
    pub queue_changes: usize,
    /// Most memory of the changes that wait for one shadow. Default `"64MiB"`.
    #[serde(deserialize_with = "size")]
    pub queue_bytes: usize,
    /// Most evaluations that are remembered when the queue is full, some 100 bytes each. Default 100 000.
    pub owed_evaluations: usize,
}

/// Who must have an evaluation before it is answered as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// The primary; shadows follow, and never slow it or make it fail.
    #[default]
    Primary,
    /// The primary and every shadow.
    All,
}

impl Default for Options {
    fn default() -> Self {
        Self { ack: Ack::default(), queue_changes: 20_000, queue_bytes: 64 * 1024 * 1024, owed_evaluations: 100_000 }
    }
}

impl Options {
    pub(crate) fn describe(&self, children: &[ChildDescription]) -> Description {
        let primary = children.iter().find(|child| child.role == role::PRIMARY);
        let shadows: Vec<&ChildDescription> = children.iter().filter(|child| child.role == role::SHADOW).collect();
        Description {
            capabilities: primary.map(|primary| self.capabilities(primary, &shadows)).unwrap_or_default(),
            roles: roles(),
            problems: self.problems(children),
            notes: primary.map(|primary| self.notes(primary, &shadows)).unwrap_or_default(),
        }
    }

    fn problems(&self, children: &[ChildDescription]) -> Vec<String> {
        let mut problems = Vec::new();
        for (value, option) in [
            (self.queue_changes, "queue_changes"),
            (self.queue_bytes, "queue_bytes"),
            (self.owed_evaluations, "owed_evaluations"),
        ] {
            if value == 0 {
                problems.push(format!("`{option}` is 0, so no shadow could follow; give at least 1"));
            }
        }
        let mut names: Vec<&str> = children.iter().map(|child| child.name.as_str()).collect();
        names.sort_unstable();
        let mut twice: Vec<&str> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        twice.dedup();
        problems.extend(
            twice
                .iter()
                .map(|name| format!("`{name}` would be a mirror of itself; name another backend in one of its places")),
        );
        problems
    }

    fn capabilities(&self, primary: &ChildDescription, shadows: &[&ChildDescription]) -> Capabilities {
        let all = |has: fn(&Capabilities) -> bool| shadows.iter().all(|shadow| has(&shadow.capabilities));
        let own = &primary.capabilities;
        Capabilities {
            // With "primary" a shadow is a copy and promises nothing.
            durable: own.durable && (self.ack == Ack::Primary || all(|shadow| shadow.durable)),
            exclusive: own.exclusive || !all(|shadow| !shadow.exclusive),
            prune: own.prune && all(|shadow| shadow.prune),
            blobs: false,
            ..own.clone()
        }
    }

    fn notes(&self, primary: &ChildDescription, shadows: &[&ChildDescription]) -> Vec<String> {
        if shadows.is_empty() {
            return Vec::new();
        }
        let (primary, shared) = (&primary.name, !primary.capabilities.exclusive);
        let names = shadows.iter().map(|shadow| format!("`{}`", shadow.name)).collect::<Vec<_>>().join(", ");
        let mut notes = match self.ack {
            Ack::All => vec![format!("answers when `{primary}` and {names} have it; while one is away, events wait")],
            Ack::Primary => vec![format!(
                "answers when `{primary}` has it; {names} follow, up to {} changes or {} behind, then by reading from `{primary}`",
                self.queue_changes,
                ByteSize(self.queue_bytes as u64).display().iec()
            )],
        };
        let volatile = shadows.iter().filter(|shadow| !shadow.capabilities.durable).map(|shadow| shadow.name.as_str());
        notes.extend(volatile.map(|name| match self.ack {
            Ack::All => format!("`{name}` is volatile, and so is what is answered"),
            Ack::Primary => format!("`{name}` is volatile: a copy that a crash may empty"),
        }));
        if shared {
            let alone = shadows.iter().filter(|shadow| shadow.capabilities.exclusive && !shadow.capabilities.durable);
            notes.extend(alone.map(|shadow| {
                format!(
                    "several workers can share `{primary}` and not `{0}`: each `{0}` has only what its own worker stored",
                    shadow.name
                )
            }));
        }
        notes
    }
}

fn roles() -> Vec<Role> {
    let role = |name: &str, many| Role { name: name.to_owned(), required: true, many, ..Role::default() };
    vec![role(role::PRIMARY, false), role(role::SHADOW, true)]
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let expected = "a size is a number of bytes or text such as \"64MiB\"";
    let bytes = match Size::deserialize(deserializer).map_err(|_| D::Error::custom(expected))? {
        Size::Bytes(bytes) => bytes,
        Size::Text(text) => text.parse::<ByteSize>().map_err(|_| D::Error::custom(expected))?.as_u64(),
    };
    usize::try_from(bytes).map_err(|_| D::Error::custom("the size is beyond what this machine can address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(role: &str, name: &str, capabilities: Capabilities) -> ChildDescription {
        ChildDescription { role: role.to_owned(), name: name.to_owned(), capabilities }
    }

    fn store(durable: bool) -> Capabilities {
        Capabilities { durable, prune: true, blobs: true, counts: true, exclusive: false, ..Capabilities::default() }
    }

    fn options(json: &str) -> Options {
        serde_json::from_str(json).expect("options")
    }

    #[test]
    fn it_promises_what_its_primary_does_and_with_all_what_the_weakest_does() {
        let children = [child("primary", "a", store(true)), child("shadow", "b", store(false))];

        let follows = options("{}").describe(&children);
        let together = options(r#"{"ack":"all"}"#).describe(&children);

        assert!(follows.capabilities.durable && follows.capabilities.counts && follows.capabilities.prune);
        assert!(!follows.capabilities.blobs && !follows.capabilities.exclusive);
        assert!(!together.capabilities.durable);
        assert!(follows.notes[0].contains("`b` follow, up to 20000 changes or 64.0 MiB behind"), "{:?}", follows.notes);
        assert!(together.notes[1].contains("`b` is volatile, and so is what is answered"), "{:?}", together.notes);
    }

    #[test]
    fn what_one_child_cannot_do_the_mirror_cannot_do() {
        let weak = Capabilities { prune: false, exclusive: true, ..store(true) };
        let children = [child("primary", "a", store(true)), child("shadow", "b", weak)];

        let description = options("{}").describe(&children);

        assert!(!description.capabilities.prune && description.capabilities.exclusive);
    }

    #[test]
    fn who_shares_the_primary_is_told_that_a_shadow_is_of_one_worker_alone() {
        let alone = Capabilities { exclusive: true, ..store(false) };
        let children = |shared: bool| {
            let primary = Capabilities { exclusive: !shared, ..store(true) };
            [child("primary", "db", primary), child("shadow", "copy", alone.clone())]
        };
        let told = |shared: bool| options("{}").describe(&children(shared)).notes.join("; ");

        assert!(told(true).contains("each `copy` has only what its own worker stored"), "{}", told(true));
        assert!(!told(false).contains("its own worker"), "{}", told(false));
        assert!(options("{}").describe(&children(true)).capabilities.exclusive);
    }

    #[test]
    fn what_cannot_work_is_a_problem() {
        let children = [child("primary", "a", store(true)), child("shadow", "a", store(true))];

        let problems =
            options(r#"{"queue_changes":0,"queue_bytes":"0","owed_evaluations":0}"#).describe(&children).problems;

        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[3].contains("`a` would be a mirror of itself"), "{problems:?}");
    }

    #[test]
    fn unknown_keys_and_values_are_refused() {
        let refused = |json: &str| serde_json::from_str::<Options>(json).expect_err("refused").to_string();

        assert!(refused(r#"{"ackk":"all"}"#).contains("ackk"));
        assert!(refused(r#"{"ack":"both"}"#).contains("`primary` or `all`"), "{}", refused(r#"{"ack":"both"}"#));
        assert!(refused(r#"{"queue_bytes":"much"}"#).contains("such as"));
    }
}
