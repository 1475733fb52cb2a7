//! Hands plugins to the storage tree: the loader as `storage` sees it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use storage_plugin_api::{Backend, Child, ChildDescription, Description, Durability, Result};

use super::Loader;
use super::library::Library;
use crate::storage::{About, Plugin, PluginSource};

impl PluginSource for Loader {
    fn load(&self, plugin: &str, sha256: Option<&str>) -> Result<Arc<dyn Plugin>, Box<dyn Error + Send + Sync>> {
        Ok(Self::load(self, plugin, sha256)?)
    }
}

impl Plugin for Library {
    fn about(&self) -> About {
        About {
            name: self.manifest().name.clone(),
            version: self.manifest().version.clone(),
            file: Some(self.path().to_owned()),
            sha256: Some(self.sha256().to_owned()),
        }
    }

    fn check(&self, instance: &str, options: &Value, children: &[ChildDescription]) -> Result<Description> {
        Self::check(self, instance, options, children)
    }

    fn open(
        &self,
        instance: &str,
        options: &Value,
        children: Vec<Child>,
        durability: Durability,
        budget: Duration,
        read_only: bool,
    ) -> Result<Arc<dyn Backend>> {
        Self::open(self, instance, options, children, durability, budget, read_only)
    }
}
