//! `bridge`: copies what is published on channels into a stream.

use std::process::ExitCode;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use tracing::{info, warn};

use super::{Global, UsageError};
use crate::app::Signals;
use crate::bridge::{self, Copied, Plan};
use crate::config::Config;
use crate::source::redis_client::RedisClient;
use crate::source::streams::EntryForm;

/// Copy what is published on channels into a Redis stream, until told to end
///
/// For producers that publish: their events are kept in the stream, with their ids and the time of their arrival, until a
/// worker that reads the stream (`[source.streams]`) has stored them. Run two bridges side by side, so that one covers for
/// the other; an event that both have copied is stored once.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// A channel; may be repeated [default: the channels of the event rows]
    #[arg(long = "channel", value_name = "CHANNEL")]
    channels: Vec<String>,

    /// The key of the stream [default: that of `source.streams.streams`]
    #[arg(long, value_name = "KEY")]
    stream: Option<String>,

    /// Keep about so many entries in the stream and drop the oldest, stored or not [default: keep all]
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u64).range(1..))]
    max_entries: Option<u64>,

    /// How much may wait while Redis takes nothing; beyond it events are dropped and counted
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    buffer: ByteSize,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker bridge --stream evaluation:events
  storage-worker bridge --channel evaluation:completed --stream outcomes --max-entries 1000000

SIGTERM or SIGINT: add what was received, within `worker.drain_timeout`, then end; a second one: end at once.

Exit codes: 0 told to end and all was added, 1 something was received and not added, 2 wrong usage or configuration";

/// Threads of the asynchronous part, beside the one that reads.
const ASYNC_THREADS: usize = 1;

/// Copies until told to end.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load()?.config;
    let plan = plan(arguments, &config)?;
    let client = RedisClient::new(&config.redis).map_err(|error| UsageError(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(ASYNC_THREADS).enable_all().build()?;
    let copied = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        info!(redis = client.address(), channels = plan.channels.len(), stream = plan.stream, "bridge.started");
        let (told, ended) = tokio::sync::oneshot::channel();
        let mut copying = tokio::spawn(bridge::run(plan, client, async { ended.await.unwrap_or_default() }));
        let copied = tokio::select! {
            copied = &mut copying => copied,
            signal = signals.end() => {
                info!(signal, "bridge.stopping");
                // One that has ended meanwhile is not to be told.
                let _ = told.send(());
                tokio::select! {
                    copied = copying => copied,
                    signal = signals.end() => anyhow::bail!("told to end a second time ({signal}), ended at once"),
                }
            }
        };
        copied.context("the bridge has panicked")?.context("cannot read the channels")
    });
    runtime.shutdown_background();
    let copied = copied?;
    let Copied { left, dropped, .. } = copied;
    if left > 0 {
        warn!(left, "ended before everything was added; raise `worker.drain_timeout`");
    }
    if dropped > 0 {
        warn!(dropped, "not everything that was received is in the stream; raise `--buffer`");
    }
    Ok(ExitCode::from(u8::from(left > 0 || dropped > 0)))
}

fn plan(arguments: &Arguments, config: &Config) -> Result<Plan, UsageError> {
    let stream = match (&arguments.stream, &*config.source.streams.streams) {
        (Some(key), _) => key.clone(),
        (None, [key]) => key.clone(),
        (None, []) => {
            return Err(UsageError(
                "there is no stream to copy to; name one with `--stream`, or in `source.streams.streams`".to_owned(),
            ));
        }
        (None, _) => {
            let message = "`source.streams.streams` names several streams; name one of them with `--stream`";
            return Err(UsageError(message.to_owned()));
        }
    };
    let channels = match &*arguments.channels {
        [] => config.events.channels().map(str::to_owned).collect(),
        channels => channels.to_vec(),
    };
    if channels.is_empty() {
        return Err(UsageError(
            "there are no channels; name one with `--channel`, or add a row in `[events]`".to_owned(),
        ));
    }
    Ok(Plan {
        channels,
        rows: config.events.clone(),
        stream,
        form: EntryForm::new(&config.source.streams),
        max_entries: arguments.max_entries,
        buffer_bytes: usize::try_from(arguments.buffer.as_u64()).unwrap_or(usize::MAX),
        drain_timeout: config.worker.drain_timeout,
    })
}
