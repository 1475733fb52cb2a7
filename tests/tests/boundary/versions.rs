//! Plugins of an older and a newer minor version run; of another major version or layout they are refused in words.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::outside;
use storage_worker_tests::process::{library_name, plugin_path, worker_binary};
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::variant::Variant;
use storage_worker_tests::worker::Setup;

use crate::{SOON, check};

/// The version of a package in a lock file.
fn locked(file: &str, package: &str) -> String {
    let text = std::fs::read_to_string(outside::repository().join(file)).expect("read a lock file");
    let lock: toml::Table = text.parse().expect("a lock file is TOML");
    let packages = lock["package"].as_array().expect("it has packages");
    let found = packages.iter().find(|found| found["name"].as_str() == Some(package));
    found.and_then(|found| found["version"].as_str()).unwrap_or_else(|| panic!("no {package} in {file}")).to_owned()
}

fn stores_an_event(setup: &Setup, redis: &RedisServer) {
    let worker = setup.start();
    let confirmations = Confirmations::listen(redis);

    Publisher::new(redis).publish(&[Sent::new("evaluation:queued", &json!({"eval_id": "e-1", "code": "1"}))]);

    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!(confirmation.text("result"), "created");
    assert_eq!(worker.record("e-1").expect("what is confirmed is stored")["status"], "queued");
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "the worker ended with {status}:\n{log}");
}

fn with_plugin(redis_url: &str, plugin: &std::path::Path) -> Setup {
    Setup::new(redis_url, plugin.to_str().expect("temporary paths are Unicode"))
}

/// The contract as it was frozen, with a plugin, a layer and a loader; see docs/plugin-compatibility.md.
fn frozen() -> PathBuf {
    outside::repository().join("tests/fixtures/1.0.0")
}

fn build_frozen(package: &str, file: &str, into: &Path) -> PathBuf {
    outside::build(&frozen(), package, file, into, &["--locked"])
}

/// What the loader says that it did with a plugin.
#[track_caller]
fn assert_loads(loader: &Path, plugin: &Path) {
    let output = Command::new(loader).arg(plugin).output().expect("start the loader");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("merged: created"), "{}: {text}", plugin.display());
}

#[test]
fn a_plugin_and_a_layer_of_1_0_0_run_in_todays_worker() {
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    let stored = build_frozen("storage-backend-stored", &library_name("stored"), built.path());
    let watch = build_frozen("storage-backend-watch", &library_name("watch"), built.path());
    let path = |plugin: &Path| plugin.to_str().expect("temporary paths are Unicode").to_owned();
    let setup = with_plugin(&redis.url(), &watch).set("backends.main.children.watched", "stored");

    stores_an_event(&setup.set("backends.stored.plugin", path(&stored)), &redis);
    stores_an_event(
        &with_plugin(&redis.url(), &watch)
            .set("backends.main.children.watched", "stored")
            .set("backends.stored.plugin", "memory"),
        &redis,
    );
    let test = Command::new(worker_binary())
        .args(["plugin", "test", &path(&stored), "--level", "basic"])
        .output()
        .expect("start the worker");
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
}

#[test]
fn todays_plugin_runs_in_the_loader_of_1_0_0() {
    let built = tempfile::tempdir().expect("make a temporary directory");
    let loader = build_frozen("loader", "loader", built.path());
    let stored = build_frozen("storage-backend-stored", &library_name("stored"), built.path());

    assert_loads(&loader, &plugin_path("memory"));
    assert_loads(&loader, &stored);
}

/// The promise about sources: no method without a default body, no field that a plugin would have to fill in.
#[test]
fn a_plugin_that_was_written_for_1_0_0_compiles_against_todays_plugin_api() {
    let redis = RedisServer::start();
    let workspace = tempfile::tempdir().expect("make a temporary directory");
    for member in ["stored", "watch"] {
        outside::copy(&frozen().join(member), &workspace.path().join(member));
    }
    let today = outside::repository().join("plugin-api");
    let manifest = std::fs::read_to_string(frozen().join("Cargo.toml")).expect("read a Cargo.toml");
    let manifest = manifest
        .replace("\"plugin-api\", ", "")
        .replace(", \"loader\"", "")
        .replace("path = \"plugin-api\"", &format!("path = {today:?}"));
    assert!(manifest.contains(&format!("path = {today:?}")), "{manifest}");
    std::fs::write(workspace.path().join("Cargo.toml"), manifest).expect("write a Cargo.toml");
    std::fs::copy(outside::repository().join("Cargo.lock"), workspace.path().join("Cargo.lock")).expect("copied");
    let build = |package, file: &str| {
        outside::build(workspace.path(), package, file, &workspace.path().join("built"), &["--offline"])
    };

    let stored = build("storage-backend-stored", &library_name("stored"));
    let watch = build("storage-backend-watch", &library_name("watch"));

    let setup = with_plugin(&redis.url(), &watch)
        .set("backends.main.children.watched", "stored")
        .set("backends.stored.plugin", stored.to_str().expect("temporary paths are Unicode"));
    stores_an_event(&setup, &redis);
}

#[test]
fn a_plugin_of_a_newer_minor_version_and_one_of_an_older_run() {
    let redis = RedisServer::start();
    let newer = Variant::new().of_api("1.1.0").with_more_functions();
    let newer_plugin = newer.build_memory();
    let newer_loader = newer.build_loader();

    stores_an_event(&with_plugin(&redis.url(), &newer_plugin), &redis);
    for plugin in [newer_plugin, plugin_path("memory")] {
        assert_loads(&newer_loader, &plugin);
    }
}

/// What else may differ: the features of plugin-api (the worker has no `tokio`), the version of tokio, the
/// optimisation. That it keeps the whole contract, `authors.rs` says.
#[test]
fn a_plugin_of_other_features_another_tokio_and_another_optimisation_runs() {
    let (own, ours) = (locked("examples/asynchronous/Cargo.lock", "tokio"), locked("Cargo.lock", "tokio"));
    assert_ne!(own, ours, "give the example another: `cargo update -p tokio --precise 1.49.0`");
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    let plugin = outside::build_example("asynchronous", built.path());

    stores_an_event(&with_plugin(&redis.url(), &plugin), &redis);
}

#[test]
fn a_plugin_of_another_major_version_is_refused_in_three_lines() {
    let variant = Variant::new().of_api("2.0.0");
    let plugin = variant.build_memory();

    let (status, text) = check(&with_plugin("redis://127.0.0.1:1", &plugin));

    assert_eq!(status, 2, "{text}");
    assert!(text.contains("it was built for plugin-api 2.0.0,"), "{text}");
    assert!(text.contains("this worker speaks 1."), "{text}");
    assert!(text.contains("use a worker of plugin-api 2.x, or a plugin built against plugin-api 1.x"), "{text}");
}

#[test]
fn a_plugin_of_another_layout_is_refused_and_the_type_is_named() {
    let variant = Variant::new()
        .replace(
            "plugin-api/src/abi.rs",
            "    pub attempt: u32,\n    pub flags: u32,\n",
            "    pub attempt: u64,\n    pub flags: u64,\n",
        )
        .replace("plugin-api/src/convert.rs", "attempt: call.attempt,", "attempt: u64::from(call.attempt),")
        .replace("plugin-api/src/convert.rs", "attempt: context.attempt }", "attempt: 0 }");
    let plugin = variant.build_memory();

    let (status, text) = check(&with_plugin("redis://127.0.0.1:1", &plugin));

    assert_eq!(status, 2, "{text}");
    assert!(text.contains("disagree"), "{text}");
    assert!(text.contains("CallContext"), "{text}");
    assert!(text.lines().count() < 12, "{text}");
}

#[test]
fn a_plugin_whose_panics_abort_is_refused() {
    let variant = Variant::new().that_aborts();
    let plugin = variant.build_memory();

    let (status, text) = check(&with_plugin("redis://127.0.0.1:1", &plugin));

    assert_eq!(status, 2, "{text}");
    assert!(text.contains("built with `panic = \"abort\"`"), "{text}");
}
