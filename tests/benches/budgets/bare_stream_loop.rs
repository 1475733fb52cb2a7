//! The bare loop on a stream: read as a member of a group, parse the JSON, store, publish one confirmation each,
//! acknowledge.
//!
//! As `bare_loop.rs` in all else. It reads as many entries at once as the worker does, or as one sync makes durable.

use std::error::Error;
use std::path::{Path, PathBuf};

use redis::Client;
use storage_worker::source::config::StreamsConfig;

use crate::bare_loop::{Event, FILES_A_SYNC, store};
use crate::traffic::STREAM;

const GROUP: &str = "bare";

/// An entry: its id, and its fields.
pub(crate) type Entry = (String, [(Vec<u8>, Vec<u8>); 2]);

/// Runs until it is killed. With a directory, every event is stored as a file.
pub(crate) fn run(url: &str, directory: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(url, directory.map(Path::to_owned)))
}

async fn serve(url: &str, directory: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let client = Client::open(url)?;
    let mut reader = client.get_multiplexed_async_connection().await?;
    let mut publisher = client.get_multiplexed_async_connection().await?;
    redis::cmd("XGROUP").arg(&["CREATE", STREAM, GROUP, "0", "MKSTREAM"]).exec_async(&mut reader).await?;
    let count = if directory.is_some() { FILES_A_SYNC } else { StreamsConfig::default().count };
    let mut read = redis::cmd("XREADGROUP");
    read.arg(&["GROUP", GROUP, "one", "COUNT"]).arg(count);
    read.arg(&["BLOCK", "200", "STREAMS", STREAM, ">"]);
    loop {
        let answer: Option<Vec<(String, Vec<Entry>)>> = read.query_async(&mut reader).await?;
        let Some((_, entries)) = answer.and_then(|mut streams| streams.pop()) else { continue };
        let events = entries.iter().map(event).collect::<Result<Vec<_>, _>>()?;
        if let Some(directory) = &directory {
            tokio::task::block_in_place(|| store(directory, &events))?;
        }
        let mut pipeline = redis::pipe();
        events.iter().for_each(|event| event.confirm(&mut pipeline));
        let ids: Vec<&String> = entries.iter().map(|(id, _)| id).collect();
        pipeline.cmd("XACK").arg(STREAM).arg(GROUP).arg(&ids).ignore();
        pipeline.query_async::<()>(&mut publisher).await?;
    }
}

fn event((_, [(_, channel), (_, payload)]): &Entry) -> Result<Event<'_>, Box<dyn Error>> {
    Event::read(channel, payload)
}
