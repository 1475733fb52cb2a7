//! A fallback that holds what is stored nowhere else does not go unasked.

use std::time::Duration;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use super::{queued, refused, reload, reloaded};
use crate::SOON;

/// A composite over files that can be taken away, with files to fall back on.
fn composite(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "cached-composite");
    let text = |name: &str| setup.path(name).display().to_string();
    let (data, disk, away, second) = (text("data"), text("disk"), text("away"), text("second"));
    setup
        .set("storage.breaker.open_for", "20ms")
        .set("storage.breaker.max_open_for", "100ms")
        .set("worker.retry_max", "100ms")
        .set("backends.main.children.primary", "far")
        .set("backends.main.children.fallback", "disk")
        .set("backends.far.plugin", "switch")
        .set("backends.far.children.inner", "files")
        .set("backends.far.options.away_while", away)
        .set("backends.files.plugin", "file")
        .set("backends.files.options.path", data)
        .set("backends.disk.plugin", "file")
        .set("backends.disk.options.path", disk)
        .set("backends.second.plugin", "file")
        .set("backends.second.options.path", second)
}

fn take_away(setup: &Setup) {
    std::fs::write(setup.path("away"), "").expect("make the file");
}

fn give_back(setup: &Setup, worker: &Worker) {
    std::fs::remove_file(setup.path("away")).expect("there is a file");
    eventually(Duration::from_secs(60), "the fallback to be merged back", || {
        worker.http().get("/health").json()["backends"]["main"]["fallback_held"] == json!(0)
    });
}

#[test]
fn a_fallback_with_something_in_it_is_dropped_or_moved_only_by_force() {
    let redis = RedisServer::start();
    let mut setup = composite(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let mut tell = |id: &str, backend: &str| {
        publisher.publish(&[queued(id)]);
        let confirmation = confirmations.wait_for(1, SOON).remove(0);
        confirmations.take();
        assert_eq!(confirmation.text("backend"), backend, "{confirmation:?}");
    };
    tell("before-1", "files");
    take_away(&setup);
    tell("away-1", "disk");
    let [disk, elsewhere] = ["disk", "elsewhere"].map(|name| setup.path(name).display().to_string());

    setup = setup.set("backends.disk.options.path", elsewhere.as_str());
    refused(&setup, &worker, 1, "the fallback `disk` still holds evaluations");
    setup = setup.set("backends.disk.options.path", disk.as_str()).set("storage.backend", "second");
    refused(&setup, &worker, 1, "the fallback `disk` still holds evaluations");
    tell("away-2", "disk");
    // It is kept, though the layer above is another one.
    setup = setup.set("storage.backend", "main").set("backends.main.options.catch_up_batch", 7);
    let answer = reload(&setup, &worker, &[]);
    assert!(!answer.error.contains("fallback"), "{}", answer.error);

    give_back(&setup, &worker);
    setup = setup.set("backends.disk.options.path", elsewhere.as_str());
    reloaded(&setup, &worker);
    for id in ["before-1", "away-1", "away-2"] {
        assert!(worker.record(id).is_some(), "{id} was merged back first");
    }
    take_away(&setup);
    tell("away-3", "disk");
    setup = setup.set("storage.backend", "second");
    refused(&setup, &worker, 1, "the fallback `disk` still holds evaluations");
    let answer = reload(&setup, &worker, &["--force"]);
    assert_eq!(answer.code, Some(0), "{}", answer.error);
    tell("after-1", "second");
}

/// The fallback is empty when the change begins, and gets something while the new tree is still being opened.
#[test]
fn what_comes_into_a_fallback_during_a_change_undoes_it() {
    let redis = RedisServer::start();
    let setup = composite(&redis);
    let other = setup.path("other").display().to_string();
    let opens_late = setup.path("opens-late");
    std::fs::write(&opens_late, "").expect("write a file");
    let setup = setup
        .set("backends.slow.plugin", "switch")
        .set("backends.slow.children.inner", "second")
        .set("backends.slow.options.away_while", other)
        .set("backends.slow.options.open_waits_while", opens_late.display().to_string());
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let setup = setup.set("storage.backend", "slow");

    let answer = std::thread::scope(|scope| {
        let reload = scope.spawn(|| reload(&setup, &worker, &[]));
        eventually(SOON, "the new files to be open", || {
            let opened = worker.log().all("storage.backend_opened");
            opened.iter().any(|entry| entry["backend"] == "second")
        });
        take_away(&setup);
        publisher.publish(&[queued("meanwhile-1")]);
        let confirmation = confirmations.wait_for(1, SOON).remove(0);
        assert_eq!(confirmation.text("backend"), "disk", "{confirmation:?}");
        std::fs::remove_file(&opens_late).expect("there is a file");
        reload.join().expect("it is answered")
    });

    assert_eq!(answer.code, Some(1), "{}", answer.error);
    assert!(answer.error.contains("the fallback `disk` still holds evaluations"), "{}", answer.error);
    confirmations.take();
    publisher.publish(&[queued("later-1")]);
    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("backend"), &confirmation.body["generation"]), ("disk", &1.into()));
    give_back(&setup, &worker);
    reloaded(&setup, &worker);
    let setup = setup.set("storage.backend", "main");
    reloaded(&setup, &worker);
    for id in ["meanwhile-1", "later-1"] {
        assert!(worker.record(id).is_some(), "{id} was merged back before the fallback went");
    }
}

/// What an operator does in an outage: it used to be refused, since the new layer said that it was not well.
#[test]
fn a_fallback_can_be_put_behind_a_primary_that_is_away() {
    let redis = RedisServer::start();
    let setup = composite(&redis).set("storage.backend", "far");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    take_away(&setup);
    publisher.publish(&[queued("e-1")]);
    eventually(SOON, "the outage to be noticed", || !worker.http().get("/health").json()["healthy"].eq(&json!(true)));

    let setup = setup.set("storage.backend", "main");
    reloaded(&setup, &worker);

    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("backend"), &confirmation.body["generation"]), ("disk", &2.into()));
    assert!(worker.is_ready(), "it goes on without its primary");
    give_back(&setup, &worker);
    eventually(SOON, "the primary's file", || setup.path("data/evaluations/e-1.json").exists());
}

/// The primary is replaced while the fallback holds something: all of it is for the new one.
#[test]
fn what_a_fallback_holds_goes_to_the_primary_that_took_the_place_of_the_other() {
    let redis = RedisServer::start();
    let setup = composite(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    take_away(&setup);
    publisher.publish(&[queued("e-1"), queued("e-2")]);
    confirmations.wait_for(2, SOON);

    let setup = setup.set("backends.main.children.primary", "second");
    reloaded(&setup, &worker);

    give_back(&setup, &worker);
    for id in ["e-1", "e-2"] {
        let is_in = |at: &str| setup.path(&format!("{at}/evaluations/{id}.json")).exists();
        eventually(SOON, "the file of the second primary", || is_in("second"));
        assert!(!is_in("data"), "{id}");
        assert!(worker.record(id).is_some_and(|record| record["incomplete"] != true), "{id}");
    }
}
