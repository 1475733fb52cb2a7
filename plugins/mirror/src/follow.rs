//! The thread that brings a shadow what the primary did: one thing after the other, again where a child is away.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use storage_plugin_api::Error;
use tracing::{info, warn};

use crate::mirror::Layer;
use crate::settle::settle;
use crate::shadow::Shadow;
use crate::succession::Place;

/// Pauses after a failure where nobody says how long; they double.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Until somebody else, who follows for the same shadow, is asked for again.
const TURN: Duration = Duration::from_millis(20);
/// So many of what is left are named in the log.
const NAMED: usize = 10;

/// Follows until it is to end. What it then still owes is left to the instance that takes its place.
pub(crate) fn run(layer: &Layer, shadow: &Shadow, place: &Place) {
    let _ended = Ended(shadow);
    if let Some(owed) = wait_for_turn(shadow, place) {
        shadow.queue.owe(owed);
        work(layer, shadow);
    }
    leave(layer, shadow, place);
    layer.gauge();
}

/// The one before may still be at work.
fn wait_for_turn(shadow: &Shadow, place: &Place) -> Option<BTreeSet<Box<str>>> {
    loop {
        if let Some(owed) = place.follow() {
            return Some(owed);
        }
        if shadow.queue.is_ending() && shadow.queue.budget(TURN).is_zero() {
            return None;
        }
        shadow.queue.pause(TURN);
    }
}

fn work(layer: &Layer, shadow: &Shadow) {
    let mut pause = PAUSE;
    while let Some(work) = shadow.queue.next() {
        match catch_unwind(AssertUnwindSafe(|| settle(layer, shadow, work))) {
            Ok(None) => {
                shadow.is_there();
                pause = PAUSE;
            }
            Ok(Some(error)) => {
                shadow.is_away(&error);
                layer.host.count("shadow_retries", 1);
                layer.gauge();
                shadow.queue.pause(wait(&error, pause));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(_) => {
                // The panic is in the log already.
                shadow.queue.dropped();
                shadow.panicked();
                shadow.queue.pause(LONGEST_PAUSE);
            }
        }
        layer.gauge();
    }
}

/// Until the next attempt: as long as the child asks for, else longer each time, and never at the same time as others.
fn wait(error: &Error, pause: Duration) -> Duration {
    let wait = error.retry_after.unwrap_or(pause).clamp(PAUSE / 10, LONGEST_PAUSE);
    wait.mul_f64(0.75 + 0.5 * fastrand::f64())
}

fn leave(layer: &Layer, shadow: &Shadow, place: &Place) {
    let rest = shadow.queue.take_rest();
    if rest.is_empty() {
        return;
    }
    let (shadow_name, evaluations) = (&shadow.child.name, rest.len());
    let first: Vec<&str> = rest.iter().take(NAMED).map(|id| &**id).collect();
    if place.has_next() {
        info!(shadow = shadow_name, evaluations, "what the shadow does not have is left to the next instance");
    } else {
        warn!(
            shadow = shadow_name,
            evaluations,
            ?first,
            "shadow differs from the primary in these; mirror it again before the worker ends, or see `storage-worker diff --repair`"
        );
    }
    place.leave(rest, layer.options.owed_evaluations);
}

/// Tells that the thread has ended, however it did.
struct Ended<'a>(&'a Shadow);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.queue.ended();
    }
}
