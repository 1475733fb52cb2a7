//! The server of the bucket goes away and comes back: what is large waits, all else is stored, and nothing becomes a dead
//! letter.

use serde_json::json;
use storage_worker_tests::bucket_servers::{AzureServer, S3Server};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{assert_records, large, layer, over_azure, over_s3, small};
use crate::SOON;

/// A worker whose bucket is taken away and given back.
fn survives(redis: &RedisServer, setup: &Setup, take_away: impl FnOnce(), give_back: impl FnOnce()) {
    let worker = setup.start();
    let confirmations = Confirmations::listen(redis);
    let mut publisher = Publisher::new(redis);
    let events: [Sent; 5] = [large("large", 1), small("small"), large("later", 2), large("again", 1), small("other")];

    publisher.publish(&events[..2]);
    let confirmed = confirmations.wait_for(2, SOON);
    assert!(confirmed.iter().all(|confirmation| confirmation.text("durability") == "durable"), "{confirmed:?}");
    assert_records(&worker, &events[..2]);

    take_away();
    publisher.publish(&events[2..]);
    eventually(SOON, "the small one to be confirmed", || {
        confirmations.received().iter().any(|confirmation| confirmation.about().0 == "other")
    });
    assert_eq!(confirmations.count(), 3, "the large ones wait");
    eventually(SOON, "health to say so", || {
        layer(&worker)["reason"].as_str().is_some_and(|reason| reason.contains("bodies over 1.0 MiB wait"))
    });
    let part = worker.record("large").expect("stored");
    assert_eq!((&part["incomplete"], &part["output_truncated"]), (&json!(true), &json!(true)));

    give_back();
    confirmations.wait_for(5, SOON);
    eventually(SOON, "health to be well", || layer(&worker)["healthy"] == true);
    eventually(SOON, "bodies to be read", || {
        worker.record("large").is_some_and(|record| record["incomplete"].is_null())
    });
    assert_records(&worker, &events);
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "the worker ended with {status}:\n{log}");
    assert!(setup.dead_letters().is_empty());
}

#[test]
fn a_server_that_is_stopped_and_started_again() {
    let (redis, server) = (RedisServer::start(), std::cell::RefCell::new(AzureServer::start()));
    server.borrow().make_container("bodies");
    let setup = over_azure(&redis, &server.borrow(), "az://bodies/of/tests");

    survives(&redis, &setup, || server.borrow_mut().stop(), || server.borrow_mut().restart());

    let blobs = server.borrow().blobs("bodies");
    assert_eq!(blobs.len(), 2, "equal bodies are one blob: {blobs:?}");
    let is_ours = |name: &String| name.starts_with("of/tests/") && name.contains(".zst/20");
    assert!(blobs.iter().all(is_ours), "{blobs:?}");
}

#[test]
fn a_server_that_hangs() {
    let (redis, server) = (RedisServer::start(), S3Server::start());
    server.make_bucket("bodies");
    let setup = over_s3(&redis, &server, "s3://bodies");

    survives(&redis, &setup, || server.pause(), || server.resume());

    assert_eq!(server.objects("bodies").len(), 2, "equal bodies are one blob");
}
