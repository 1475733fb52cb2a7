//! The file of a plugin is replaced while it is loaded: by another build, by half of one, by nothing.

use std::path::{Path, PathBuf};

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::load::Load;
use storage_worker_tests::process::plugin_path;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{assert_stored, refused, reloaded, wait_for_log};
use crate::SOON;

/// Files kept by a plugin that this test may overwrite.
fn files_of_a_copy(redis: &RedisServer) -> (Setup, PathBuf) {
    let setup = Setup::new(&redis.url(), "file");
    let plugin = setup.path("libfiles.so");
    std::fs::copy(plugin_path("file"), &plugin).expect("copy the plugin");
    let path = plugin.display().to_string();
    (setup.set("backends.main.plugin", path), plugin)
}

/// The same plugin with another content: to the loader another build, with statics of its own.
fn another_build(number: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(plugin_path("file")).expect("read the plugin");
    bytes.push(number);
    bytes
}

fn replace(plugin: &Path, bytes: &[u8]) {
    let beside = plugin.with_extension("new");
    std::fs::write(&beside, bytes).expect("write a file");
    std::fs::rename(beside, plugin).expect("rename a file");
}

#[test]
fn a_new_build_takes_over_what_only_one_may_open_and_nothing_is_lost() {
    let redis = RedisServer::start();
    let (setup, plugin) = files_of_a_copy(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 41, 500);

    for round in 1..=3_u8 {
        eventually(SOON, "some load", || load.handed_on().len() > 150 * usize::from(round));
        match round {
            // As `cp` does; what is loaded is a copy, so nothing happens to it.
            2 => std::fs::write(&plugin, another_build(round)).expect("overwrite the file"),
            _ => replace(&plugin, &another_build(round)),
        }
        let answer = reloaded(&setup, &worker);
        assert_eq!((&answer["opened"][0], &answer["closed"][0]), (&"main".into(), &"main".into()));
        let answer = reloaded(&setup, &worker);
        assert!(answer["opened"].as_array().expect("a list").is_empty(), "it is no other build than before: {answer}");
    }
    // One that was loaded before is used again.
    replace(&plugin, &another_build(1));
    reloaded(&setup, &worker);
    let received = load.stop();

    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    assert_stored(&worker, &received);
    assert_eq!(worker.http().metric("storage_worker_plugins_loaded", &[]), 4.0);
    wait_for_log(&worker, "plugin loaded", 4);
    let loaded = worker.log().all("plugin loaded");
    let hashes: std::collections::BTreeSet<String> = loaded.iter().map(|entry| entry["sha256"].to_string()).collect();
    assert_eq!((loaded.len(), hashes.len()), (4, 4));
    let (status, log) = worker.terminate(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_file_that_is_damaged_or_gone_changes_nothing() {
    let redis = RedisServer::start();
    let (setup, plugin) = files_of_a_copy(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 42, 500);
    let whole = another_build(9);

    for (bytes, reason) in [
        (&b""[..], "not a shared library"),
        (&b"#!/bin/sh\n"[..], "not a shared library"),
        (&whole[..whole.len() / 2], "libfiles.so"),
        (&whole[..whole.len() - 5000], "libfiles.so"),
        (&whole[..200], "libfiles.so"),
    ] {
        std::fs::write(&plugin, bytes).expect("overwrite the file");
        refused(&setup, &worker, 2, reason);
    }
    std::fs::remove_file(&plugin).expect("there is a file");
    refused(&setup, &worker, 2, "cannot find plugin");
    replace(&plugin, &whole);
    reloaded(&setup, &worker);
    eventually(SOON, "some load", || load.handed_on().len() > 150);
    let received = load.stop();

    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    assert_stored(&worker, &received);
}
