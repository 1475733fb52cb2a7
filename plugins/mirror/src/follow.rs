//! The thread that brings a shadow what the primary did: one thing after the other, again where a child is away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use storage_plugin_api::Error;
use tracing::{info, warn};

use crate::mirror::Layer;
use crate::queue::BATCH;
use crate::settle::{Came, settle};
use crate::shadow::Shadow;
use crate::succession::{Left, Place};

/// Pauses after a failure where nobody says how long; they double.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Until somebody else, who follows for the same shadow, is asked for again.
const TURN: Duration = Duration::from_millis(20);
/// How long that one may take, who ends after its present call if all is well, before people are told.
const TOLD_AFTER: Duration = Duration::from_secs(60);
/// So many of what is left are named in the log.
const NAMED: usize = 10;

/// Follows until it is to end. What it then still owes is left to the instance that takes its place.
pub(crate) fn run(layer: &Layer, shadow: &Shadow, place: &Place) {
    let _ended = Ended(shadow);
    if let Some(Left { owed, differs }) = wait_for_turn(shadow, place) {
        layer.take_over(shadow, differs);
        shadow.queue.owe(owed);
        work(layer, shadow);
    }
    leave(layer, shadow, place);
    layer.gauge();
}

/// The one before may still be at work.
fn wait_for_turn(shadow: &Shadow, place: &Place) -> Option<Left> {
    let begun = Instant::now();
    loop {
        if let Some(left) = place.follow() {
            shadow.waits(false);
            return Some(left);
        }
        if begun.elapsed() >= TOLD_AFTER {
            shadow.waits(true);
        }
        if shadow.queue.is_ending() && shadow.queue.budget(TURN).is_zero() {
            return None;
        }
        shadow.queue.pause(TURN);
    }
}

fn work(layer: &Layer, shadow: &Shadow) {
    let mut pause = PAUSE;
    // After a failure one evaluation finds out whether it is due to another one.
    let mut most = BATCH;
    while let Some(work) = shadow.queue.next(most) {
        let came = catch_unwind(AssertUnwindSafe(|| settle(layer, shadow, work)));
        if !matches!(came, Ok(Came::Through)) {
            layer.host.count("shadow_retries", 1);
        }
        match came {
            Ok(Came::Through) => {
                shadow.is_there();
                (pause, most) = (PAUSE, (most * 2).min(BATCH));
            }
            Ok(Came::Partly(error)) => {
                shadow.is_there();
                shadow.fails_for_some(&error);
                (pause, most) = (PAUSE, (most * 2).min(BATCH));
            }
            Ok(Came::Aside(error)) => {
                shadow.fails_for_some(&error);
                // A shadow that can be read and not written to is asked for one after the other. How long the error asks
                // to wait is meant for that one.
                shadow.queue.pause(spread(PAUSE));
            }
            // They have a pause of their own.
            Ok(Came::Still(error)) => shadow.fails_for_some(&error),
            Ok(Came::Away(error)) => {
                shadow.is_away(&error);
                layer.gauge();
                shadow.queue.pause(wait(&error, pause));
                (pause, most) = ((pause * 2).min(LONGEST_PAUSE), 1);
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
    spread(error.retry_after.unwrap_or(pause).clamp(PAUSE / 10, LONGEST_PAUSE))
}

fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.5 * fastrand::f64())
}

fn leave(layer: &Layer, shadow: &Shadow, place: &Place) {
    let owed = shadow.queue.take_rest();
    let (shadow_name, evaluations) = (&shadow.child.name, owed.len());
    let first: Vec<&str> = owed.iter().take(NAMED).map(|id| &**id).collect();
    if owed.is_empty() {
        // What it differs in is told of all the same.
    } else if place.has_next() {
        info!(shadow = shadow_name, evaluations, "what the shadow does not have is left to the next instance");
    } else {
        warn!(
            shadow = shadow_name,
            evaluations,
            ?first,
            "shadow differs from the primary in these; mirror it again before the worker ends, or see `storage-worker diff --repair`"
        );
    }
    let differs = shadow.differs();
    place.leave(Left { owed, differs }, layer.options.owed_evaluations);
}

/// Tells that the thread has ended, however it did.
struct Ended<'a>(&'a Shadow);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.queue.ended();
    }
}
