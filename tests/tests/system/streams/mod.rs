//! Redis Streams: every entry is stored, whatever dies, and Redis is told only then.

mod bridge;
mod flow;
mod group;
mod kills;
mod trouble;

use std::collections::BTreeMap;

use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Expected, Sent, expected};
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

pub(crate) const STREAM: &str = "evaluation:events";
const GROUP: &str = "storage-worker";

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
    eventually(SOON, "every entry to be read and acknowledged", || is_settled(stream));
}

/// Every entry is read, stored, confirmed and acknowledged.
pub(crate) fn is_settled(stream: &mut Stream) -> bool {
    let position = group_value(stream, "last-delivered-id");
    let last: Vec<(String, redis::Value)> =
        redis::from_redis_value(stream.command("XREVRANGE", &["+", "-", "COUNT", "1"])).expect("entries");
    stream.pending(GROUP) == 0 && last.first().is_none_or(|(id, _)| *id == position)
}

fn group_value(stream: &mut Stream, key: &str) -> String {
    let groups: Vec<BTreeMap<String, redis::Value>> =
        redis::from_redis_value(stream.command("XINFO GROUPS", &[])).expect("a list of groups");
    let text = |value: &redis::Value| redis::from_redis_value::<String>(value.clone()).unwrap_or_default();
    let group = groups.iter().find(|group| text(&group["name"]) == GROUP);
    group.map(|group| text(&group[key])).unwrap_or_default()
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
