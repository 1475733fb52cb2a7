//! The storage backend `PLUGIN_NAME`: keeps states in memory.
//!
//! Written with `async fn`: `Async` gives it a tokio runtime of its own and ends each call at its deadline, so there is no
//! line about either here. It is complete: volatile, four calls at a time. `states.rs` is the store: put your own in its
//! place, one method after the other, and run `cargo test` on the way.

mod states;

use storage_plugin_api::{
    Answer, Async, AsyncBackend, Call, Capabilities, ChildDescription, Counts, Delete, Deleted,
    Description, Fields, Found, Health, Item, Opening, Page, Query, Result,
};
use tokio::sync::RwLock;

use crate::states::States;

storage_plugin_api::export_backend!("PLUGIN_NAME", Async<Store>);

/// What stands under `options` in the configuration. A key that is not here is an error that names it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// At most so many evaluations are kept; further ones wait until there is room.
    #[serde(default = "default_max_evaluations")]
    max_evaluations: usize,
}

fn default_max_evaluations() -> usize {
    100_000
}

/// What is stored.
struct Store {
    states: RwLock<States>,
}

impl AsyncBackend for Store {
    type Options = Options;

    /// Touches nothing: `storage-worker check` asks this of a configuration that may never run.
    fn check(options: &Options, _: &[ChildDescription]) -> Description {
        // A promise that is not kept is found by `storage-worker plugin test`; one that is not made is not asked for.
        let capabilities = Capabilities {
            list_by_id: true,
            counts: true,
            parallel_calls: 4,
            ..Capabilities::default()
        };
        let mut description = Description {
            capabilities,
            ..Description::default()
        };
        if options.max_evaluations == 0 {
            description
                .problems
                .push("`max_evaluations` is 0; give at least 1".to_owned());
        }
        description
    }

    async fn open(options: Options, opening: Opening) -> Result<Self> {
        tracing::info!(instance = opening.instance, "opened");
        Ok(Self {
            states: RwLock::new(States::new(options.max_evaluations)),
        })
    }

    async fn merge(&self, _: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let mut states = self.states.write().await;
        Ok(batch.iter().map(|item| states.merge(item)).collect())
    }

    async fn get(&self, _: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let states = self.states.read().await;
        Ok(ids.iter().map(|id| states.get(id, fields)).collect())
    }

    async fn list(&self, _: &Call, query: &Query) -> Result<Page> {
        self.states.read().await.page(query)
    }

    async fn counts(&self, _: &Call) -> Result<Counts> {
        Ok(self.states.read().await.counts())
    }

    async fn delete(&self, _: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let mut states = self.states.write().await;
        Ok(items.iter().map(|item| states.delete(item)).collect())
    }

    /// Asked every second or so: no waiting here, not even for a lock.
    fn health(&self) -> Health {
        match self.states.try_read() {
            Ok(states) => Health::healthy().with("evaluations", states.len()),
            Err(_) => Health::healthy(),
        }
    }

    async fn flush(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    async fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}
