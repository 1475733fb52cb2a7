//! `prune`: removes evaluations that ended long ago.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::output::{self, Output};
use super::progress::Progress;
use super::storage::Access;
use super::upkeep::{Limits, Reach, listen, must_list, say_why};
use super::{Global, UsageError};
use crate::storage::upkeep::prune::{Pruning, prune};

/// Remove evaluations that ended long ago
///
/// Removes what is completed, failed or cancelled for longer than the given time. A layer removes it from every backend
/// below it. Nothing remembers what was removed: an event that arrives again, or a replay, makes it anew, so keep
/// evaluations for longer than events are replayed from.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The backend, by its name in `[backends]`; best the root of the tree
    #[arg(value_name = "BACKEND")]
    backend: String,

    /// How long ago an evaluation must have ended, such as 90d or 12h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Duration,

    /// Say how many evaluations would be removed, and remove none
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    reach: Reach,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker prune main --older-than 90d --dry-run
  storage-worker prune main --older-than 90d --rate 500

A backend of the running worker is reached through it (`admin.listen`); another one is opened here.

Exit codes: 0 done, 1 interrupted or storage failed, 2 wrong usage or configuration";

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Arguments { backend: name, older_than, dry_run, limits, reach } = arguments;
    let age = i64::try_from(older_than.as_micros()).ok();
    let ended_before = age.and_then(|age| Timestamp::now().as_microsecond().checked_sub(age));
    let ended_before =
        ended_before.ok_or_else(|| UsageError("`--older-than` is longer than there is time".to_owned()))?;
    let storage = reach.storage(&global.load()?, &[name], if *dry_run { Access::Read } else { Access::Write })?;
    let backend = storage.first();
    if !backend.capabilities.prune {
        must_list(backend)?;
    }
    let is_told_to_end = listen()?;
    let progress = Progress::start("removed", None, 0);
    let waiting = say_why(&progress);
    let patience = reach.patience(storage.call_timeout(), &waiting, &is_told_to_end);
    let pruning = Pruning { ended_before, batch: limits.batch as usize, rate: limits.rate, dry_run: *dry_run };
    let pruned = prune(&*backend.backend, &backend.capabilities, &pruning, &patience, &mut |pruned| {
        progress.at(pruned.removed);
        Ok(())
    });
    progress.end();
    let pruned = pruned.with_context(|| format!("`{name}` was not pruned to the end; what was removed is gone"))?;
    match global.output {
        Output::Json => {
            let mut answer = serde_json::to_value(&pruned)?;
            answer["dry_run"] = json!(dry_run);
            output::print_json(&answer)?;
        }
        Output::Text => {
            let what = if *dry_run { "would be removed from" } else { "removed from" };
            let least = if pruned.more { "at least " } else { "" };
            let mut text = format!("{least}{} evaluations {what} `{name}`", pruned.removed);
            if pruned.changed > 0 {
                text.push_str(&format!("; {} changed meanwhile and stay", pruned.changed));
            }
            if !pruned.complete {
                text.push_str("\ninterrupted; the same command goes on");
            }
            output::print(&text)?;
        }
    }
    Ok(if pruned.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
