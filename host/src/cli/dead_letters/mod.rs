//! `dead-letters`: looks at events that were given up, and repairs, retries or drops them.

mod bench;
mod edit;
mod jq;
mod table;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::bench::Bench;
use self::jq::Expression;
use super::output::{self, Output};
use super::progress::Progress;
use super::storage::{Access, Storage};
use super::{Global, UsageError};
use crate::config::Loaded;
use crate::event::decode::Limits;
use crate::http;
use crate::letters::Letter;
use crate::letters::desk::{Done, DoneOutcome, Filter, Note, Shown, Tried};
use crate::letters::line::letter_text;
use crate::replay::into::Into as Merging;
use crate::replay::record::Record;
use crate::source::fed::Outcome;

/// So many letters are worked on at once.
const CHUNK: usize = 100;

/// Look at events that were given up; repair, retry or drop them
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker dead-letters list --reason missing_field
  storage-worker dead-letters show 5f0c1a2b3c4d5e6f708192a3
  storage-worker dead-letters edit --reason missing_field '.code //= \"\" | .language = \"python\"' --dry-run
  storage-worker dead-letters retry --reason missing_field
  storage-worker dead-letters drop --channel evaluation:typo

Asks the worker that listens on `admin.listen`; if none does, works on the file of `dead_letters.path`, or on the stream of
`dead_letters.stream`. Every edit, retry and drop leaves a line in the audit beside it.

Exit codes: 0 done, 1 some could not be edited or failed again, 2 wrong usage or configuration";

#[derive(Debug, Subcommand)]
enum Command {
    /// List letters, the newest first
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Show letters as a whole
    Show {
        /// The ids of the letters
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Try letters again: through the running worker, or into a backend
    ///
    /// A letter that is stored is gone; one that fails again is parked, and is tried again only if it was edited or is
    /// named by `--id` or `--state parked`.
    Retry {
        #[command(flatten)]
        which: Which,
        /// Merge into this backend of the configuration, instead of the live tree
        #[arg(long, value_name = "BACKEND")]
        into: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Change the payloads of letters with a jq expression; the originals are kept beside them
    ///
    /// Each letter keeps its event id and time. Try them again with `retry`.
    Edit {
        /// The jq expression, from the payload to the payload
        #[arg(value_name = "EXPRESSION")]
        expression: String,
        /// Give the expression the payload as a text, for one that is no JSON
        #[arg(long)]
        raw_input: bool,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// Drop letters for good; the audit keeps them
    Drop {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args, Debug)]
struct Which {
    /// The letter of this id; may be repeated
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// Those given up for this reason, such as missing_field
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Those of this channel
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Those of this evaluation
    #[arg(long, value_name = "ID")]
    eval_id: Option<String>,
    /// Those given up at this time or later, such as 2025-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Those given up before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Those in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = ["dead", "edited", "parked"])]
    states: Vec<String>,
    /// At most so many, the newest [default: 100 for list, else all]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

#[derive(Args, Clone, Copy, Debug)]
struct How {
    /// Mean all letters
    #[arg(long)]
    all: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Which {
    fn filter(&self) -> Result<Filter, UsageError> {
        let time = |name: &str, text: &Option<String>| {
            let time = text.as_deref().map(http::parse_time).transpose();
            time.map_err(|error| UsageError(error.replacen("`since`", &format!("`{name}`"), 1)))
        };
        let state = |state: &String| match state.as_str() {
            "parked" => Shown::Parked,
            "edited" => Shown::Edited,
            _ => Shown::Dead,
        };
        Ok(Filter {
            ids: self.ids.clone(),
            reason: self.reason.clone(),
            channel: self.channel.clone(),
            evaluation_id: self.eval_id.clone(),
            since: time("--since", &self.since)?,
            until: time("--until", &self.until)?,
            states: self.states.iter().map(state).collect(),
        })
    }

    /// The filter of a command that changes something; it must say which letters, or that it means all.
    fn filter_of_change(&self, how: How) -> Result<Filter, UsageError> {
        let filter = self.filter()?;
        if filter == Filter::default() && self.limit.is_none() && !how.all {
            return Err(UsageError("say which letters, see --help, or that you mean `--all`".to_owned()));
        }
        Ok(filter)
    }

    fn limit(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let loaded = global.load()?;
    let bench = Bench::of(&loaded)?;
    let format = global.output;
    match &arguments.command {
        Command::List { which } => {
            let limit = which.limit.map_or(100, |_| which.limit());
            let selected = bench.select(&which.filter()?, limit, true)?;
            match format {
                Output::Json => output::print_json(&serde_json::to_value(&selected)?)?,
                Output::Text => output::print(&table::of(&selected))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { ids } => show(&bench, ids, format),
        Command::Retry { which, into, how } => {
            let mut filter = which.filter_of_change(*how)?;
            if filter.ids.is_empty() && filter.states.is_empty() {
                let parked = Filter { states: vec![Shown::Parked], ..filter.clone() };
                tell_of_parked(bench.ids(&parked, usize::MAX)?.len());
                filter.states = vec![Shown::Dead, Shown::Edited];
            }
            let ids = bench.ids(&filter, which.limit())?;
            if how.dry_run {
                return would(format, "retry", &ids);
            }
            let done = match into {
                Some(name) => retry_into(&bench, &loaded, &ids, name)?,
                None => in_chunks("tried", &ids, |ids| bench.retry(ids, &note(None)))?,
            };
            answer(format, &done)
        }
        Command::Edit { expression, raw_input, which, how } => {
            let filter = which.filter_of_change(*how)?;
            let expression = Expression::new(expression, *raw_input).map_err(UsageError)?;
            let ids = bench.ids(&filter, which.limit())?;
            edit::run(&bench, &expression, &ids, format, how.dry_run)
        }
        Command::Drop { which, how } => {
            let ids = bench.ids(&which.filter_of_change(*how)?, which.limit())?;
            if how.dry_run {
                return would(format, "drop", &ids);
            }
            answer(format, &in_chunks("dropped", &ids, |ids| bench.drop_letters(ids, &note(None)))?)
        }
    }
}

fn note(detail: Option<&str>) -> Note {
    let by = std::env::var("USER").unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    Note { by, detail: detail.map(str::to_owned) }
}

fn show(bench: &Bench, ids: &[String], format: Output) -> anyhow::Result<ExitCode> {
    let (mut letters, mut left) = (Vec::with_capacity(ids.len()), ids);
    while !left.is_empty() {
        let some;
        (some, left) = bench.some_letters(left)?;
        let value = |letter: &Letter| serde_json::from_str::<Value>(&letter_text(letter));
        letters.extend(some.iter().map(value).collect::<Result<Vec<_>, _>>()?);
    }
    match format {
        Output::Json => output::print_json(&json!({ "letters": letters }))?,
        Output::Text => output::print(&letters.iter().map(table::whole).collect::<Vec<_>>().join("\n"))?,
    }
    let is_missing = |id: &&String| !letters.iter().any(|letter| letter["id"] == id.as_str());
    let missing: Vec<&str> = ids.iter().filter(is_missing).map(String::as_str).collect();
    if !missing.is_empty() {
        anyhow::bail!("there is no dead letter `{}`", missing.join("`, `"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is left alone might be what somebody looks for.
fn tell_of_parked(letters: usize) {
    if letters > 0 {
        output::print_note(&format!(
            "{} left alone, as it failed again before; edit what is parked, or name it with `--state parked`",
            counted(letters)
        ));
    }
}

fn would(format: Output, what: &str, ids: &[String]) -> anyhow::Result<ExitCode> {
    match format {
        Output::Json => output::print_json(&json!({ "dry_run": true, "would": what, "ids": ids }))?,
        Output::Text => {
            let list: String = ids.iter().map(|id| format!("  {id}\n")).collect();
            output::print(&format!("would {what} {}\n{list}", counted(ids.len())))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn counted(letters: usize) -> String {
    format!("{letters} {}", if letters == 1 { "letter" } else { "letters" })
}

/// Works on some letters at a time, and shows how far it is.
fn in_chunks(
    what: &'static str,
    ids: &[String],
    work: impl Fn(&[String]) -> anyhow::Result<Vec<Done>>,
) -> anyhow::Result<Vec<Done>> {
    let progress = Progress::start(what, Some(ids.len() as u64), 0);
    let mut done = Vec::with_capacity(ids.len());
    for ids in ids.chunks(CHUNK) {
        done.extend(work(ids).inspect_err(|_| progress.end()).with_context(|| stopped(what, done.len()))?);
        progress.at(done.len() as u64);
    }
    progress.end();
    Ok(done)
}

/// What an operator must know of work that was not done to the end.
fn stopped(what: &str, letters: usize) -> String {
    format!("stopped after {} {} {what}", counted(letters), if letters == 1 { "was" } else { "were" })
}

/// Merges letters into a backend from here, and notes how each fared.
fn retry_into(bench: &Bench, loaded: &Loaded, ids: &[String], name: &str) -> anyhow::Result<Vec<Done>> {
    let storage = Storage::named(loaded, &[name], Access::Write)?;
    let config = &loaded.config;
    let limits = Limits { max_payload_bytes: config.worker.max_payload_bytes };
    let merging = Merging::new(&config.events, limits, &*storage.first().backend, config.storage.call_timeout);
    in_chunks("tried", ids, |ids| {
        let (mut done, mut left) = (Vec::new(), ids);
        while !left.is_empty() {
            let letters;
            (letters, left) = bench.some_letters(left)?;
            let record = |letter: &Letter| Record {
                channel: letter.channel.clone(),
                payload: letter.current_payload().to_vec(),
                event_id: letter.event_id.clone(),
                time: Some(letter.time),
            };
            let records: Vec<Record> = letters.iter().map(record).collect();
            let fared = merging.merge(&records, 0)?.into_iter().map(|refused| match refused {
                None => Outcome::Stored,
                Some(refused) => Outcome::Refused { reason: refused.reason, error: refused.error },
            });
            let tried: Vec<_> =
                letters.iter().zip(fared).map(|(letter, outcome)| Tried::new(letter, outcome)).collect();
            done.extend(bench.settle(&tried, &note(Some(name)))?);
        }
        Ok(done)
    })
}

/// Says what became of letters; 1 if any failed again.
fn answer(format: Output, done: &[Done]) -> anyhow::Result<ExitCode> {
    let count = |outcome| done.iter().filter(|done| done.outcome == outcome).count();
    let parked = count(DoneOutcome::Parked);
    match format {
        Output::Json => output::print_json(&json!({ "letters": done }))?,
        Output::Text => {
            let outcomes = [
                (DoneOutcome::Stored, "stored"),
                (DoneOutcome::Dropped, "dropped"),
                (DoneOutcome::Parked, "failed again and parked"),
                (DoneOutcome::Changed, "edited meanwhile and left"),
                (DoneOutcome::Gone, "gone meanwhile"),
            ];
            let said: Vec<String> = (outcomes.iter())
                .filter(|(outcome, _)| count(*outcome) > 0)
                .map(|(outcome, word)| format!("{} {word}", count(*outcome)))
                .collect();
            let mut text = if said.is_empty() { "no letters\n".to_owned() } else { said.join(", ") + "\n" };
            for Done { id, error, .. } in done.iter().filter(|done| done.outcome == DoneOutcome::Parked) {
                text.push_str(&format!("  {id}  {}\n", output::plain(error.as_deref().unwrap_or_default())));
            }
            output::print(&text)?;
        }
    }
    Ok(ExitCode::from(u8::from(parked > 0)))
}
