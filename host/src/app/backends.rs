//! Where storage and plugins meet: the loader as the tree's source of plugins, and what stands in for a tree that is
//! not open yet.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use storage_plugin_api::{
    Answer, Backend, Call, Child, ChildDescription, Delete, Deleted, Description, Durability, Error, Fields, Found,
    Health, Item, Page, Query, Result,
};

use crate::plugin::Loader;
use crate::plugin::library::Library;
use crate::storage::{About, Current, Plugin, PluginSource};

impl PluginSource for Loader {
    fn load(
        &self,
        plugin: &str,
        sha256: Option<&str>,
    ) -> std::result::Result<Arc<dyn Plugin>, Box<dyn std::error::Error + Send + Sync>> {
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
    ) -> Result<Arc<dyn Backend>> {
        Self::open(self, instance, options, children, durability, budget)
    }
}

/// What the lanes call until storage is open: everything is unavailable, with the reason that health shows too.
#[derive(Debug)]
pub(super) struct Waiting {
    current: Arc<Current>,
}

impl Waiting {
    pub(super) fn new(current: Arc<Current>) -> Self {
        Self { current }
    }

    fn unavailable<T>(&self) -> Result<T> {
        Err(Error::unavailable(self.current.tree().err().unwrap_or_else(|| "storage was just opened".to_owned())))
    }
}

impl Backend for Waiting {
    fn merge(&self, _: &Call, _: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.unavailable()
    }

    fn get(&self, _: &Call, _: &[&str], _: Fields) -> Result<Vec<Option<Found>>> {
        self.unavailable()
    }

    fn list(&self, _: &Call, _: &Query) -> Result<Page> {
        self.unavailable()
    }

    fn delete(&self, _: &Call, _: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.unavailable()
    }

    fn health(&self) -> Health {
        Health::unhealthy("storage is not open")
    }

    fn flush(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}
