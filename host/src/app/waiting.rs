//! What stands in for the storage tree until it is open.

use std::sync::Arc;

use storage_plugin_api::{
    Answer, Backend, Call, Delete, Deleted, Error, Fields, Found, Health, Item, Page, Query, Result,
};

use crate::storage::Current;

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
        Err(Error::unavailable(self.current.tree().err().unwrap_or_else(|| "storage is being changed".to_owned())))
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
