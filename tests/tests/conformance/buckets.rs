//! `object-store` does what it claims, over each kind of place that there is a server for.

use serde_json::{Value, json};
use storage_worker_tests::bucket_servers::{AzureServer, S3Server};
use storage_worker_tests::redis_server::free_port;

use crate::{Kit, with_verdict};

/// Runs the kit with these options, and again through a server that is not there.
#[track_caller]
fn assert_keeps_blobs(options: &Value, away: Option<&Value>) {
    let (kit, options) = (Kit::new(), options.to_string());
    let away = away.map(Value::to_string);
    let mut arguments = vec!["object-store", "--options", &options, "--output", "json"];
    if let Some(away) = &away {
        arguments.extend(["--away-options", away]);
    }

    let card = kit.run(&arguments).json();

    assert_eq!(with_verdict(&card, "failed"), [""; 0], "{}", card["behaviors"]);
    assert_eq!(with_verdict(&card, "not_run"), [""; 0], "{}", card["behaviors"]);
    let passed = with_verdict(&card, "passed");
    for name in ["blobs.kept_and_listed", "blobs.kept_when_reopened", "blobs.delete_if_untouched"] {
        assert!(passed.iter().any(|passed| passed == name), "{name} is not among {passed:?}");
    }
}

#[test]
fn of_a_directory() {
    assert_keeps_blobs(&json!({"url": "file://{dir}"}), None);
}

#[test]
fn of_s3() {
    let server = S3Server::start();
    server.make_bucket("blobs");
    let options = |endpoint: String| {
        json!({
            "url": "s3://blobs/of/tests", "endpoint": endpoint, "allow_http": true,
            "access_key_id": "somebody", "secret_access_key": "geheim",
        })
    };

    let away = options(format!("http://127.0.0.1:{}", free_port()));
    assert_keeps_blobs(&options(server.endpoint()), Some(&away));

    let objects = server.objects("blobs");
    assert!(!objects.is_empty() && objects.iter().all(|name| name.starts_with("of/tests/")), "{objects:?}");
}

#[test]
fn of_azure() {
    let server = AzureServer::start();
    server.make_container("blobs");
    let options = |port| {
        json!({
            "url": "az://blobs", "endpoint": server.endpoint_at(port), "allow_http": true,
            "account": AzureServer::ACCOUNT, "account_key": AzureServer::KEY,
        })
    };

    assert_keeps_blobs(&options(server.port()), Some(&options(free_port())));
}
