//! The backend: finds its children by their roles, hands on the calls, and says how it is.
//!
//! `writes.rs` and `reads.rs` answer the calls, `collect.rs` is the thread.

use std::sync::{Arc, Mutex, PoisonError};

use bytesize::ByteSize;
use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, Call, Child, ChildDescription, Counts, Delete, Deleted, Description, Error, Fields, Found, Health,
    Item, OpenBackend, Opening, Page, Prune, Pruned, Query, Result,
};

use crate::collect::{Collecting, Figures};
use crate::places::Place;
use crate::{Options, parallel, role};

/// Most blobs that a call moves at once, each of which may be large in memory.
const BLOBS_AT_ONCE: usize = 8;

/// A layer over states and blobs.
pub struct Tiered {
    layer: Arc<Layer>,
    collecting: Mutex<Option<Collecting>>,
}

/// The children and what is known of them.
pub(crate) struct Layer {
    pub(crate) host: Host,
    pub(crate) options: Options,
    pub(crate) primary: Child,
    pub(crate) blobs: Child,
    pub(crate) place: Place,
    pub(crate) figures: Figures,
}

impl std::fmt::Debug for Tiered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tiered").field("primary", &self.layer.primary.name).finish_non_exhaustive()
    }
}

impl OpenBackend for Tiered {
    type Options = Options;

    fn check(options: &Options, children: &[ChildDescription]) -> Description {
        options.describe(children)
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        let child = |role: &str| {
            let child = opening.children.iter().find(|child| child.role == role).cloned();
            let missing = format!("there is no child as `{role}`; add one to `children`");
            child.ok_or_else(|| Error::configuration(missing))
        };
        let (primary, blobs) = (child(role::PRIMARY)?, child(role::BLOBS)?);
        let place = Place::open(&opening.instance, &blobs.name);
        let layer = Arc::new(Layer { host: opening.host, options, primary, blobs, place, figures: Figures::default() });
        Ok(Self { layer, collecting: Mutex::default() })
    }
}

impl Backend for Tiered {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.layer.merge(call, batch)
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.layer.get(call, ids, fields)
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.layer.list(call, query)
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.layer.primary.backend.counts(call)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.layer.delete(call, items)
    }

    fn health(&self) -> Health {
        self.layer.health()
    }

    /// To collect is to delete, so it begins only here.
    fn begin(&self, _: &Call) -> Result<()> {
        let mut collecting = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        if collecting.is_none() && !self.layer.options.collect_every.is_zero() {
            *collecting = Some(Collecting::start(&self.layer)?);
        }
        Ok(())
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.layer.flush(call)
    }

    fn close(&self, call: &Call) -> Result<()> {
        let collecting = self.collecting.lock().unwrap_or_else(PoisonError::into_inner).take();
        collecting.map_or(Ok(()), |collecting| collecting.end(call.deadline))
    }

    /// The blobs of what is removed are collected later.
    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.layer.primary.backend.prune(call, prune)
    }
}

impl Layer {
    /// Does something with each large body, as many at once as the blobs' backend makes use of.
    pub(crate) fn each_blob<T: Sync, R: Send>(&self, list: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
        let at_once = self.blobs.description.capabilities.parallel_calls.min(BLOBS_AT_ONCE);
        parallel::each(&self.host, at_once, list, run)
    }

    fn health(&self) -> Health {
        let (primary, blobs) = (self.primary.backend.health(), self.blobs.backend.health());
        let mut health = match (primary.healthy, blobs.healthy) {
            (false, _) => Health::unhealthy(primary.reason),
            (true, false) => Health::unhealthy(format!(
                "bodies over {} wait, and large ones are left out of answers, since `{}` is not well: {}",
                ByteSize(self.options.threshold as u64).display().iec(),
                self.blobs.name,
                blobs.reason
            )),
            (true, true) => Health { reason: primary.reason, ..Health::healthy() },
        };
        if let Some((blobs, bytes)) = self.figures.counted() {
            health = health.with("blobs", blobs).with("blob_bytes", bytes);
        }
        health.with("blobs_collected", self.figures.collected())
    }
}
