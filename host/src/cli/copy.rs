//! `copy`: merges everything that one backend holds into another, while both are in use.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage_plugin_api::Error;

use super::output::{self, Output, plain};
use super::progress::Progress;
use super::storage::Access;
use super::upkeep::{Limits, Reach, listen, must_differ, must_list, say_why, total};
use super::{Global, UsageError};
use crate::app;
use crate::storage::upkeep::copy::{Copied, Copying, Place, copy};
use crate::telemetry::metrics::Metrics;

/// Merge everything that one backend holds into another, while both are in use
///
/// Goes through the first backend in the order of the ids and merges each evaluation into the second one. Merging is
/// repeatable and loses nothing, so a copy may be ended and started again at any time, and both backends may be written to
/// meanwhile. What is merged into the first one behind the place where the copy is, a second copy brings along, or a
/// `mirror` over both.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The backend to read, by its name in `[backends]`
    #[arg(long, value_name = "BACKEND")]
    from: String,

    /// The backend to merge into
    #[arg(long, value_name = "BACKEND")]
    to: String,

    /// Begin behind this id
    #[arg(long, value_name = "ID")]
    after: Option<String>,

    /// Keep the place in this file, and go on there if it exists; it is removed at the end
    #[arg(long, value_name = "FILE", conflicts_with = "after")]
    resume: Option<PathBuf>,

    /// Say how many evaluations there are to copy, and copy none
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    limits: Limits,

    #[command(flatten)]
    reach: Reach,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker copy --from disk --to pg --dry-run
  storage-worker copy --from disk --to pg --resume disk-to-pg.json --rate 2000
  storage-worker diff disk pg

Backends of the running worker are reached through it (`admin.listen`); others are opened here.

Exit codes: 0 all copied, 1 an evaluation was refused, interrupted or storage failed, 2 wrong usage or configuration";

/// The file of `--resume`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resumed {
    from: String,
    to: String,
    /// How many evaluations were done with.
    #[serde(default)]
    copied: u64,
    place: Place,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Arguments { from, to, limits, reach, dry_run, .. } = arguments;
    must_differ(from, to)?;
    let begin = match &arguments.resume {
        Some(file) => resumed(file, from, to)?,
        None => Resumed { place: Place { cursor: None, after: arguments.after.clone() }, ..Resumed::new(from, to) },
    };
    let loaded = global.load()?;
    let storage = if *dry_run {
        // What would be merged into need not be there yet, only make sense.
        app::plan_some(&loaded, &Metrics::new(), &[to])?;
        reach.storage(&loaded, &[from], Access::Read)?
    } else {
        reach.storage(&loaded, &[from, to], Access::Write)?
    };
    let (source, target) = (storage.first(), storage.last());
    must_list(source)?;
    let is_told_to_end = listen()?;
    // Behind an id that was given nobody knows how many there are.
    let total = total(source, &storage.call()).filter(|_| arguments.after.is_none());
    let progress = Progress::start("copied", total, begin.copied);
    let waiting = say_why(&progress);
    let patience = reach.patience(storage.call_timeout(), &waiting, &is_told_to_end);
    let place = begin.place.clone();
    let copying = Copying { batch: limits.batch as usize, rate: limits.rate, dry_run: *dry_run, place };
    let mut reached = begin.place.after;
    let mut report = |copied: &Copied, place: &Place| {
        progress.at(copied.copied);
        reached.clone_from(&place.after);
        match arguments.kept_in() {
            Some(file) => {
                let copied = begin.copied + copied.copied;
                let resumed = Resumed { copied, place: place.clone(), ..Resumed::new(from, to) };
                keep(file, &resumed)
                    .map_err(|error| Error::configuration(format_args!("cannot write `{}`: {error}", file.display())))
            }
            None => Ok(()),
        }
    };
    let copied = copy(&*source.backend, &*target.backend, &copying, &patience, &mut report);
    progress.end();
    let go_on = arguments.how_to_go_on(reached.as_deref());
    let copied = copied.with_context(|| format!("`{from}` was not copied to the end; what was copied stays{go_on}"))?;
    if let Some(file) = arguments.kept_in().filter(|_| copied.complete) {
        remove(file).with_context(|| format!("cannot remove `{}`", file.display()))?;
    }
    match global.output {
        Output::Json => {
            let mut answer = serde_json::to_value(&copied)?;
            answer["from"] = json!(from);
            answer["to"] = json!(to);
            answer["dry_run"] = json!(dry_run);
            answer["after"] = if copied.complete { Value::Null } else { json!(reached) };
            output::print_json(&answer)?;
        }
        Output::Text => output::print(&text(arguments, &copied, &go_on))?,
    }
    let is_done = copied.complete && copied.rejected == 0;
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    /// The file that the place is kept in.
    fn kept_in(&self) -> Option<&Path> {
        self.resume.as_deref().filter(|_| !self.dry_run)
    }

    /// What a command that goes on where this one ended is given.
    fn how_to_go_on(&self, reached: Option<&str>) -> String {
        match (self.kept_in(), reached) {
            (Some(_), Some(_)) => ", and the same command goes on".to_owned(),
            (None, Some(id)) => plain(&format!(", and `--after {id}` goes on")),
            (_, None) => String::new(),
        }
    }
}

fn text(arguments: &Arguments, copied: &Copied, go_on: &str) -> String {
    let Arguments { from, to, .. } = arguments;
    let Copied { copied: read, bytes, created, updated, unchanged, accepted, gone, rejected, rejections, complete } =
        copied;
    let size = bytesize::ByteSize(*bytes);
    let interrupted = if *complete { String::new() } else { format!("interrupted; what was copied stays{go_on}\n") };
    if arguments.dry_run {
        return format!("{read} evaluations of `{from}` would be merged into `{to}` (about {size})\n{interrupted}");
    }
    let mut text = format!("{read} evaluations of `{from}` merged into `{to}` (about {size}): ");
    text.push_str(&format!("{created} new there, {updated} known in part, {unchanged} known already"));
    for (count, what) in [(accepted, "taken for later"), (gone, "deleted meanwhile"), (rejected, "refused")] {
        if *count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text.push('\n');
    for refused in rejections {
        text.push_str(&plain(&format!("refused `{}` ({}): {}", refused.id, refused.kind, refused.reason)));
        text.push('\n');
    }
    text.push_str(&interrupted);
    text
}

/// The place in the file, if there is one.
fn resumed(file: &Path, from: &str, to: &str) -> anyhow::Result<Resumed> {
    let name = file.display();
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Resumed::new(from, to)),
        Err(error) => return Err(error).with_context(|| format!("cannot read `{name}`")),
    };
    let resumed: Resumed = serde_json::from_slice(&bytes)
        .map_err(|error| UsageError(format!("`{name}` is not the place of a copy ({error}); name another file")))?;
    if (resumed.from.as_str(), resumed.to.as_str()) != (from, to) {
        let Resumed { from, to, .. } = resumed;
        return Err(UsageError(format!("`{name}` is of a copy from `{from}` to `{to}`; name another file")).into());
    }
    Ok(resumed)
}

impl Resumed {
    fn new(from: &str, to: &str) -> Self {
        Self { from: from.to_owned(), to: to.to_owned(), copied: 0, place: Place::default() }
    }
}

/// Writes the file whole or not at all.
fn keep(file: &Path, resumed: &Resumed) -> std::io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let mut out = fs::File::create(&new)?;
    out.write_all(&serde_json::to_vec(resumed)?)?;
    fs::rename(&new, file)
}

fn remove(file: &Path) -> std::io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
