//! Where each value came from, for `explain` and for the place of a problem.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;
use super::tree::{Node, Origin, Table, join};
use crate::secret::{REDACTED, is_secret_name, redact_value};

/// The origin of every key that somebody gave; all others are defaults.
#[derive(Clone, Debug, Default)]
pub struct Origins(BTreeMap<String, Origin>);

/// A value as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key, say `worker.lanes`.
    pub key: String,
    /// The value, secrets redacted.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

impl From<Setting> for crate::storage::explain::Setting {
    fn from(setting: Setting) -> Self {
        let Setting { key, value, origin } = setting;
        let value = if value.is_null() { "none".to_owned() } else { value.to_string() };
        Self { key, value, origin: origin.to_string() }
    }
}

impl Origins {
    pub(crate) fn of(tree: &Table) -> Self {
        let mut origins = BTreeMap::new();
        collect(tree, "", &mut origins);
        Self(origins)
    }

    /// Where the value of a key came from.
    #[must_use]
    pub fn get(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }

    /// The key, or the nearest one above it that somebody gave, and its origin.
    pub(crate) fn nearest(&self, path: &[&str]) -> (String, &Origin) {
        let key = |length: usize| path[..length].iter().fold(String::new(), |key, part| join(&key, part));
        let given = (1..=path.len()).rev().find_map(|length| self.0.get(&key(length)));
        (key(path.len()), given.unwrap_or(&Origin::Default))
    }

    pub(crate) fn settings(&self, config: &Config) -> Vec<Setting> {
        let mut settings = Vec::new();
        let config = serde_json::to_value(config).unwrap_or_default();
        self.flatten(&config, String::new(), &mut settings);
        settings
    }

    fn flatten(&self, value: &Value, key: String, settings: &mut Vec<Setting>) {
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                for (name, value) in entries {
                    let hidden = Value::from(REDACTED);
                    let value = if is_secret_name(name) { &hidden } else { value };
                    self.flatten(value, join(&key, name), settings);
                }
            }
            value => {
                let value = redact_value(value);
                settings.push(Setting { origin: self.get(&key).clone(), key, value });
            }
        }
    }
}

fn collect(table: &Table, path: &str, origins: &mut BTreeMap<String, Origin>) {
    for entry in &table.0 {
        let path = join(path, &entry.key);
        origins.insert(path.clone(), entry.origin.clone());
        if let Some(table) = Node::as_table(&entry.node) {
            collect(table, &path, origins);
        }
    }
}
