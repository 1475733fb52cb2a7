//! What a backend says of itself before it is opened. It crosses the boundary as JSON, since it is asked once.

use serde::{Deserialize, Serialize};

use crate::backend::Durability;

/// What an instance promises. Every promise is checked by the conformance kit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What is merged survives a crash once it is answered.
    pub durable: bool,
    /// May forget by itself what it holds; such a backend can only be a cache.
    pub evicting: bool,
    /// Only one process may have it open at a time.
    pub exclusive: bool,
    /// Lists by id.
    pub list_by_id: bool,
    /// Lists by (created, id).
    pub list_by_created: bool,
    /// Counts by status.
    pub counts: bool,
    /// Stores blobs.
    pub blobs: bool,
    /// Stores states. Only a store of blobs alone does not; it can only play a role that asks for blobs.
    pub states: bool,
    /// Removes old terminal evaluations.
    pub prune: bool,
    /// How many calls it makes use of at once; at least 1.
    pub parallel_calls: usize,
}

impl Default for Capabilities {
    /// A volatile store for one process that can do no more than it must.
    fn default() -> Self {
        Self {
            durable: false,
            evicting: false,
            exclusive: true,
            list_by_id: false,
            list_by_created: false,
            counts: false,
            blobs: false,
            states: true,
            prune: false,
            parallel_calls: 1,
        }
    }
}

impl Capabilities {
    /// What its answers promise.
    #[must_use]
    pub fn durability(&self) -> Durability {
        if self.durable { Durability::Durable } else { Durability::Volatile }
    }
}

/// A place below a layer that a backend can take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name in `children`.
    pub name: String,
    /// The layer cannot do without.
    #[serde(default)]
    pub required: bool,
    /// Takes a list of backends.
    #[serde(default)]
    pub many: bool,
    /// Only an evicting backend may play it, and no evicting backend may play any other role.
    #[serde(default)]
    pub evicting: bool,
    /// Only a durable backend may play it.
    #[serde(default)]
    pub durable: bool,
    /// Only a backend that stores blobs may play it, and one that stores nothing else may play no other role.
    #[serde(default)]
    pub blobs: bool,
    /// What a backend in this role holds may be stored nowhere else, so a change of the configuration does not leave it
    /// behind unasked.
    #[serde(default)]
    pub only_copy: bool,
}

/// What an instance of given options would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// What it promises.
    pub capabilities: Capabilities,
    /// The children it takes; empty for a backend that stores by itself.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// What is wrong with the options; such an instance cannot be opened.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What the operator should know, say the directory it writes to; shown by `explain`. No secrets.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What a layer is told of a child before it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildDescription {
    /// The role it plays.
    pub role: String,
    /// Its name in the configuration.
    pub name: String,
    /// What it promises.
    pub capabilities: Capabilities,
}
