//! The bare loop that the worker is compared with: subscribe, parse the JSON, store, publish one confirmation each.
//!
//! No validation, no plugins, no merge state; written as one would write it who cares for speed and for nothing else.
//! Runs as a process of its own, so that its CPU and memory are counted like the worker's.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use futures_util::{FutureExt, StreamExt};
use redis::{Client, Pipeline};
use serde_json::Value;

use crate::traffic::CHANNELS;

/// Files that one sync makes durable.
pub(crate) const FILES_A_SYNC: usize = 256;

/// Messages that are confirmed in one round trip.
const MESSAGES_A_ROUND: usize = 512;

/// Runs until it is killed. With a directory, every event is stored as a file.
pub(crate) fn run(url: &str, directory: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(url, directory.map(Path::to_owned)))
}

async fn serve(url: &str, directory: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let client = Client::open(url)?;
    let mut publisher = client.get_multiplexed_async_connection().await?;
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe(&CHANNELS).await?;
    let mut messages = subscription.into_on_message();
    let most = if directory.is_some() { FILES_A_SYNC } else { MESSAGES_A_ROUND };
    while let Some(message) = messages.next().await {
        let mut batch = vec![message];
        while batch.len() < most
            && let Some(Some(message)) = messages.next().now_or_never()
        {
            batch.push(message);
        }
        let events = batch.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if let Some(directory) = &directory {
            tokio::task::block_in_place(|| store(directory, &events))?;
        }
        let mut pipeline = redis::pipe();
        events.iter().for_each(|event| event.confirm(&mut pipeline));
        pipeline.query_async::<()>(&mut publisher).await?;
    }
    Ok(())
}

fn read(message: &redis::Msg) -> Result<Event<'_>, Box<dyn Error>> {
    Event::read(message.get_channel_name().as_bytes(), message.get_payload_bytes())
}

/// An event and what is confirmed of it.
pub(crate) struct Event<'a> {
    created: bool,
    id: String,
    payload: &'a [u8],
}

impl<'a> Event<'a> {
    /// Parses it.
    pub(crate) fn read(channel: &[u8], payload: &'a [u8]) -> Result<Self, Box<dyn Error>> {
        let event: Value = serde_json::from_slice(payload)?;
        let id = event["eval_id"].as_str().ok_or("an event without an id")?.to_owned();
        Ok(Self { created: channel == CHANNELS[0].as_bytes(), id, payload })
    }

    /// Adds its confirmation to what is published.
    pub(crate) fn confirm(&self, pipeline: &mut Pipeline) {
        confirm(pipeline, self.created, &self.id);
    }
}

/// Adds a confirmation to what is published.
pub(crate) fn confirm(pipeline: &mut Pipeline, created: bool, id: &str) {
    let channel = if created { "storage:evaluation:created" } else { "storage:evaluation:updated" };
    let confirmation = format!("{{\"eval_id\":\"{id}\",\"result\":\"stored\"}}");
    pipeline.cmd("PUBLISH").arg(channel).arg(confirmation).ignore();
}

/// Stores each as a file, and makes all durable.
pub(crate) fn store(directory: &Path, events: &[Event<'_>]) -> std::io::Result<()> {
    let temporary = directory.join("temporary");
    for event in events {
        let mut file = File::create(&temporary)?;
        file.write_all(event.payload)?;
        fs::rename(&temporary, directory.join(format!("{}.json", event.id)))?;
    }
    sync(directory)
}

#[cfg(target_os = "linux")]
fn sync(directory: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}

#[cfg(not(target_os = "linux"))]
fn sync(_directory: &Path) -> std::io::Result<()> {
    rustix::fs::sync();
    Ok(())
}
