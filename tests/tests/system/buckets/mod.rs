//! `tiered` over `object-store`: large bodies in buckets of servers that stop, hang, or do not let us in.

mod outages;
mod refused;

use serde_json::{Value, json};
use storage_worker_tests::bucket_servers::{AzureServer, S3Server};
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected};
use storage_worker_tests::worker::{Setup, Worker};

/// Files for the states, and a bucket for large bodies.
fn tiered(redis: &RedisServer, url: &str) -> Setup {
    let setup = Setup::new(&redis.url(), "tiered");
    let data = setup.path("data").to_str().expect("Unicode").to_owned();
    setup
        .set("storage.guarantee", "durable")
        .set("storage.call_timeout", "4s")
        .set("storage.breaker.open_for", "20ms")
        .set("storage.breaker.max_open_for", "200ms")
        .set("worker.retry_max", "200ms")
        .set("backends.main.children.primary", "files")
        .set("backends.main.children.blobs", "bucket")
        .set("backends.files.plugin", "file")
        .set("backends.files.options.path", data)
        .set("backends.bucket.plugin", "object-store")
        .set("backends.bucket.options.url", url)
        .set("backends.bucket.options.allow_http", true)
}

fn over_azure(redis: &RedisServer, server: &AzureServer, url: &str) -> Setup {
    tiered(redis, url)
        .set("backends.bucket.options.endpoint", server.endpoint())
        .set("backends.bucket.options.account", AzureServer::ACCOUNT)
        .set("backends.bucket.options.account_key", AzureServer::KEY)
}

fn over_s3(redis: &RedisServer, server: &S3Server, url: &str) -> Setup {
    tiered(redis, url)
        .set("backends.bucket.options.endpoint", server.endpoint())
        .set("backends.bucket.options.access_key_id", "somebody")
        .set("backends.bucket.options.secret_access_key", "geheim")
}

/// An evaluation that ended with some megabytes, hard to compress, that are different for each seed.
fn large(id: &str, seed: u64) -> Sent {
    let mut random = fastrand::Rng::with_seed(seed);
    let output: String = (0..2 << 20).map(|_| random.alphanumeric()).collect();
    Sent::new("evaluation:completed", &json!({"eval_id": id, "timestamp": "2025-01-01T12:00:00Z", "output": output}))
}

fn small(id: &str) -> Sent {
    let payload = json!({"eval_id": id, "timestamp": "2025-01-01T12:00:00Z", "output": "small"});
    Sent::new("evaluation:completed", &payload)
}

#[track_caller]
fn assert_records(worker: &Worker, events: &[Sent]) {
    for (id, expected) in expected(events, 0) {
        let record = worker.record(&id).unwrap_or(Value::Null);
        // Not the megabytes of text.
        assert!(record == expected.record, "`{id}` has {} characters of output", record["output_size"]);
    }
}

/// What health says of the layer.
fn layer(worker: &Worker) -> Value {
    worker.http().get("/health").json()["backends"]["main"].clone()
}
