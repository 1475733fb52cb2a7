//! What the commands for whole backends have in common: patience, backends that can be walked, and the arguments for both.

use std::cell::RefCell;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use storage_plugin_api::{Call, Error};

use super::UsageError;
use super::interrupt::Interrupt;
use super::output;
use super::progress::Progress;
use super::storage::{Access, Reached, Storage};
use crate::config::Loaded;
use crate::http::client::ClientError;
use crate::storage::upkeep::Patience;

/// How soon the same reason for a pause is said again.
const SAID_AGAIN: Duration = Duration::from_secs(10);
/// What a worker answers whose storage is not open.
const UNAVAILABLE: u16 = 503;
/// Between two questions to such a worker.
const PAUSE: Duration = Duration::from_millis(200);

/// How fast, how much at once, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Limits {
    /// Evaluations a second, at most [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,

    /// Evaluations handled at once, at most
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
}

/// How backends are reached, and when an outage is too long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reach {
    /// Reach the backends through the running worker alone, and wait for it while it starts; open none here
    #[arg(long)]
    running: bool,

    /// End when a backend, or the worker, has been away for so long
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    give_up_after: Duration,
}

impl Reach {
    /// The backends, in the order of the names.
    pub(crate) fn storage(&self, loaded: &Loaded, names: &[&str], access: Access) -> anyhow::Result<Storage> {
        let began = Instant::now();
        let mut is_said = false;
        loop {
            let storage = match self.running {
                true => Storage::of_worker(loaded, names),
                false => Storage::named(loaded, names, access),
            };
            match storage {
                Err(error) if self.may_pass(&error) && began.elapsed() < self.give_up_after => {
                    if !is_said {
                        output::print_note(&format!("waiting for the worker: {error:#}"));
                        is_said = true;
                    }
                    thread::sleep(PAUSE);
                }
                storage => return storage,
            }
        }
    }

    /// Whether a worker that was started a moment ago would answer so: its storage is not open yet. Or, where one has to
    /// be there, that it is about to be started.
    fn may_pass(&self, error: &anyhow::Error) -> bool {
        match error.downcast_ref() {
            Some(ClientError::Refused { status, .. }) => *status == UNAVAILABLE,
            Some(ClientError::NothingListens(_) | ClientError::Failed { .. }) => self.running,
            None => false,
        }
    }

    pub(crate) fn patience<'a>(
        &self,
        call_timeout: Duration,
        waiting: &'a dyn Fn(&Error),
        is_told_to_end: &'a dyn Fn() -> bool,
    ) -> Patience<'a> {
        Patience { call_timeout, limit: self.give_up_after, waiting, is_told_to_end }
    }
}

/// Whether somebody has asked for the end. Not before storage is open: until then a signal ends the process at once.
pub(crate) fn listen() -> anyhow::Result<impl Fn() -> bool> {
    let interrupt = Interrupt::listen().context("cannot listen to signals")?;
    Ok(move || interrupt.is_told())
}

/// Says why there is a pause; the same reason not again and again.
pub(crate) fn say_why(progress: &Progress) -> impl Fn(&Error) + '_ {
    let last: RefCell<Option<(String, Instant)>> = RefCell::default();
    move |error| {
        let why = error.to_string();
        let is_known = |(said, at): &(String, Instant)| *said == why && at.elapsed() < SAID_AGAIN;
        if !last.borrow().as_ref().is_some_and(is_known) {
            progress.say(&format!("waiting, since storage failed: {why}"));
            last.replace(Some((why, Instant::now())));
        }
    }
}

/// An error if a backend cannot be gone through in id order.
pub(crate) fn must_list(backend: &Reached) -> Result<(), UsageError> {
    if backend.capabilities.list_by_id {
        return Ok(());
    }
    Err(UsageError(format!(
        "the backend `{}` does not list what it holds by id, so it cannot be gone through",
        backend.name
    )))
}

/// An error if both names are the same.
pub(crate) fn must_differ(one: &str, other: &str) -> Result<(), UsageError> {
    if one != other {
        return Ok(());
    }
    Err(UsageError(format!("both backends are `{one}`; name two")))
}

/// How many evaluations a backend has, if it counts; asked once, since it only serves to show progress.
pub(crate) fn total(backend: &Reached, call: &Call) -> Option<u64> {
    let counts = backend.capabilities.counts.then(|| backend.backend.counts(call).ok()).flatten();
    counts.map(|counts| counts.by_status.values().sum())
}
