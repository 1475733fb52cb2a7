//! The keys of `[storage]` and `[backends.<name>]`, and whether the backends form a tree.
//!
//! Whether a plugin exists and takes the children and options it is given, only the plugin can say; see `plugin`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storage_plugin_api::Capabilities;

use crate::secret::redact_value;
use crate::suggest::suggest;
use crate::units;

/// `[storage]`: the storage tree as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The backend at the root of the tree. Default `file`; `STORAGE_BACKEND`.
    pub backend: String,
    /// Where plugins are looked for, after the directory of the executable. Default `plugins`.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where private copies of plugins are kept. Default: below the user's cache directory.
    pub plugin_cache_dir: Option<PathBuf>,
    /// What the tree must be able to promise; one that cannot is refused. Default: nothing.
    pub guarantee: Option<Guarantee>,
    /// How long a backend may take to open. Default 30 s.
    #[serde(with = "units::duration")]
    pub open_timeout: Duration,
    /// Longest pause between two attempts to open a backend that is unavailable. Default 5 s.
    #[serde(with = "units::duration")]
    pub open_retry_max: Duration,
    /// How long a call may take, whatever its caller allows. Default 10 s.
    #[serde(with = "units::duration")]
    pub call_timeout: Duration,
    /// How long a backend may take to flush and close. Default 10 s.
    #[serde(with = "units::duration")]
    pub close_timeout: Duration,
    /// When a backend that is unavailable is left alone, and for how long.
    pub breaker: BreakerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: "file".to_owned(),
            plugin_dirs: vec![PathBuf::from("plugins")],
            plugin_cache_dir: None,
            guarantee: None,
            open_timeout: Duration::from_secs(30),
            open_retry_max: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            breaker: BreakerConfig::default(),
        }
    }
}

/// `[storage.breaker]`: when a backend that is unavailable is left alone, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// So many failures in a row open it. Default 5.
    #[serde(with = "units::count")]
    pub failures: u32,
    /// Failures further apart than this are not in a row. Default 30 s.
    #[serde(with = "units::duration")]
    pub window: Duration,
    /// How long it stays open at first; every failed try doubles that. Default 500 ms.
    #[serde(with = "units::duration")]
    pub open_for: Duration,
    /// How long it stays open at most. Default 5 s.
    #[serde(with = "units::duration")]
    pub max_open_for: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            window: Duration::from_secs(30),
            open_for: Duration::from_millis(500),
            max_open_for: Duration::from_secs(5),
        }
    }
}

/// What a storage tree can be asked to promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Every confirmed event survives a crash.
    Durable,
}

impl Guarantee {
    /// Whether a backend of these capabilities keeps it.
    #[must_use]
    pub fn is_kept_by(self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Durable => capabilities.durable,
        }
    }
}

/// `[backends.<name>]`, by name.
pub type Backends = BTreeMap<String, BackendConfig>;

/// One backend.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    /// The plugin that it comes from: a name found in `plugin_dirs`, or a path.
    pub plugin: String,
    /// SHA-256 of the plugin's file, in hexadecimal; another file is refused. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "sha256")]
    pub sha256: Option<String>,
    /// The backends below it, by role. Default: none.
    #[serde(default, skip_serializing_if = "Children::is_empty")]
    pub children: Children,
    /// What the plugin is told, unread: a JSON object. Default: `{}`.
    #[serde(default = "no_options", deserialize_with = "options")]
    pub options: Value,
}

impl BackendConfig {
    /// A backend of a plugin with these options.
    #[must_use]
    pub fn new(plugin: impl Into<String>, options: Value) -> Self {
        Self { plugin: plugin.into(), sha256: None, children: Children::default(), options }
    }
}

impl fmt::Debug for BackendConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BackendConfig")
            .field("plugin", &self.plugin)
            .field("sha256", &self.sha256)
            .field("children", &self.children)
            .field("options", &redact_value(&self.options))
            .finish()
    }
}

/// The backends below a layer: roles in the order of the file, each with one name or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Children(pub Vec<(String, Vec<String>)>);

impl Children {
    /// True for a backend that stores by itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every child as (role, name), in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(role, names)| names.iter().map(move |name| (role.as_str(), name.as_str())))
    }
}

impl Serialize for Children {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (role, names) in &self.0 {
            match names.as_slice() {
                [only] => map.serialize_entry(role, only)?,
                several => map.serialize_entry(role, several)?,
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Children {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ChildrenVisitor)
    }
}

struct ChildrenVisitor;

impl<'de> Visitor<'de> for ChildrenVisitor {
    type Value = Children;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a table of roles, such as `{ primary = \"a\", shadow = [\"b\", \"c\"] }`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Children, A::Error> {
        let mut roles = Vec::new();
        while let Some(role) = map.next_key()? {
            let Names(names) = map.next_value()?;
            roles.push((role, names));
        }
        Ok(Children(roles))
    }
}

/// One name or a list of names.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a backend, or a list of names")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Names, E> {
        Ok(Names(vec![name.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = seq.next_element()? {
            names.push(name);
        }
        Ok(Names(names))
    }
}

fn no_options() -> Value {
    Value::Object(serde_json::Map::new())
}

fn options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    serde_json::Map::deserialize(deserializer).map(Value::Object)
}

fn sha256<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(Some(text.to_ascii_lowercase()));
    }
    Err(de::Error::custom("must be the 64 hexadecimal digits that `sha256sum` prints for the plugin's file"))
}

/// What keeps the backends from being a tree: the path of keys at fault, and what to do.
pub(crate) fn problems(storage: &Config, backends: &Backends) -> Vec<(Vec<String>, String)> {
    let mut problems = Vec::new();
    let known = || backends.keys().map(String::as_str);
    if !backends.contains_key(&storage.backend) {
        let hint = suggest(&storage.backend, known(), "the configured ones");
        let message = format!("`storage.backend`: there is no backend `{}`; {hint}", storage.backend);
        problems.push((vec!["storage".to_owned(), "backend".to_owned()], message));
    }
    for (name, backend) in backends {
        if !is_name(name) {
            let message = format!(
                "the name of the backend `{name}` must be letters, digits, `-` and `_`, at most 64; it stands in metrics and confirmations"
            );
            problems.push((vec!["backends".to_owned(), name.clone()], message));
        }
        for (role, child) in backend.children.iter().filter(|(_, child)| !backends.contains_key(*child)) {
            let hint = suggest(child, known().filter(|known| known != name), "the others");
            let message = format!("`backends.{name}` has an unknown child `{child}` as `{role}`; {hint}");
            problems.push((path(name, role), message));
        }
    }
    for cycle in cycles(backends) {
        let Some((name, role)) = cycle.first() else { continue };
        let mut names: Vec<String> = cycle.iter().map(|(name, _)| format!("`{name}`")).collect();
        names.push(format!("`{name}`"));
        let message = format!("the backends {} go round in a circle; take one child out", names.join(" → "));
        problems.push((path(name, role), message));
    }
    problems
}

/// The backends that the root does not reach.
pub(crate) fn unused<'a>(storage: &'a Config, backends: &'a Backends) -> impl Iterator<Item = &'a str> {
    let mut reached = BTreeSet::new();
    let mut ahead = vec![storage.backend.as_str()];
    while let Some(name) = ahead.pop() {
        if let Some(backend) = backends.get(name).filter(|_| reached.insert(name)) {
            ahead.extend(backend.children.iter().map(|(_, child)| child));
        }
    }
    backends.keys().map(String::as_str).filter(move |name| !reached.contains(name))
}

fn path(name: &str, role: &str) -> Vec<String> {
    ["backends", name, "children", role].map(str::to_owned).to_vec()
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

/// Every circle of children once, as (backend, role of its next one).
fn cycles(backends: &Backends) -> Vec<Vec<(&str, &str)>> {
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for name in backends.keys() {
        descend(backends, name, &mut Vec::new(), &mut done, &mut found);
    }
    found
}

fn descend<'a>(
    backends: &'a Backends,
    name: &'a str,
    trail: &mut Vec<(&'a str, &'a str)>,
    done: &mut BTreeSet<&'a str>,
    found: &mut Vec<Vec<(&'a str, &'a str)>>,
) {
    if let Some(start) = trail.iter().position(|(seen, _)| *seen == name) {
        found.push(trail[start..].to_vec());
        return;
    }
    let Some(backend) = backends.get(name).filter(|_| !done.contains(name)) else { return };
    for (role, child) in backend.children.iter() {
        trail.push((name, role));
        descend(backends, child, trail, done, found);
        trail.pop();
    }
    done.insert(name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(children: &[(&str, &[&str])]) -> Backends {
        let backend = |names: &[&str]| BackendConfig {
            children: Children(names.iter().map(|name| ((*name).to_owned(), vec![(*name).to_owned()])).collect()),
            ..BackendConfig::new("p", no_options())
        };
        children.iter().map(|(name, children)| ((*name).to_owned(), backend(children))).collect()
    }

    fn messages(children: &[(&str, &[&str])]) -> Vec<String> {
        let storage = Config { backend: "a".to_owned(), ..Config::default() };
        problems(&storage, &backends(children)).into_iter().map(|(_, message)| message).collect()
    }

    #[test]
    fn a_tree_has_no_problems() {
        assert_eq!(messages(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &[]), ("d", &[]), ("unused", &[])]), [""; 0]);
    }

    #[test]
    fn every_circle_is_named_once() {
        assert_eq!(
            messages(&[("a", &["b"]), ("b", &["c", "b"]), ("c", &["a"]), ("d", &["a"])]),
            [
                "the backends `a` → `b` → `c` → `a` go round in a circle; take one child out",
                "the backends `b` → `b` go round in a circle; take one child out",
            ]
        );
    }

    #[test]
    fn unknown_children_and_roots_are_named() {
        let messages = messages(&[("aa", &["bx", "zz"]), ("b", &[])]);

        assert!(messages[0].contains("there is no backend `a`; the configured ones: `aa` and `b`"), "{messages:?}");
        assert!(messages[1].contains("unknown child `bx` as `bx`; did you mean `b`?"), "{messages:?}");
        assert!(messages[2].contains("the others: `b`"), "{messages:?}");
    }

    #[test]
    fn options_are_kept_from_logs() {
        let backend = BackendConfig::new("postgres", serde_json::json!({ "url": "postgres://a:geheim@b" }));

        assert!(!format!("{backend:?}").contains("geheim"));
    }
}
