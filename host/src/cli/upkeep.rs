//! What the commands for whole backends have in common: patience, backends that can be walked, and the arguments for both.

use std::time::Duration;

use clap::Args;
use storage_plugin_api::{Call, Error};

use super::UsageError;
use super::progress::Progress;
use super::storage::Reached;
use crate::storage::upkeep::Patience;

/// How long and how fast.
#[derive(Args, Clone, Debug)]
pub(crate) struct Limits {
    /// Evaluations a second, at most [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,

    /// Evaluations handled at once, at most
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,

    #[command(flatten)]
    pub(crate) give_up: GiveUp,
}

/// When an outage is too long.
#[derive(Args, Clone, Debug)]
pub(crate) struct GiveUp {
    /// End when a backend has been away for so long
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub(crate) give_up_after: Duration,
}

impl GiveUp {
    pub(crate) fn patience<'a>(&self, call_timeout: Duration, waiting: &'a dyn Fn(&Error)) -> Patience<'a> {
        Patience { call_timeout, limit: self.give_up_after, waiting }
    }
}

/// Says why there is a pause.
pub(crate) fn say_why(progress: &Progress) -> impl Fn(&Error) + '_ {
    |error| progress.say(&format!("waiting, since storage failed: {error}"))
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
