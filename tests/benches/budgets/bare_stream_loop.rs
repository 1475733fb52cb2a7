//! The bare loop on a stream: read as a member of a group, parse the JSON, publish one confirmation each, acknowledge.
//!
//! As `bare_loop.rs` in all else. It reads as many entries at once as the worker does.

use std::error::Error;

use redis::Client;
use serde_json::Value;
use storage_worker::source::config::StreamsConfig;

use crate::traffic::{CHANNELS, STREAM};

const GROUP: &str = "bare";

/// An entry: its id, and its fields.
type Entry = (String, [(String, Vec<u8>); 2]);

/// Runs until it is killed.
pub(crate) fn run(url: &str) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(url))
}

async fn serve(url: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::open(url)?;
    let mut reader = client.get_multiplexed_async_connection().await?;
    let mut publisher = client.get_multiplexed_async_connection().await?;
    redis::cmd("XGROUP").arg(&["CREATE", STREAM, GROUP, "0", "MKSTREAM"]).exec_async(&mut reader).await?;
    let mut read = redis::cmd("XREADGROUP");
    read.arg(&["GROUP", GROUP, "one", "COUNT"]).arg(StreamsConfig::default().count);
    read.arg(&["BLOCK", "200", "STREAMS", STREAM, ">"]);
    loop {
        let answer: Option<Vec<(String, Vec<Entry>)>> = read.query_async(&mut reader).await?;
        let Some((_, entries)) = answer.and_then(|mut streams| streams.pop()) else { continue };
        let mut pipeline = redis::pipe();
        for (_, [(_, channel), (_, payload)]) in &entries {
            let event: Value = serde_json::from_slice(payload)?;
            let id = event["eval_id"].as_str().ok_or("an event without an id")?;
            let created = channel == CHANNELS[0].as_bytes();
            let channel = if created { "storage:evaluation:created" } else { "storage:evaluation:updated" };
            let confirmation = format!("{{\"eval_id\":\"{id}\",\"result\":\"stored\"}}");
            pipeline.cmd("PUBLISH").arg(channel).arg(confirmation).ignore();
        }
        let ids: Vec<&String> = entries.iter().map(|(id, _)| id).collect();
        pipeline.cmd("XACK").arg(STREAM).arg(GROUP).arg(&ids).ignore();
        pipeline.query_async::<()>(&mut publisher).await?;
    }
}
