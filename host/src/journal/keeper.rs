//! The thread that syncs what was written, writes down what is settled, and removes segments that are done.
//!
//! Nobody waits for it: what was written is with the operating system, so a kill of the worker loses nothing, and this
//! bounds what the end of the machine loses.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tracing::{error, info, warn};

use super::directory::remedy;
use super::{Journal, State};

/// How often the age of the archive is looked at.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long to wait after a sync that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Starts the thread. It ends when the journal is told to finish.
pub(super) fn start(journal: &Arc<Journal>) -> io::Result<()> {
    let keeper = Keeper { journal: Arc::clone(journal), pruned: None, failing: false };
    thread::Builder::new().name("journal".to_owned()).spawn(move || keeper.run())?;
    Ok(())
}

/// Does something with each, whatever happens with the others; the first error.
fn each<T>(items: &[T], work: impl FnMut(&T) -> io::Result<()>) -> io::Result<()> {
    items.iter().map(work).fold(Ok(()), Result::and)
}

struct Keeper {
    journal: Arc<Journal>,
    pruned: Option<Instant>,
    /// Something of the files failed the last time, and was told.
    failing: bool,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut state = self.journal.lock();
        if thread::panicking() {
            state.sync_problem = Some("the thread that syncs it has panicked; restart the worker".to_owned());
        }
        state.ended = true;
        drop(state);
        self.journal.ended.notify_all();
    }
}

impl Keeper {
    fn run(mut self) {
        loop {
            let is_ending = self.wait();
            let synced = self.sync();
            let kept = self.write_settled();
            self.prune();
            if is_ending {
                return;
            }
            if !synced || kept.is_err() {
                self.pause(RETRY_AFTER);
            }
        }
    }

    /// Waits until there is something to do, and for what shares its sync. True if this is the end.
    fn wait(&self) -> bool {
        let mut state = self.journal.lock();
        // A segment that cannot be synced is waited for until it is settled.
        while state.unsynced.is_empty()
            && !state.ledger.has_changed()
            && (state.sync_problem.is_none() || state.unsyncable.iter().any(|number| state.ledger.needs(*number)))
            && !state.ending
        {
            state.keeper_waits = true;
            let waited = self.journal.work.wait_timeout(state, PRUNE_EVERY).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            state.keeper_waits = false;
            if waited.1.timed_out() {
                break;
            }
        }
        drop(state);
        self.pause(self.journal.config.sync_interval);
        self.journal.lock().ending
    }

    /// Lets time pass, unless this is the end.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.journal.lock();
        while !state.ending {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            state = self.journal.ending.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Syncs what was written. After a failure the kernel may have dropped it: then another segment begins.
    fn sync(&self) -> bool {
        let (files, was_failing) = {
            let mut state = self.journal.lock();
            // What is done already may be removed already.
            let mut files = std::mem::take(&mut state.unsynced);
            files.retain(|(number, _)| state.ledger.holds(*number));
            (files, state.sync_problem.is_some())
        };
        let still_there = |file: &std::fs::File| match file.metadata()?.nlink() {
            0 => Err(io::Error::new(io::ErrorKind::NotFound, "somebody removed it while it was written")),
            _ => Ok(()),
        };
        let mut synced = each(&files, |(_, file)| file.sync_data().and_then(|()| still_there(file)));
        if was_failing && synced.is_ok() {
            synced = self.journal.directory.sync();
        }
        let mut state = self.journal.lock();
        let State { unsyncable, ledger, .. } = &mut *state;
        unsyncable.retain(|number| ledger.needs(*number));
        match synced {
            Ok(()) => {
                if state.unsyncable.is_empty() && state.sync_problem.take().is_some() {
                    info!("the journal is synced again");
                }
                true
            }
            Err(cause) => {
                let path = self.journal.directory.path().display();
                let problem = format!("cannot sync: {cause}; {}", remedy(&cause));
                if state.sync_problem.is_none() {
                    error!(%path, problem, "the journal cannot be synced; the end of the machine would lose what arrived last");
                }
                state.abandoned = true;
                state.unsyncable.extend(files.iter().map(|(number, _)| *number));
                state.sync_problem = Some(problem);
                false
            }
        }
    }

    /// Writes down up to where segments are settled, and removes those that are done.
    fn write_settled(&mut self) -> io::Result<()> {
        let (settled, done) = {
            let mut state = self.journal.lock();
            (state.ledger.settled(), state.ledger.done())
        };
        let outcome = self.try_write_settled(settled.as_deref(), &done);
        match &outcome {
            Ok(()) if self.failing => info!("what the journal has settled is written down again"),
            Err(error) if !self.failing => {
                let path = self.journal.directory.path().display();
                warn!(%path, %error, "cannot write down what is settled, a restart would deliver it again");
            }
            Ok(()) | Err(_) => {}
        }
        self.failing = outcome.is_err();
        if outcome.is_err() {
            self.journal.lock().ledger.set_changed();
        }
        outcome
    }

    fn try_write_settled(
        &self,
        settled: Option<&[(u64, u64)]>,
        done: &[(super::directory::SegmentName, u64)],
    ) -> io::Result<()> {
        let directory = &self.journal.directory;
        let written = settled.map_or(Ok(()), |settled| directory.write_settled(settled, !done.is_empty()));
        // On a full disk it is the removal that makes room.
        for (name, _) in done {
            if self.journal.config.archive {
                directory.archive(*name)?
            } else {
                directory.remove(*name)?
            }
            self.journal.lock().ledger.removed(name.number);
        }
        self.journal.freed.notify_all();
        written
    }

    /// Keeps the archive within its bounds.
    fn prune(&mut self) {
        let config = &self.journal.config;
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNE_EVERY / 4) {
            return;
        }
        self.pruned = Some(Instant::now());
        let most = if config.archive { config.archive_bytes } else { u64::MAX };
        let Some(oldest) = SystemTime::now().checked_sub(config.archive_age) else { return };
        if let Err(error) = self.journal.directory.prune_archive(most, oldest) {
            warn!(%error, "cannot remove old segments of the journal's archive, will try again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files behind one that could not be synced used to be forgotten.
    #[test]
    fn one_that_fails_keeps_no_other_from_its_turn() {
        let mut seen = Vec::new();

        let outcome = each(&[1, 2, 3, 4], |number| {
            seen.push(*number);
            if number % 2 == 0 { Err(io::Error::other(number.to_string())) } else { Ok(()) }
        });

        assert_eq!(seen, [1, 2, 3, 4]);
        assert_eq!(outcome.expect_err("some have failed").to_string(), "2");
    }
}
