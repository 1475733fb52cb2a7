//! What the tree needs of plugins. The loader implements it; so can backends that live in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use storage_plugin_api::{Backend, Child, ChildDescription, Description, Durability, Result};

/// Where plugins come from.
pub trait PluginSource: Send + Sync {
    /// Loads a plugin by the name or path that the configuration has, if its file has that hash (64 hex digits).
    /// The same one again costs nothing.
    ///
    /// # Errors
    /// When there is none, or it cannot be trusted or used; the text says why and what to do.
    fn load(
        &self,
        plugin: &str,
        sha256: Option<&str>,
    ) -> Result<Arc<dyn Plugin>, Box<dyn std::error::Error + Send + Sync>>;
}

/// A loaded plugin.
pub trait Plugin: Send + Sync {
    /// What it is.
    fn about(&self) -> About;

    /// What an instance of these options would be. Has no side effects.
    ///
    /// # Errors
    /// When the plugin failed to answer.
    fn check(&self, instance: &str, options: &Value, children: &[ChildDescription]) -> Result<Description>;

    /// Opens an instance. Blocks, and may do so for ever: the caller waits on another thread.
    ///
    /// `durability` is what its description promised; one that is opened `read_only` makes nothing that was not there.
    ///
    /// # Errors
    /// `Configuration` stops a start; `Unavailable` and `Overloaded` are tried again.
    fn open(
        &self,
        instance: &str,
        options: &Value,
        children: Vec<Child>,
        durability: Durability,
        budget: Duration,
        read_only: bool,
    ) -> Result<Arc<dyn Backend>>;
}

/// What people are told of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The file it was loaded from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// SHA-256 of that file, as hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}
