//! The backend: finds its children by their roles, hands on the calls, and says how it is.
//!
//! `reads.rs`, `writes.rs` and `list.rs` answer the calls, `catch_up.rs` is the thread.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Answer, Backend, BlobPage, Call, Child, ChildDescription, Counts, Delete, Deleted, Description, Error, Fields,
    Found, Health, Item, OpenBackend, Opening, Page, Prune, Pruned, Query, Result,
};
use tracing::error;

use crate::cache::Cache;
use crate::holding::Holding;
use crate::primary::Primary;
use crate::signal::Signal;
use crate::{Options, catch_up, lock, role};

/// How long an opening may spend on finding out whether the fallback is empty.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// A primary with a cache before it and a fallback behind it.
pub struct CachedComposite {
    layer: Arc<Layer>,
    catching_up: Mutex<Option<JoinHandle<()>>>,
}

/// The children and what is known of them.
pub(crate) struct Layer {
    pub(crate) host: Host,
    pub(crate) options: Options,
    pub(crate) primary: Primary,
    pub(crate) fallback: Option<Fallback>,
    pub(crate) cache: Option<Cache>,
}

/// The child that takes what comes while the primary is unavailable.
pub(crate) struct Fallback {
    pub(crate) child: Child,
    pub(crate) name: Arc<str>,
    pub(crate) holding: Holding,
    pub(crate) signal: Signal,
}

impl std::fmt::Debug for CachedComposite {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CachedComposite")
            .field("primary", &self.layer.primary.child.name)
            .finish_non_exhaustive()
    }
}

impl OpenBackend for CachedComposite {
    type Options = Options;

    fn check(options: &Options, children: &[ChildDescription]) -> Description {
        options.describe(children)
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        let child = |role: &str| opening.children.iter().find(|child| child.role == role).cloned();
        let host = &opening.host;
        let primary = child(role::PRIMARY)
            .ok_or_else(|| Error::configuration("there is no child as `primary`; add one to `children`"))?;
        // A command that reads must not write, and an entry is written.
        let cache = child(role::CACHE).filter(|_| !opening.read_only);
        let layer = Arc::new(Layer {
            primary: Primary::new(primary, host.clone()),
            fallback: child(role::FALLBACK).map(Fallback::new),
            cache: cache.map(|cache| Cache::new(cache, host.clone(), options.ttl)),
            host: host.clone(),
            options,
        });
        if let Some(fallback) = &layer.fallback {
            let budget = opening.deadline.saturating_duration_since(std::time::Instant::now()) / 2;
            layer.look_at(fallback, &Call::with_budget(budget.min(FIRST_LOOK)));
        }
        layer.gauge_holding();
        Ok(Self { layer, catching_up: Mutex::default() })
    }
}

impl Backend for CachedComposite {
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
        self.layer.counts(call)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.layer.delete(call, items)
    }

    fn health(&self) -> Health {
        self.layer.health()
    }

    /// From now on this instance catches up, and no longer one that it takes the place of.
    fn begin(&self, call: &Call) -> Result<()> {
        if let Some(cache) = &self.layer.cache {
            cache.begin(call);
        }
        let mut catching_up = lock(&self.catching_up);
        let Some(fallback) = self.layer.fallback.as_ref().filter(|_| catching_up.is_none()) else { return Ok(()) };
        fallback.holding.begin();
        let layer = Arc::clone(&self.layer);
        let thread = self.layer.host.spawn("composite-catch-up", move || catch_up::run(&layer));
        let failed = |cause| Error::unavailable(format_args!("cannot start the thread that catches up: {cause}"));
        *catching_up = Some(thread.map_err(failed)?);
        Ok(())
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.layer.flush(call)
    }

    fn close(&self, call: &Call) -> Result<()> {
        let Some(fallback) = &self.layer.fallback else { return Ok(()) };
        fallback.signal.stop();
        let Some(thread) = lock(&self.catching_up).take() else { return Ok(()) };
        if !fallback.signal.wait_for_end(call.deadline) {
            return Err(Error::unavailable(format_args!(
                "the thread that merges `{}` back did not end in time; it ends after its present call",
                fallback.name
            )));
        }
        if thread.join().is_err() {
            error!(fallback = %fallback.name, "the thread that merges the fallback back has panicked; it goes on at the next start");
        }
        Ok(())
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.layer.prune(call, prune)
    }

    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.layer.primary.child.backend.put_blob(call, key, bytes)
    }

    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.layer.primary.child.backend.get_blob(call, key)
    }

    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.layer.primary.child.backend.scan_blobs(call, after, limit)
    }

    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.layer.primary.child.backend.delete_blob(call, key, untouched_since)
    }
}

impl Drop for CachedComposite {
    fn drop(&mut self) {
        if let Some(fallback) = &self.layer.fallback {
            fallback.signal.stop();
        }
    }
}

impl Fallback {
    fn new(child: Child) -> Self {
        let (name, holding) = (child.name.as_str().into(), Holding::of(&child.name));
        Self { child, name, holding, signal: Signal::default() }
    }
}

impl Layer {
    /// True if the fallback may hold what the primary does not have.
    pub(crate) fn may_hold(&self) -> bool {
        self.fallback.as_ref().is_some_and(|fallback| !fallback.holding.is_empty())
    }

    /// A call of the primary where somebody else can be asked when it fails: half of the time.
    pub(crate) fn primary_call(&self, call: &Call) -> Call {
        if self.fallback.is_some() { call.at_most(call.remaining() / 2) } else { *call }
    }

    pub(crate) fn gauge_holding(&self) {
        if let Some(fallback) = &self.fallback {
            #[expect(clippy::cast_precision_loss, reason = "a gauge needs no more than 52 bits")]
            self.host.gauge("fallback_held", fallback.holding.held() as f64);
            self.host.gauge("catching_up", f64::from(u8::from(!fallback.holding.is_empty())));
        }
    }

    fn health(&self) -> Health {
        let away = self.primary.away();
        let state = match (&away, self.may_hold()) {
            (Some(_), _) if self.fallback.is_some() => "fallback",
            (Some(_), _) => "unavailable",
            (None, true) => "catching_up",
            (None, false) => "primary",
        };
        let mut health = self.can_work(away.as_deref());
        health = health.with("state", state);
        if let Some(fallback) = &self.fallback {
            health = health.with("fallback_held", fallback.holding.held());
            let refused = fallback.signal.refused();
            if refused > 0 {
                health = health.with("refused_by_primary", refused);
            }
            let mut add = |reason: String| {
                health.reason =
                    [std::mem::take(&mut health.reason), reason].join("; ").trim_start_matches("; ").to_owned();
            };
            if fallback.signal.has_panicked() {
                add(format!("merging `{}` back panicked and is tried again, see the log and report it", fallback.name));
            }
            if fallback.signal.is_waiting() {
                add(format!(
                    "`{}` is not merged back: the instance that this one took the place of has not come back from a call; restart the worker if that lasts",
                    fallback.name
                ));
            }
        }
        if let Some(cache) = &self.cache {
            let (hits, misses) = cache.figures();
            health = health.with("cache_hits", hits).with("cache_misses", misses);
        }
        health
    }

    /// Whether it can do its work, with a primary that is known to be away for this reason.
    fn can_work(&self, away: Option<&str>) -> Health {
        let primary = &self.primary.child;
        let (trouble, when) = match (away, &self.fallback) {
            (Some(reason), Some(_)) => (format!("`{}` is unavailable ({reason})", primary.name), ""),
            (_, fallback) => {
                let of_primary = primary.backend.health();
                let Some(fallback) = fallback.as_ref().filter(|_| !of_primary.healthy) else {
                    return Health { healthy: of_primary.healthy, reason: of_primary.reason, ..Health::default() };
                };
                // Finds out whether it is away, which only a call can tell.
                fallback.signal.wake();
                (format!("`{}` is not well ({})", primary.name, of_primary.reason), "while it is unavailable ")
            }
        };
        let Some(fallback) = &self.fallback else { return Health::unhealthy(trouble) };
        let of_fallback = fallback.child.backend.health();
        let reason = format!("{trouble}; {when}merges go to `{}`", fallback.name);
        match of_fallback.healthy {
            true => Health { reason, ..Health::healthy() },
            false => Health::unhealthy(format!("{reason}, which is not well either: {}", of_fallback.reason)),
        }
    }
}
