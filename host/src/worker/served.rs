//! The storage tree that lanes call, replaceable between two calls.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use storage_plugin_api::Backend;

/// The root of a storage tree, and the configuration it belongs to.
#[derive(Clone)]
pub struct Served {
    /// The root.
    pub backend: Arc<dyn Backend>,
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The generation of the configuration; counts up with every reload.
    pub generation: u64,
    /// How long one of its calls may take.
    pub call_timeout: Duration,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, generation, .. } = self;
        formatter.debug_struct("Served").field("name", name).field("generation", generation).finish_non_exhaustive()
    }
}

/// The place where the lanes look before each call.
#[derive(Debug)]
pub(super) struct Slot(RwLock<Arc<Served>>);

impl Slot {
    pub(super) fn new(served: Served) -> Self {
        Self(RwLock::new(Arc::new(served)))
    }

    pub(super) fn current(&self) -> Arc<Served> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, served: Served) -> Arc<Served> {
        std::mem::replace(&mut self.0.write().unwrap_or_else(PoisonError::into_inner), Arc::new(served))
    }
}
