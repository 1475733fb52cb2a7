//! What reading asks of a backend and what it answers. Crosses the boundary as JSON, but for the states themselves.
//!
//! A request with a key that is not known is refused, so that a newer filter is never silently ignored. A field that is
//! added to a request must therefore be left out where it is not used (`skip_serializing_if`), or no older plugin answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backend::Found;

/// How much of a state an answer carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fields {
    /// All of it.
    #[default]
    Whole,
    /// Bodies are left out: [`Reference`](crate::Reference)s stand in their place.
    WithoutBodies,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By id, in the order of its bytes.
    #[default]
    Id,
    /// By the time of the earliest event, newest first, then by id, descending.
    NewestFirst,
}

/// Which states a page shall have. Filters are joined by "and".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// The order.
    pub order: Order,
    /// How much of each state.
    pub fields: Fields,
    /// Only of this status (its name).
    pub status: Option<String>,
    /// Only of this language.
    pub language: Option<String>,
    /// Only created at this time or later, in microseconds.
    pub since: Option<i64>,
    /// Only created before this time, in microseconds.
    pub until: Option<i64>,
    /// At most so many; at least 1.
    pub limit: usize,
    /// Where the last page ended; none for the first.
    pub cursor: Option<String>,
}

/// A page of states.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Ids and states in the order of the query.
    pub entries: Vec<(String, Found)>,
    /// Where to go on; none on the last page.
    pub cursor: Option<String>,
}

/// How many evaluations there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// By name of the status.
    pub by_status: BTreeMap<String, u64>,
    /// How old these figures may be, in seconds; at most 30.
    pub age_seconds: u64,
}

/// Whether a backend can do its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// It can.
    pub healthy: bool,
    /// Why not, or what the operator should know; may be empty. No secrets.
    pub reason: String,
    /// Figures, say a number of connections.
    pub details: BTreeMap<String, serde_json::Value>,
}

impl Health {
    /// All is well.
    #[must_use]
    pub fn healthy() -> Self {
        Self { healthy: true, ..Self::default() }
    }

    /// It cannot work, and this is why.
    #[must_use]
    pub fn unhealthy(reason: impl Into<String>) -> Self {
        Self { healthy: false, reason: reason.into(), ..Self::default() }
    }

    /// With one more figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// What to prune.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Terminal evaluations that ended before this time, in microseconds.
    pub ended_before: i64,
    /// At most so many at once.
    pub limit: usize,
    /// Only say how many there are.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was pruned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pruned {
    /// How many evaluations were removed (or would be).
    pub removed: u64,
    /// There may be more: call again.
    pub more: bool,
}

/// A page of blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlobPage {
    /// The blobs in key order.
    pub blobs: Vec<BlobEntry>,
    /// There are more behind the last one.
    pub more: bool,
}

/// A stored blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobEntry {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last stored, in microseconds.
    pub touched_at: i64,
}
