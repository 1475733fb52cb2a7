//! Buckets that are not there, keys that are wrong, and servers that are not there yet.

use storage_worker_tests::bucket_servers::{AzureServer, S3Server};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{assert_records, large, layer, over_azure, over_s3};
use crate::SOON;

/// What a worker says that cannot start.
#[track_caller]
fn refusal(setup: &Setup) -> String {
    let output = setup.command(&["run"]).output().expect("run the worker");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    text
}

#[test]
fn what_s3_refuses_ends_the_start_with_what_to_do() {
    let (redis, server) = (RedisServer::start(), S3Server::start());
    server.make_bucket("bodies");
    let text = refusal(&over_s3(&redis, &server, "s3://missing"));
    assert!(text.contains("404 NoSuchBucket") && text.contains("make the bucket of s3://missing/"), "{text}");

    let user = server.users_only();
    let with = |id: &str, key: &str| {
        over_s3(&redis, &server, "s3://bodies")
            .set("backends.bucket.options.access_key_id", id)
            .set("backends.bucket.options.secret_access_key", key)
    };
    let text = refusal(&with("AKIAAAAAAAAAAAAAAAAA", "geheim"));
    assert!(text.contains("403 InvalidAccessKeyId") && text.contains("check the credentials"), "{text}");
    assert!(!text.contains("geheim"), "{text}");
    let text = refusal(&with(&user.access_key_id, "geheim"));
    assert!(text.contains("403 SignatureDoesNotMatch") && !text.contains("geheim"), "{text}");

    let checked = with(&user.access_key_id, "geheim").command(&["check"]).output().expect("run the worker");
    assert!(checked.status.success(), "`check` asks no server: {}", String::from_utf8_lossy(&checked.stderr));
    // Those of the environment will do as well.
    let of_environment = super::tiered(&redis, "s3://bodies")
        .environment("AWS_ENDPOINT", &server.endpoint())
        .environment("AWS_ACCESS_KEY_ID", &user.access_key_id)
        .environment("AWS_SECRET_ACCESS_KEY", &user.secret_access_key);
    let worker = of_environment.start();
    let confirmations = Confirmations::listen(&redis);
    let event = [large("large", 3)];
    Publisher::new(&redis).publish(&event);
    confirmations.wait_for(1, SOON);
    assert_records(&worker, &event);
}

#[test]
fn what_azure_refuses_ends_the_start_with_what_to_do() {
    let (redis, server) = (RedisServer::start(), AzureServer::start());
    server.make_container("bodies");
    let text = refusal(&over_azure(&redis, &server, "az://missing"));
    assert!(text.contains("404 ContainerNotFound") && text.contains("make the bucket of az://missing/"), "{text}");

    let wrong_key = over_azure(&redis, &server, "az://bodies").set("backends.bucket.options.account_key", "Z2VoZWlt");
    let text = refusal(&wrong_key);
    assert!(
        text.contains("`127.0.0.1") && text.contains("answers 403") && text.contains("check the credentials"),
        "{text}"
    );
    assert!(!text.contains("Z2VoZWlt"), "{text}");
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for_and_a_bucket_that_goes_too() {
    let (redis, mut server) = (RedisServer::start(), AzureServer::start());
    server.make_container("bodies");
    let setup = over_azure(&redis, &server, "az://bodies");
    server.stop();
    let worker = setup.start_unready();
    eventually(SOON, "the reason to be logged", || worker.log().to_string().contains("no answer from `127.0.0.1"));
    assert_eq!(worker.http().get("/health").status, 503);
    assert!(!worker.log().to_string().contains(AzureServer::KEY), "{}", worker.log());

    server.restart();
    eventually(SOON, "the worker to be ready", || worker.is_ready());
    let confirmations = Confirmations::listen(&redis);
    server.remove_container("bodies");
    let event = [large("large", 4)];
    Publisher::new(&redis).publish(&event);
    eventually(SOON, "health to say so", || layer(&worker)["reason"].to_string().contains("ContainerNotFound"));
    assert_eq!(confirmations.count(), 0);

    server.make_container("bodies");
    confirmations.wait_for(1, SOON);
    assert_records(&worker, &event);
    assert!(setup.dead_letters().is_empty());
}
