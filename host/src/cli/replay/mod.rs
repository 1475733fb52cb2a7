//! `replay`: takes events once more, through the worker that runs or into a backend.

mod input;
mod progress;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use self::input::{BATCH_BYTES, Found, Input, Place};
use self::progress::Progress;
use super::output::{self, Output};
use super::storage::{Access, Storage};
use super::{Global, UsageError};
use crate::config::Config;
use crate::event::decode::Limits;
use crate::http;
use crate::http::client::{Client, ClientError};
use crate::http::handing::Replayed;
use crate::journal::archive::read_archive;
use crate::replay::into::Into as Merging;
use crate::replay::record::Record;
use crate::source::fed::Outcome;
use crate::source::redis_client::RedisClient;
use crate::source::streams::Range;

/// Most events handed over at once.
const BATCH: usize = 256;
/// The time of events that tell none, before the year in which times begin.
const NO_TIME: i64 = -1;
/// What a worker answers while storage takes nothing.
const UNAVAILABLE: u16 = 503;
/// What is said of a replay that ends before its input does.
const STOPPED: &str = "the replay has stopped; it may be run again";
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// So often in a row a worker may hang up on the same events before the replay ends.
const MOST_CUT: u32 = 3;

/// Take events once more: through the running worker, or into a backend
///
/// What is stored already stays as it is, so a replay may overlap, and may be repeated. Live events go on meanwhile; each
/// replayed event is confirmed like any other. What is no event becomes a dead letter, or is reported with `--into`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// File of one JSON object a line: {"channel", "payload" or "payload_base64", "event_id", "time"}; `-` for standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["stream", "journal"], conflicts_with_all = ["stream", "journal"])]
    file: Option<PathBuf>,

    /// Replay this Redis stream
    #[arg(long, value_name = "KEY")]
    stream: Option<String>,

    /// Replay what arrived by pub/sub, from the directory of a journal: its archive, and what it still holds
    #[arg(long, value_name = "DIR", conflicts_with = "stream")]
    journal: Option<PathBuf>,

    /// From this time on; of a stream, or from this entry id on
    #[arg(long, value_name = "ID|TIME", conflicts_with = "file", allow_hyphen_values = true)]
    from: Option<String>,

    /// Up to this time, included; of a stream, or up to this entry id
    #[arg(long, value_name = "ID|TIME", conflicts_with = "file")]
    to: Option<String>,

    /// Merge into this backend of the configuration, instead of the live tree
    #[arg(long, value_name = "BACKEND")]
    into: Option<String>,

    /// The time of events that tell none
    #[arg(long, value_name = "TIME")]
    at: Option<String>,

    /// At most so many events a second
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,

    /// Keep the position in this file, and go on from there if it exists
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker replay --stream evaluation:events --from 2025-01-31T00:00:00Z
  storage-worker replay --stream evaluation:events --into fresh --resume replay.position
  storage-worker replay --journal journal --from 2025-01-31T00:00:00Z --into fresh
  storage-worker replay events.jsonl --rate 500
  zcat events.jsonl.gz | storage-worker replay - --at 2025-01-31T12:00:00Z

Exit codes: 0 done, 1 some lines were no events or storage failed, 2 wrong usage or configuration";

/// Replays, and answers with how many.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let loaded = global.load()?;
    let config = &loaded.config;
    let at = time("--at", arguments.at.as_deref())?;
    let limits = Limits { max_payload_bytes: config.worker.max_payload_bytes };
    let name = name(arguments, config)?;
    let storage = arguments.into.as_ref().map(|name| Storage::named(&loaded, &[name], Access::Write)).transpose()?;
    let target = match &storage {
        Some(storage) => {
            let backend = &*storage.first().backend;
            Target::Backend(Merging::new(&config.events, limits, backend, config.storage.call_timeout))
        }
        None => Target::Worker(worker(config)?),
    };
    let mut progress = Progress::load(arguments.resume.as_deref(), &name)?;
    let mut input = open(arguments, config)?;
    if let Some(next) = progress.next() {
        input.skip_to(next)?;
    }
    if at.is_none() {
        refuse_without_time(&mut input, config, &limits, progress.next())?;
    }
    let rate = arguments.rate.and_then(|rate| usize::try_from(rate).ok());
    let count = rate.map_or(BATCH, |rate| (rate / 10).clamp(1, BATCH));
    let mut due = Instant::now();
    loop {
        let found = input.read(count)?;
        let Some((Place { next, .. }, _)) = found.last() else { break };
        let next = next.clone();
        let handed = found.len();
        for (place, outcome) in target.take(found, at)? {
            progress.count(&place, outcome);
        }
        progress.save(next)?;
        if let Some(rate) = arguments.rate {
            // What an outage kept back is not made up for.
            #[expect(clippy::cast_precision_loss, reason = "the pause is as long to a microsecond")]
            let takes = Duration::from_secs_f64(handed as f64 / f64::from(rate));
            due = due.max(Instant::now() - takes) + takes;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    progress.end();
    answer(global.output, &progress, storage.is_some())
}

fn answer(format: Output, progress: &Progress, is_into: bool) -> anyhow::Result<ExitCode> {
    let (stored, refused, unreadable) = progress.counts();
    match format {
        Output::Json => output::print_json(&json!({
            "stored": stored, "refused": refused, "unreadable": unreadable, "dead_letters": if is_into { 0 } else { refused },
        }))?,
        Output::Text => {
            let mut text = format!("{stored} stored");
            if refused > 0 {
                text.push_str(&format!(", {refused} {}", if is_into { "refused" } else { "became dead letters" }));
            }
            if unreadable > 0 {
                text.push_str(&format!(", {unreadable} unreadable"));
            }
            output::print(&text)?;
        }
    }
    Ok(ExitCode::from(u8::from(unreadable > 0 || is_into && refused > 0)))
}

/// What became of one thing that was read.
#[derive(Debug, PartialEq, Eq)]
enum Fared {
    Stored,
    Refused(String),
    Unreadable(String),
}

/// Where events go.
enum Target<'a> {
    Worker(Client),
    Backend(Merging<'a>),
}

impl Target<'_> {
    fn take(&self, found: Vec<Found>, at: Option<i64>) -> anyhow::Result<Vec<(Place, Fared)>> {
        let mut fared = Vec::with_capacity(found.len());
        let (mut records, mut places) = (Vec::new(), Vec::new());
        for (place, record) in found {
            match record {
                Ok(record) => {
                    records.push(Record { time: record.time.or(at), ..record });
                    places.push(place);
                }
                Err(reason) => fared.push((place, Fared::Unreadable(reason))),
            }
        }
        let mut refused = Vec::with_capacity(records.len());
        while refused.len() < records.len() {
            refused.extend(self.take_some(first_batch(&records[refused.len()..]))?);
        }
        let of = |refused: Option<String>| refused.map_or(Fared::Stored, Fared::Refused);
        fared.extend(places.into_iter().zip(refused.into_iter().map(of)));
        Ok(fared)
    }

    /// Why each was refused, if it was.
    fn take_some(&self, records: &[Record]) -> anyhow::Result<Vec<Option<String>>> {
        match self {
            Self::Backend(merging) => {
                let merged = merging.merge(records, NO_TIME).context(STOPPED)?;
                Ok(merged.into_iter().map(|refused| Some(refused?.error)).collect())
            }
            Self::Worker(client) => {
                let mut refused: Vec<Option<String>> = vec![None; records.len()];
                for (index, outcome) in hand_over(client, records)?.refused {
                    if let (Outcome::Refused { error, .. }, Some(place)) = (outcome, refused.get_mut(index)) {
                        *place = Some(error);
                    }
                }
                Ok(refused)
            }
        }
    }
}

/// As many of these as go in one call or one request: one at least.
fn first_batch(records: &[Record]) -> &[Record] {
    let mut bytes = 0;
    let fits = |record: &&Record| {
        bytes += record.payload.len();
        bytes <= BATCH_BYTES
    };
    &records[..records.iter().take_while(fits).count().max(1)]
}

/// Hands events to the worker until they are settled; the same ones again do no harm.
fn hand_over(client: &Client, records: &[Record]) -> anyhow::Result<Replayed> {
    let body = records.iter().map(Record::to_line).collect::<Vec<_>>().join("\n");
    let mut cut = 0;
    loop {
        match client.ask("/replay", body.as_bytes()) {
            Ok(replayed) => return Ok(replayed),
            Err(ClientError::Refused { status: UNAVAILABLE, detail, .. }) => {
                cut = 0;
                tracing::warn!(reason = detail, "the worker did not store events yet, will try again");
                std::thread::sleep(PAUSE);
            }
            Err(error @ ClientError::Failed { .. }) if cut < MOST_CUT => {
                cut += 1;
                tracing::warn!(%error, "the worker did not answer, will try again");
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(anyhow::Error::new(error).context(STOPPED)),
        }
    }
}

fn worker(config: &Config) -> anyhow::Result<Client> {
    let client = Client::new(config.admin.listen);
    client.get("/livez").context("no worker runs to replay through; start it, or name a backend with `--into`")?;
    Ok(client)
}

/// What is replayed and where to: a position is good for that and nothing else.
fn name(arguments: &Arguments, config: &Config) -> anyhow::Result<String> {
    let canonical = |path: &Path| path.canonicalize().with_context(|| format!("cannot open `{}`", path.display()));
    let range = || {
        let [from, to] = [&arguments.from, &arguments.to].map(Option::as_deref);
        format!("from {} to {}", from.unwrap_or("-"), to.unwrap_or("+"))
    };
    let input = match (&arguments.stream, &arguments.journal, &arguments.file) {
        (Some(key), _, _) => format!("stream {key} at {} {}", redis_client(config)?.address(), range()),
        (None, Some(path), _) => format!("journal {} {}", canonical(path)?.display(), range()),
        (None, None, Some(path)) if path.as_os_str() != "-" => format!("file {}", canonical(path)?.display()),
        (None, None, _) if arguments.resume.is_some() => {
            bail!(UsageError(
                "standard input has no position to go on from; replay a file, or leave out `--resume`".to_owned()
            ))
        }
        (None, None, _) => "standard input".to_owned(),
    };
    Ok(match &arguments.into {
        Some(backend) => format!("{input} into backend {backend}"),
        None => format!("{input} through the worker at {}", config.admin.listen),
    })
}

fn redis_client(config: &Config) -> Result<RedisClient, UsageError> {
    RedisClient::new(&config.redis).map_err(|error| UsageError(error.to_string()))
}

fn open(arguments: &Arguments, config: &Config) -> anyhow::Result<Input> {
    match (&arguments.stream, &arguments.journal, &arguments.file) {
        (Some(key), _, _) => {
            let client = redis_client(config)?;
            let from = stream_end("--from", arguments.from.as_deref().unwrap_or("-"))?;
            let to = stream_end("--to", arguments.to.as_deref().unwrap_or("+"))?;
            let mut connection = client.blocking_connection(Some(key))?;
            // Of what is not there Redis gives nothing, and a name that was mistyped would pass for an empty stream.
            match redis::cmd("EXISTS").arg(key).query::<bool>(&mut connection) {
                Ok(false) => bail!("there is no stream `{key}` in redis at `{}`", client.address()),
                // Who may not ask may read all the same.
                Err(error) if error.code() != Some("NOPERM") => return Err(error).context("cannot read the stream"),
                Ok(true) | Err(_) => {}
            }
            Ok(Input::stream(Range::new(connection, key, &from, &to, &config.source.streams)))
        }
        (None, Some(path), _) => {
            let from = time("--from", arguments.from.as_deref())?.unwrap_or(i64::MIN);
            let to = time("--to", arguments.to.as_deref())?.unwrap_or(i64::MAX);
            Ok(Input::Journal(Box::new(read_archive(path, from..=to)?)))
        }
        (None, None, Some(path)) if path.as_os_str() != "-" => Input::file(path),
        (None, None, _) => Input::standard(),
    }
}

/// An end of a range of times.
fn time(name: &str, text: Option<&str>) -> Result<Option<i64>, UsageError> {
    let parsed = text.map(http::parse_time).transpose();
    parsed.map_err(|error| UsageError(error.replacen("`since`", &format!("`{name}`"), 1)))
}

/// An end of a range as XRANGE takes it: an id as it is, of a time its milliseconds.
fn stream_end(name: &str, text: &str) -> Result<String, UsageError> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = text.split_once('-').map_or(is_number(text), |(time, count)| is_number(time) && is_number(count));
    if text == "-" || text == "+" || is_id {
        return Ok(text.to_owned());
    }
    match http::parse_time(text) {
        Ok(time) if time >= 0 => Ok((time / 1000).to_string()),
        _ => Err(UsageError(format!(
            "`{name}` cannot be `{text}`; give the id of an entry, or a time such as 2025-01-31T12:00:00Z"
        ))),
    }
}

/// Looks at everything before anything is stored: an event without any time needs `--at`.
fn refuse_without_time(input: &mut Input, config: &Config, limits: &Limits, next: Option<&str>) -> anyhow::Result<()> {
    if let Input::Stream { .. } | Input::Journal(_) = input {
        return Ok(());
    }
    let (mut count, mut first) = (0_u64, None);
    loop {
        let found = input.read(BATCH)?;
        if found.is_empty() {
            break;
        }
        for (place, record) in found {
            let Ok(record) = record else { continue };
            if Merging::decode(&config.events, limits, &record, NO_TIME).is_ok_and(|event| event.time == NO_TIME) {
                count += 1;
                first.get_or_insert(place.name);
            }
        }
    }
    if let Some(first) = first {
        let message = format!(
            "{count} events tell no time, the first in {first}; give them one with `--at`, such as `--at 2025-01-31T12:00:00Z`. Nothing was stored"
        );
        bail!(UsageError(message));
    }
    input.skip_to(next.unwrap_or("0:0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_a_stream_is_an_id_or_a_time() {
        for (text, expected) in [
            ("-", Some("-")),
            ("+", Some("+")),
            ("1700000000000", Some("1700000000000")),
            ("1700000000000-3", Some("1700000000000-3")),
            ("2025-01-31", Some("1738281600000")),
            ("2025-01-31T12:00:00Z", Some("1738324800000")),
            ("1-2-3-4", None),
            ("", None),
        ] {
            assert_eq!(stream_end("--from", text).ok().as_deref(), expected, "{text}");
        }
    }
}
