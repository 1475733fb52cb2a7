//! The thread that removes blobs which no state refers to.
//!
//! It goes through the blobs in portions: takes those that were not stored for `collect_after`, walks through all states
//! and strikes out what they refer to, and deletes what is left, each only if it still was not stored since. It must see
//! every state: whatever cannot be read, or only in part, ends the pass, and the next one begins anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use storage_plugin_api::{Call, Error, Fields, Hash, Query, Result};
use tracing::{debug, error, info, warn};

use crate::blob;
use crate::tiered::Layer;

/// Most blobs of a portion, which bounds the memory to some megabytes.
const PORTION: usize = 100_000;
/// How many blobs and states are listed in one call.
const BLOBS_LISTED: usize = 5_000;
const STATES_LISTED: usize = 500;
/// How long a call of a child may take.
const CALL_BUDGET: Duration = Duration::from_secs(30);
/// Longest pause between two pages; others shall come through while states are walked.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The thread, and how it is told to stop.
pub(crate) struct Collecting {
    /// Dropped to stop it.
    stop: Sender<()>,
    /// Tells its end.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

/// What the last pass has seen, and what all of them did.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// None before the first pass is through, told by `passes`.
    blobs: AtomicU64,
    bytes: AtomicU64,
    passes: AtomicU64,
    collected: AtomicU64,
}

/// Why a pass is not through.
#[derive(Debug)]
pub(crate) enum Cut {
    /// It shall stop.
    Stopped,
    /// Something could not be read or deleted.
    Failed(Error),
}

impl Collecting {
    pub(crate) fn start(layer: &Arc<Layer>) -> Result<Self> {
        let ((stop, told), (tells, ended)) = (channel(), channel());
        let with_thread = Arc::clone(layer);
        let run = move || {
            run(&with_thread, &told);
            drop(tells);
        };
        let thread = layer.host.spawn("tiered-collect", run);
        let thread = thread.map_err(|cause| Error::unavailable(format_args!("cannot start a thread: {cause}")))?;
        Ok(Self { stop, ended, thread })
    }

    /// Stops it and waits for its end.
    pub(crate) fn end(self, deadline: Instant) -> Result<()> {
        drop(self.stop);
        let left = deadline.saturating_duration_since(Instant::now());
        if self.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
            return Err(Error::unavailable(
                "the thread that collects blobs did not end in time; it ends after its present call",
            ));
        }
        if self.thread.join().is_err() {
            error!("the thread that collects blobs has panicked; it goes on at the next start");
        }
        Ok(())
    }
}

impl Figures {
    /// How many blobs there were at the last pass, and their bytes.
    pub(crate) fn counted(&self) -> Option<(u64, u64)> {
        let is_known = self.passes.load(Ordering::Acquire) > 0;
        is_known.then(|| (self.blobs.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed)))
    }

    pub(crate) fn collected(&self) -> u64 {
        self.collected.load(Ordering::Relaxed)
    }
}

fn run(layer: &Layer, told: &Receiver<()>) {
    // Not at once, nor all workers at the same time.
    let mut pause = layer.options.collect_every.mul_f64(fastrand::f64());
    while let Err(RecvTimeoutError::Timeout) = told.recv_timeout(pause) {
        pause = layer.options.collect_every;
        let begun = Instant::now();
        let before = layer.figures.collected();
        match pass(layer, PORTION, &|pause| told.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)) {
            Ok(()) => {
                let (blobs, seconds) = (layer.figures.collected() - before, begun.elapsed().as_secs_f64());
                match blobs {
                    0 => debug!(seconds, "no blob was left to collect"),
                    blobs => info!(blobs, seconds, "blobs collected"),
                }
            }
            Err(Cut::Stopped) => return,
            Err(Cut::Failed(error)) => warn!(%error, "blobs are not collected; tried again later"),
        }
    }
}

/// Goes once through all blobs. `stops` pauses, and says whether to stop.
pub(crate) fn pass(layer: &Layer, portion: usize, stops: &dyn Fn(Duration) -> bool) -> std::result::Result<(), Cut> {
    // What is stored from here on is not removed by this pass, so it need not see the states that come with it.
    let untouched_since = microseconds(SystemTime::now()) - microseconds(UNIX_EPOCH + layer.options.collect_after);
    let (mut after, mut more) = (String::new(), true);
    let (mut blobs, mut bytes) = (0, 0);
    while more {
        let mut unused = BTreeSet::new();
        while more && unused.len() < portion {
            let page = layer.blobs.backend.scan_blobs(&call(), &after, BLOBS_LISTED)?;
            let Some(last) = page.blobs.last() else {
                more = false;
                break;
            };
            after.clone_from(&last.key);
            more = page.more;
            blobs += page.blobs.len() as u64;
            bytes += page.blobs.iter().map(|blob| blob.size).sum::<u64>();
            let old = page.blobs.iter().filter(|blob| blob.touched_at < untouched_since);
            unused.extend(old.filter_map(|blob| blob::hash_of_key(&blob.key)));
            if stops(Duration::ZERO) {
                return Err(Cut::Stopped);
            }
        }
        strike_out_used(layer, &mut unused, stops)?;
        for hash in unused {
            if layer.blobs.backend.delete_blob(&call(), &blob::key(&hash), untouched_since)? {
                layer.figures.collected.fetch_add(1, Ordering::Relaxed);
                layer.host.count("blobs_collected", 1);
            }
            if stops(Duration::ZERO) {
                return Err(Cut::Stopped);
            }
        }
    }
    layer.figures.blobs.store(blobs, Ordering::Relaxed);
    layer.figures.bytes.store(bytes, Ordering::Relaxed);
    layer.figures.passes.fetch_add(1, Ordering::Release);
    Ok(())
}

/// Walks through all states, or until nothing is left to be struck out.
fn strike_out_used(
    layer: &Layer,
    unused: &mut BTreeSet<Hash>,
    stops: &dyn Fn(Duration) -> bool,
) -> std::result::Result<(), Cut> {
    let mut cursor = None;
    while !unused.is_empty() {
        let begun = Instant::now();
        let query = Query { fields: Fields::WithoutBodies, limit: STATES_LISTED, cursor, ..Query::default() };
        let page = layer.primary.backend.list(&call(), &query)?;
        for (id, found) in &page.entries {
            if found.incomplete {
                return Err(Cut::Failed(Error::unavailable(format_args!(
                    "only a part of `{id}` can be seen, and the other part may refer to a blob"
                ))));
            }
            let bodies = found.state.registers().iter().filter_map(|register| register.value.as_body());
            // Any body of that hash, wherever it is said to be: a blob too many does no harm.
            bodies.for_each(|body| {
                unused.remove(body.hash());
            });
        }
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
        if stops(begun.elapsed().min(LONGEST_PAUSE)) {
            return Err(Cut::Stopped);
        }
    }
    Ok(())
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn call() -> Call {
    Call::with_budget(CALL_BUDGET)
}

fn microseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
