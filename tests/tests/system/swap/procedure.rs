//! The steps of `docs/swapping-backends.md` by its numbers, with the commands that an operator types, and what to do when
//! one fails because the worker was killed.

use std::time::{Duration, Instant};

use super::attended::Attended;

/// How long each state of things lasts at least, so that events are stored in it.
const DWELL: Duration = Duration::from_millis(500);
/// A command fails at most so many times for one kill: while the worker is away, and while it opens its storage.
const ATTEMPTS: usize = 3;

/// From files to PostgreSQL, and back.
pub(super) fn there_and_back(worker: &mut Attended) {
    swap(worker, "disk", "pg");
    swap(worker, "pg", "disk");
}

/// Puts one store into the place of another.
fn swap(worker: &mut Attended, old: &str, new: &str) {
    // 1. Both get every event from here on.
    worker.edit("backends.both.plugin", "mirror");
    worker.edit("backends.both.children.primary", old);
    worker.edit("backends.both.children.shadow", new);
    worker.edit("backends.both.options.ack", "all");
    worker.edit("storage.backend", "both");
    reload(worker);
    // 2. The new one gets what was there before.
    must_succeed(worker, &["copy", "--running", "--from", old, "--to", new]);
    // 3. Both hold the same.
    must_succeed(worker, &["diff", "--running", old, new]);
    // 4. Both have everything still, and reads come from the new one.
    worker.edit("backends.both.children.primary", new);
    worker.edit("backends.both.children.shadow", old);
    reload(worker);
    dwell(worker, "dwell on both, turned round");
    // 5. The new one alone.
    worker.edit("storage.backend", new);
    reload(worker);
    dwell(worker, &format!("dwell on {new} alone"));
}

fn reload(worker: &mut Attended) {
    must_succeed(worker, &["check"]);
    must_succeed(worker, &["reload"]);
}

/// A command of the swap; where the worker was killed meanwhile it is run again, once the worker is ready.
fn must_succeed(worker: &mut Attended, arguments: &[&str]) {
    let mut was_killed = false;
    for _ in 0..ATTEMPTS {
        let ended = worker.command(arguments);
        if ended.status.success() {
            return;
        }
        was_killed |= ended.disturbed;
        assert!(was_killed, "{arguments:?}: {}\n{}\n{}", ended.status, ended.text, worker.worker().log());
        worker.wait_until_ready();
    }
    panic!("{arguments:?} failed {ATTEMPTS} times");
}

fn dwell(worker: &mut Attended, what: &str) {
    let start = Instant::now();
    worker.wait(what, |_| start.elapsed() > DWELL);
    worker.wait_until_ready();
}
