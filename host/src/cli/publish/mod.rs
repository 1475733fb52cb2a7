//! `publish`: publishes a payload, or made-up evaluations, as a producer would.

mod generate;

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::json;

use self::generate::Generator;
use super::output::{self, Output};
use super::{Global, UsageError};
use crate::source::config::RedisConfig;
use crate::source::redis_client::RedisClient;
use crate::source::streams::EntryForm;

/// Most messages sent before their answers are read.
const PIPELINE: usize = 256;

/// Publish an event, or the events of made-up evaluations, to Redis; or add them to a stream
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The channel
    #[arg(required_unless_present = "generate", conflicts_with = "generate")]
    channel: Option<String>,

    /// The payload, or `-` to read it from standard input
    #[arg(value_name = "JSON", required_unless_present = "generate", conflicts_with = "generate")]
    payload: Option<String>,

    /// Publish the whole lives of made-up evaluations, each of four events
    #[arg(long)]
    generate: bool,

    /// How often the payload is published, or how many evaluations are made up
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    count: u64,

    /// Make up the same evaluations again
    #[arg(long, value_name = "NUMBER", requires = "generate")]
    seed: Option<u64>,

    /// Add to this Redis stream instead, as JSON in one field
    #[arg(long, value_name = "KEY")]
    stream: Option<String>,

    /// Publish the payload as it is, even if it is no JSON
    #[arg(long, conflicts_with = "generate")]
    raw: bool,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker publish evaluation:queued '{\"eval_id\": \"demo-1\", \"code\": \"print(1)\"}'
  storage-worker publish evaluation:completed - < completed.json
  storage-worker publish --generate --count 100
  storage-worker publish --stream evaluation:events evaluation:failed '{\"eval_id\": \"demo-1\", \"error\": \"boom\"}'
  echo not json | storage-worker publish --raw evaluation:queued -

Exit codes: 0 published, 1 Redis did not take it, 2 wrong usage or configuration";

/// Publishes, and answers with how many there were to hear it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load()?.config;
    let redis = config.redis;
    let stream = arguments.stream.clone().map(|key| (key, EntryForm::new(&config.source.streams)));
    let published = match (&arguments.channel, &arguments.payload) {
        (Some(channel), Some(payload)) => {
            let payload = payload_bytes(payload, arguments.raw)?;
            let mut publisher = Publisher::connect(&redis, stream)?;
            for _ in 0..arguments.count {
                publisher.publish(channel, &payload)?;
            }
            publisher.finish()?
        }
        _ => {
            let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
            let mut generator = Generator::new(seed, Timestamp::now());
            let mut publisher = Publisher::connect(&redis, stream)?;
            for _ in 0..arguments.count {
                for event in generator.lifecycle() {
                    publisher.publish(event.channel, event.payload.as_bytes())?;
                }
            }
            publisher.finish()?
        }
    };
    match &arguments.stream {
        Some(key) => answer_added(global.output, &published, key)?,
        None => answer(global.output, &published)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn answer_added(format: Output, published: &Published, key: &str) -> std::io::Result<()> {
    match format {
        Output::Json => output::print_json(&json!({ "events": published.events, "stream": key })),
        Output::Text => output::print(&format!("added {} to the stream `{key}`", counted(published.events, "event"))),
    }
}

fn answer(format: Output, published: &Published) -> anyhow::Result<()> {
    let Published { events, reached, subscribers, is_cluster } = *published;
    match format {
        Output::Json => {
            output::print_json(&json!({ "events": events, "reached": reached, "subscribers": subscribers }))?
        }
        Output::Text if events == 1 => output::print(&format!("published to {}", counted(subscribers, "subscriber")))?,
        Output::Text => {
            output::print(&format!("published {}, {reached} of them to a subscriber", counted(events, "event")))?;
        }
    }
    if reached < events && !is_cluster && format == Output::Text {
        output::print_note("Redis forgets what nobody is subscribed to; is a worker running on this Redis?");
    }
    Ok(())
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn payload_bytes(payload: &str, raw: bool) -> anyhow::Result<Vec<u8>> {
    let bytes = if payload == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read the payload from standard input")?;
        bytes
    } else {
        payload.as_bytes().to_vec()
    };
    if !raw && let Err(error) = serde_json::from_slice::<IgnoredAny>(&bytes) {
        let message = format!("the payload is no JSON: {error}; correct it, or publish it as it is with `--raw`");
        return Err(UsageError(message).into());
    }
    Ok(bytes)
}

/// What became of the messages.
#[derive(Debug, Default)]
struct Published {
    events: u64,
    /// Those that at least one subscriber got.
    reached: u64,
    /// The most subscribers that got one.
    subscribers: u64,
    /// Redis counts those of one node alone.
    is_cluster: bool,
}

/// Publishes in pipelines.
struct Publisher {
    stream: Option<(String, EntryForm)>,
    connection: redis::Connection,
    pipeline: redis::Pipeline,
    published: Published,
    url: String,
}

impl Publisher {
    fn connect(redis: &RedisConfig, stream: Option<(String, EntryForm)>) -> anyhow::Result<Self> {
        let url = redis.url.to_string();
        let client = RedisClient::new(redis).map_err(|error| UsageError(error.to_string()))?;
        let connection = client
            .blocking_connection(stream.as_ref().map(|(key, _)| &**key))
            .with_context(|| format!("cannot connect to `{url}`; start Redis there, or set `REDIS_URL`"))?;
        let published = Published { is_cluster: client.is_cluster(), ..Published::default() };
        Ok(Self { stream, connection, pipeline: redis::pipe(), published, url })
    }

    fn publish(&mut self, channel: &str, payload: &[u8]) -> anyhow::Result<()> {
        match &self.stream {
            None => self.pipeline.cmd("PUBLISH").arg(channel).arg(payload),
            Some((key, form)) => self.pipeline.add_command(form.add(key, None, channel, payload, None)),
        };
        if self.pipeline.len() >= PIPELINE { self.send() } else { Ok(()) }
    }

    fn finish(mut self) -> anyhow::Result<Published> {
        self.send()?;
        Ok(self.published)
    }

    fn send(&mut self) -> anyhow::Result<()> {
        if self.pipeline.is_empty() {
            return Ok(());
        }
        if let Some((key, _)) = &self.stream {
            let ids: Vec<String> = self
                .pipeline
                .query(&mut self.connection)
                .with_context(|| format!("cannot add to the stream `{key}` of `{}`", self.url))?;
            self.pipeline.clear();
            self.published.events += ids.len() as u64;
            return Ok(());
        }
        let subscribers: Vec<u64> =
            self.pipeline.query(&mut self.connection).with_context(|| format!("cannot publish to `{}`", self.url))?;
        self.pipeline.clear();
        for subscribers in subscribers {
            self.published.events += 1;
            self.published.reached += u64::from(subscribers > 0);
            self.published.subscribers = self.published.subscribers.max(subscribers);
        }
        Ok(())
    }
}
