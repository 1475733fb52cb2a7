//! Redis Streams: every entry is stored, whatever dies, and Redis is told only then.

mod bridge;
mod cluster;
mod drain;
mod flow;
mod group;
mod refused;
mod secure;
mod sentinel;
mod trouble;

use std::collections::BTreeMap;

use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Expected, Sent, expected};
use storage_worker_tests::streams::Stream;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

pub(crate) const STREAM: &str = "evaluation:events";
pub(crate) const GROUP: &str = "storage-worker";

/// A worker's configuration that reads the stream under a name, and nothing else.
pub(crate) fn setup(redis: &RedisServer, plugin: &str, name: &str) -> Setup {
    Setup::new(&redis.url(), plugin)
        .set("source.pubsub.enabled", false)
        .set("source.streams.streams", vec![STREAM])
        .set("source.streams.block", "100ms")
        .set("source.streams.claim_after", "2s")
        .set("redis.reconnect_max", "500ms")
        .set("worker.name", name)
}

/// Waits until every entry is read, stored, confirmed and acknowledged.
#[track_caller]
fn wait_until_settled(stream: &mut Stream) {
    stream.wait_until_settled(GROUP, SOON);
}

/// Everything stored is what the second model makes of these events.
#[track_caller]
pub(crate) fn assert_all_stored(worker: &Worker, events: &[Sent]) {
    let model: BTreeMap<String, Expected> = expected(events, 0);
    assert!(!model.is_empty());
    for (id, expected) in model {
        assert_eq!(worker.record(&id), Some(expected.record), "record of {id}");
        assert_eq!(worker.history(&id), expected.history, "history of {id}");
    }
}
