//! A configuration before it has types: a tree of values, each with the place it came from.
//!
//! `parse.rs` makes one of a file, `environment.rs` lays variables and `--set` over it, `deserialize.rs` turns it into
//! [`Config`](super::Config).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file, counted from 1.
    File {
        /// The file as it was named.
        path: Arc<Path>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// `--set`, with the key that it sets; the value may be a secret.
    CommandLine(String),
}

impl Origin {
    /// The path and line, for a value out of a file.
    #[must_use]
    pub fn file_line(&self) -> Option<(PathBuf, usize)> {
        match self {
            Self::File { path, line } => Some((path.to_path_buf(), *line)),
            Self::Default | Self::Environment(_) | Self::CommandLine(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Environment(name) => write!(formatter, "environment variable `{name}`"),
            Self::CommandLine(key) => write!(formatter, "command line `--set {key}`"),
        }
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// A value as TOML knows it; dates are text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A text, and whether a part of it came from a `${NAME}`.
    Text {
        text: String,
        expanded: bool,
    },
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
}

/// The entries of a table, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table(pub(crate) Vec<Entry>);

/// One key of a table, the place of the key, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn text(text: impl Into<String>, origin: Origin) -> Self {
        Self { value: Value::Text { text: text.into(), expanded: false }, origin }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text { text, .. } => Some(text),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::List(_) | Value::Table(_) => None,
        }
    }

    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            Value::Text { .. } | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::List(_) => None,
        }
    }
}

impl Table {
    /// The value at a path of keys.
    pub(crate) fn find(&self, path: &[&str]) -> Option<&Node> {
        let (first, rest) = path.split_first()?;
        let node = &self.0.iter().find(|entry| entry.key == *first)?.node;
        if rest.is_empty() { Some(node) } else { node.as_table()?.find(rest) }
    }

    /// Puts a value at a path of keys, over what is there; tables on the way are made. A value of the command line
    /// stays: it wins over everything.
    pub(crate) fn put(&mut self, path: &[&str], node: Node) {
        let from_command_line = |node: &Node| matches!(node.origin, Origin::CommandLine(_));
        if from_command_line(&node) || !self.find(path).is_some_and(from_command_line) {
            self.force(path, node);
        }
    }

    /// Puts a value at a path of keys, over whatever is there.
    pub(crate) fn force(&mut self, path: &[&str], node: Node) {
        let Some((first, rest)) = path.split_first() else { return };
        let index = self.0.iter().position(|entry| entry.key == *first).unwrap_or_else(|| {
            let empty = Node { value: Value::Table(Self::default()), origin: node.origin.clone() };
            self.0.push(Entry { key: (*first).to_owned(), origin: node.origin.clone(), node: empty });
            self.0.len() - 1
        });
        let entry = &mut self.0[index];
        if rest.is_empty() {
            entry.origin = node.origin.clone();
            entry.node = node;
            return;
        }
        if entry.node.as_table().is_none() {
            entry.node = Node { value: Value::Table(Self::default()), origin: node.origin.clone() };
        }
        if let Value::Table(table) = &mut entry.node.value {
            table.force(rest, node);
        }
    }

    /// Lays another tree over this one: its tables are merged, its other values put.
    pub(crate) fn lay(&mut self, over: Self) {
        self.lay_at(&mut Vec::new(), over);
    }

    fn lay_at(&mut self, path: &mut Vec<String>, over: Self) {
        for entry in over.0 {
            path.push(entry.key);
            let Node { value, origin } = entry.node;
            match value {
                Value::Table(table) if !table.0.is_empty() => self.lay_at(path, table),
                value => {
                    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
                    self.put(&keys, Node { value, origin });
                }
            }
            path.pop();
        }
    }
}

/// The path with a further key, quoted where TOML needs it: `events."evaluation:queued".status`.
pub(crate) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let separator = if path.is_empty() { "" } else { "." };
    if bare { format!("{path}{separator}{key}") } else { format!("{path}{separator}{key:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_command_line_stays() {
        let mut table = Table::default();
        table.put(&["redis", "url"], Node::text("a", Origin::CommandLine("redis.url".to_owned())));

        table.put(&["redis", "url"], Node::text("b", Origin::Environment("REDIS_URL")));
        table.put(&["redis", "other"], Node::text("c", Origin::Environment("REDIS_URL")));

        assert_eq!(table.find(&["redis", "url"]).and_then(Node::as_text), Some("a"));
        assert_eq!(table.find(&["redis", "other"]).and_then(Node::as_text), Some("c"));
        assert_eq!(table.find(&["redis", "url", "deeper"]), None);
    }

    #[test]
    fn keys_are_quoted_where_toml_needs_it() {
        assert_eq!(join("", "redis"), "redis");
        assert_eq!(join("events", "evaluation:queued"), "events.\"evaluation:queued\"");
    }
}
