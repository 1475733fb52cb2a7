//! The backend: finds its children by their roles, hands on the calls, and says how they are.
//!
//! `writes.rs` has the calls that change something, `follow.rs` is the thread of a shadow.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, Call, Child, ChildDescription, Counts, Delete, Deleted, Description, Error, Fields, Found, Health,
    Item, OpenBackend, Opening, Page, Prune, Pruned, Query, Result,
};

use crate::options::Ack;
use crate::queue::Figures;
use crate::shadow::{Differs, Shadow, Standing};
use crate::succession::Place;
use crate::turns::Turns;
use crate::{Options, follow, lock, role};

/// A primary, and shadows that have what it has.
pub struct Mirror {
    layer: Arc<Layer>,
    /// Its name in the configuration.
    instance: String,
    /// Shadows are followed for.
    begun: AtomicBool,
}

/// The children and what is known of them.
pub(crate) struct Layer {
    pub(crate) host: Host,
    pub(crate) options: Options,
    pub(crate) primary: Child,
    pub(crate) shadows: Vec<Shadow>,
    pub(crate) turns: Turns,
    /// What was told of the shadows last.
    told: Mutex<Figures>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Mirror").field("primary", &self.layer.primary.name).finish_non_exhaustive()
    }
}

impl OpenBackend for Mirror {
    type Options = Options;

    fn check(options: &Options, children: &[ChildDescription]) -> Description {
        options.describe(children)
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        let missing =
            |role: &str| Error::configuration(format_args!("there is no child as `{role}`; add one to `children`"));
        let (primary, shadows): (Vec<Child>, Vec<Child>) =
            opening.children.into_iter().partition(|child| child.role == role::PRIMARY);
        let primary = primary.into_iter().next().ok_or_else(|| missing(role::PRIMARY))?;
        if shadows.is_empty() {
            return Err(missing(role::SHADOW));
        }
        let shadows = shadows.into_iter().map(|child| Shadow::new(child, &options)).collect();
        let (host, told) = (opening.host, Mutex::default());
        let layer = Arc::new(Layer { host, options, primary, shadows, turns: Turns::default(), told });
        Ok(Self { layer, instance: opening.instance, begun: AtomicBool::new(false) })
    }
}

impl Mirror {
    /// Starts a thread for each shadow. They end when this is dropped.
    fn follow(&self) -> Result<()> {
        for (number, shadow) in self.layer.shadows.iter().enumerate() {
            let layer = Arc::clone(&self.layer);
            let place = Place::take(&self.instance, &layer.primary.name, &shadow.child.name);
            let queue = &shadow.queue;
            queue.began();
            self.layer
                .host
                .spawn("mirror-follow", move || follow::run(&layer, &layer.shadows[number], &place))
                .map_err(|cause| {
                    queue.ended();
                    Error::unavailable(format_args!("cannot start a thread: {cause}"))
                })?;
        }
        Ok(())
    }
}

impl Backend for Mirror {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.layer.merge(call, batch)
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.layer.primary.backend.get(call, ids, fields)
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.layer.primary.backend.list(call, query)
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

    /// What it then still owes a shadow may be taken over from another instance, and brought there.
    fn begin(&self, _: &Call) -> Result<()> {
        let follows = self.layer.options.ack == Ack::Primary;
        if follows && !self.begun.swap(true, Ordering::AcqRel) { self.follow() } else { Ok(()) }
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.layer.flush(call)
    }

    fn close(&self, call: &Call) -> Result<()> {
        // So much of the time is left for those who are closed after this one.
        let until = Instant::now() + call.remaining() / 2;
        for shadow in &self.layer.shadows {
            shadow.queue.end(until);
        }
        for shadow in &self.layer.shadows {
            if !shadow.queue.wait_for_end(call.deadline) {
                return Err(Error::unavailable(format_args!(
                    "the thread that brings changes to `{}` did not end in time; it ends after its present call",
                    shadow.child.name
                )));
            }
        }
        Ok(())
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.layer.prune(call, prune)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        for shadow in &self.layer.shadows {
            shadow.queue.end(Instant::now());
        }
    }
}

impl Layer {
    /// Brings the metrics up to date with the queues.
    pub(crate) fn gauge(&self) {
        let mut told = lock(&self.told);
        let mut now = Figures::default();
        for figures in self.shadows.iter().map(|shadow| shadow.queue.figures()) {
            now.changes += figures.changes;
            now.bytes += figures.bytes;
            now.owed += figures.owed;
            now.overflowed += figures.overflowed;
            now.lost += figures.lost;
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge needs no more than 52 bits")]
        for (name, value) in
            [("shadow_queued", now.changes), ("shadow_queued_bytes", now.bytes), ("shadow_owed", now.owed)]
        {
            self.host.gauge(name, value as f64);
        }
        self.host.count("shadow_overflowed", now.overflowed - told.overflowed);
        self.host.count("shadow_lost", now.lost - told.lost);
        *told = now;
    }

    /// A shadow differs already, as instances before this one have told.
    pub(crate) fn take_over(&self, shadow: &Shadow, differs: Differs) {
        // Counted once, by those.
        let mut told = lock(&self.told);
        told.lost += differs.lost;
        shadow.take_over(differs);
    }

    fn health(&self) -> Health {
        let primary = self.primary.backend.health();
        let mut health = Health { healthy: primary.healthy, reason: primary.reason, ..Health::default() };
        let mut reasons: Vec<String> = Some(health.reason).filter(|reason| !reason.is_empty()).into_iter().collect();
        let mut standing = Standing::Mirrored;
        let mut details = serde_json::Map::new();
        for shadow in &self.shadows {
            match self.options.ack {
                Ack::All => {
                    let of_shadow = shadow.child.backend.health();
                    if !of_shadow.healthy {
                        health.healthy = false;
                        reasons.push(format!("the shadow `{}` is not well: {}", shadow.child.name, of_shadow.reason));
                    }
                }
                Ack::Primary => {
                    reasons.extend(shadow.trouble());
                    standing = standing.max(shadow.standing());
                    details.insert(shadow.child.name.clone(), shadow.details());
                }
            }
        }
        health.reason = reasons.join("; ");
        if self.options.ack == Ack::Primary {
            health = health.with("state", standing.as_str()).with("shadows", Value::Object(details));
        }
        health
    }
}
