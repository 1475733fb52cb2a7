//! The thread that runs checkpoints and scans, and what the calls and it tell each other.
//!
//! It alone changes record files and the index, so those need no locks. `checkpoint.rs` and `scan.rs` are what it does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_plugin_api::{Call, Error, Result};
use tracing::{error, info};

use crate::scan::Scan;
use crate::store::Store;

/// How long merged states stay out of the files at most, but for the time that writing takes.
const INTERVAL: Duration = Duration::from_millis(500);

/// The notes between the calls and the thread.
#[derive(Default)]
pub(crate) struct Caretaker {
    notes: Mutex<Notes>,
    called: Condvar,
    finished: Condvar,
}

#[derive(Default)]
struct Notes {
    wake: bool,
    stop: bool,
    /// Checkpoints begun and ended so far, failed ones included.
    begun: u64,
    ended: u64,
    /// The files have everything before this position of the log.
    covered: u64,
    /// Why the last checkpoint failed, if it did.
    failure: Option<String>,
    /// When the directory last changed, as far as we changed it.
    last_modified: Option<i64>,
    /// Ids in the index whose files were not found.
    missing: Vec<Arc<str>>,
    scan: ScanNeed,
    /// Files of histories may be behind their records.
    behind: bool,
}

/// Whether there may be files that the index does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ScanNeed {
    /// No.
    #[default]
    None,
    /// Yes, and a scan that finds them is under way.
    Running,
    /// Yes, and no scan has begun since.
    Wanted,
}

impl Caretaker {
    /// Has the thread look at once.
    pub(crate) fn wake(&self) {
        let mut notes = self.notes();
        if !notes.wake {
            notes.wake = true;
            self.called.notify_all();
        }
    }

    /// Has the thread run a last checkpoint and end.
    pub(crate) fn stop(&self) {
        self.notes().stop = true;
        self.called.notify_all();
    }

    /// Why the files are behind the log, if they are.
    pub(crate) fn failure(&self) -> Option<String> {
        self.notes().failure.clone()
    }

    /// The position of the log up to which the files have everything.
    pub(crate) fn covered(&self) -> u64 {
        self.notes().covered
    }

    pub(crate) fn last_modified(&self) -> Option<i64> {
        self.notes().last_modified
    }

    pub(crate) fn set_last_modified(&self, modified: i64) {
        self.notes().last_modified = Some(modified);
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.notes().behind
    }

    /// Says whether more files of histories are behind now.
    pub(crate) fn set_behind(&self, more: bool) {
        self.notes().behind |= more;
    }

    pub(crate) fn set_caught_up(&self) {
        self.notes().behind = false;
        self.finished.notify_all();
    }

    pub(crate) fn scan_need(&self) -> ScanNeed {
        self.notes().scan
    }

    pub(crate) fn set_scan_need(&self, need: ScanNeed) {
        self.notes().scan = need;
    }

    /// Tells of an id in the index of which there is no file.
    pub(crate) fn report_missing(&self, id: &str) {
        let mut notes = self.notes();
        if notes.missing.len() < 10_000 {
            notes.missing.push(id.into());
        }
    }

    pub(crate) fn take_missing(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.notes().missing)
    }

    fn has_missing(&self) -> bool {
        !self.notes().missing.is_empty()
    }

    /// Waits until somebody calls or a time has passed. Answers whether the thread shall end, and whether it was called.
    fn wait(&self, pause: Duration, heed_calls: bool) -> (bool, bool) {
        let deadline = Instant::now() + pause;
        let mut notes = self.notes();
        while !(notes.stop || heed_calls && notes.wake) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            notes = self.called.wait_timeout(notes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (notes.stop, std::mem::take(&mut notes.wake) && heed_calls)
    }

    /// Says why nothing will be written any more.
    fn give_up(&self, failure: &str) {
        let mut notes = self.notes();
        notes.failure = Some(failure.to_owned());
        notes.ended = u64::MAX;
        drop(notes);
        self.finished.notify_all();
    }

    fn begin(&self) {
        self.notes().begun += 1;
    }

    fn end(&self, outcome: Result<u64, &Error>) {
        let mut notes = self.notes();
        notes.ended = notes.begun;
        match outcome {
            Ok(position) => {
                if notes.failure.take().is_some() {
                    info!("the record files are written again");
                }
                notes.covered = position;
            }
            Err(failure) => {
                if notes.failure.as_ref() != Some(&failure.message) {
                    error!(error = %failure, "the record files fall behind the log, will retry");
                }
                notes.failure = Some(failure.message.clone());
            }
        }
        drop(notes);
        self.finished.notify_all();
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the calls if the thread panics, who else would wait for it.
struct PanicGuard<'a>(&'a Caretaker);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up("the thread that writes the record files has panicked; everything is in the log, restart");
        }
    }
}

impl Store {
    /// What the thread does until it is stopped.
    pub(crate) fn take_care(&self) {
        let _guard = PanicGuard(&self.caretaker);
        let mut scan = None;
        let mut last = Instant::now();
        // After a failure calls are not heeded for a while, else they would only have it fail again.
        let mut failed = false;
        loop {
            if scan.is_none() && self.caretaker.scan_need() == ScanNeed::Wanted {
                scan = Some(Scan::default());
            }
            let has_work = !failed && (scan.is_some() || self.caretaker.is_behind());
            let pause = if has_work { Duration::ZERO } else { INTERVAL.saturating_sub(last.elapsed()) };
            let (stop, called) = self.caretaker.wait(pause, !failed);
            // The checkpoints come first; what is left of the time goes to the rest.
            let is_due = stop || called || last.elapsed() >= INTERVAL || self.pending.is_filling();
            if has_work && !is_due {
                failed = !self.go_on(&mut scan);
                continue;
            }
            last = Instant::now();
            self.log.probe();
            self.log.prepare();
            failed = self.checkpoint_if_needed().is_err();
            if stop {
                return;
            }
        }
    }

    /// Does some of what has time. False if it failed; it is tried again.
    fn go_on(&self, scan: &mut Option<Scan>) -> bool {
        let outcome = match scan {
            Some(running) => running.step(self).map(|is_done| {
                if is_done {
                    *scan = None;
                }
            }),
            None => self.catch_up().map(drop),
        };
        if let Err(error) = &outcome {
            error!(%error, "cannot read or write files in the background, will retry");
            if scan.take().is_some() {
                self.caretaker.set_scan_need(ScanNeed::Wanted);
            }
        }
        outcome.is_ok()
    }

    /// Runs a checkpoint if there is anything for it.
    pub(crate) fn checkpoint_if_needed(&self) -> Result<()> {
        let is_covered = self.log.end() == self.caretaker.covered() && self.pending.unwritten() == 0;
        if is_covered && !self.caretaker.has_missing() {
            return Ok(());
        }
        self.caretaker.begin();
        let outcome = self.checkpoint(u64::MAX);
        self.caretaker.end(outcome.as_ref().copied());
        outcome.map(drop)
    }

    /// Waits until the files have everything that was merged before the call.
    ///
    /// Histories that are still behind at the deadline are no error: nothing is lost, and the next start goes on with them.
    pub(crate) fn flush(&self, call: &Call) -> Result<()> {
        let target = self.log.end();
        let mut notes = self.caretaker.notes();
        let begun = notes.begun;
        while notes.covered < target || notes.behind {
            // A checkpoint that had begun before may have failed for what is no longer so.
            if let Some(failure) = notes.failure.as_ref().filter(|_| notes.ended > begun) {
                return Err(Error::unavailable(failure));
            }
            let left = call.remaining();
            if left.is_zero() || notes.stop {
                return match notes.covered < target {
                    true => Err(Error::unavailable("the record files are not written in time, the log has the rest")),
                    false => Ok(()),
                };
            }
            if notes.covered < target {
                notes.wake = true;
                self.caretaker.called.notify_all();
            }
            let pause = left.min(INTERVAL);
            notes = self.caretaker.finished.wait_timeout(notes, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}
