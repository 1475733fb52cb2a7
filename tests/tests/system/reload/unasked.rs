//! What a reload does not do unasked, or without a word: stop events, let something in at the last moment, forget.

use std::path::PathBuf;
use std::thread::Scope;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use super::{Answer, queued, refused, reload, reloaded, two_stores, wait_for_log};
use crate::SOON;

/// `far` before `files`, whose opening or merges wait while the file `wait` is there.
fn with_waiting(setup: Setup, call: &str) -> Setup {
    let text = |name: &str| setup.path(name).display().to_string();
    let (files, away, wait) = (text("files"), text("away"), text("wait"));
    setup
        .set("backends.far.plugin", "switch")
        .set("backends.far.children.inner", "files")
        .set("backends.far.options.away_while", away)
        .set(&format!("backends.far.options.{call}_waits_while"), wait)
        .set("backends.files.plugin", "file")
        .set("backends.files.options.path", files)
}

fn wait_on(setup: &Setup) {
    std::fs::write(setup.path("wait"), "").expect("make the file");
}

/// Nothing waits any more, however the test ends.
struct GoOn(PathBuf);

impl GoOn {
    fn at_the_end(setup: &Setup) -> Self {
        Self(setup.path("wait"))
    }
}

impl Drop for GoOn {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn reloading<'s>(
    scope: &'s Scope<'s, '_>,
    setup: &'s Setup,
    worker: &'s Worker,
) -> std::thread::ScopedJoinHandle<'s, Answer> {
    scope.spawn(move || reload(setup, worker, &[]))
}

/// Events used to wait until it was open, for as long as `storage.open_timeout`.
#[test]
fn a_new_backend_that_does_not_answer_holds_up_no_events_while_another_is_handed_over() {
    let redis = RedisServer::start();
    let setup = with_waiting(Setup::new(&redis.url(), "file"), "open").set("storage.open_timeout", "100s");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    wait_on(&setup);
    let setup = setup
        .set("storage.backend", "both")
        .set("backends.both.plugin", "mirror")
        .set("backends.both.children.primary", "main")
        .set("backends.both.children.shadow", "far")
        .set("backends.main.options.sync", "none");

    let answer = std::thread::scope(|scope| {
        let go_on = GoOn::at_the_end(&setup);
        let reload = reloading(scope, &setup, &worker);
        wait_for_log(&worker, "switch waits", 1);
        Publisher::new(&redis).publish(&[queued("meanwhile-1")]);
        let confirmation = confirmations.wait_for(1, SOON).remove(0);
        assert_eq!(confirmation.body["generation"], 1, "the tree before took it");
        drop(go_on);
        reload.join().expect("it is answered")
    });

    assert_eq!((answer.code, &answer.output["closed"]), (Some(0), &json!(["main"])), "{}", answer.error);
    assert!(worker.record("meanwhile-1").is_some());
}

/// A lane is in the old tree when it is looked at; by a call to a backend something could come into it all the same.
#[test]
fn nobody_comes_into_a_tree_whose_fallback_is_looked_at_for_the_last_time() {
    let redis = RedisServer::start();
    let setup = with_waiting(two_stores(&redis), "merge")
        .set("backends.both.plugin", "cached-composite")
        .set("backends.both.children.primary", "far")
        .set("backends.both.children.fallback", "disk")
        .set("storage.backend", "both")
        .set("backends.disk.plugin", "file");
    let disk = setup.path("disk").display().to_string();
    let setup = setup.set("backends.disk.options.path", disk).set("storage.call_timeout", "100s");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    wait_on(&setup);
    Publisher::new(&redis).publish(&[queued("e-1")]);
    wait_for_log(&worker, "switch waits", 1);
    let setup = setup.set("storage.backend", "second");

    let answer = std::thread::scope(|scope| {
        let go_on = GoOn::at_the_end(&setup);
        let reload = reloading(scope, &setup, &worker);
        eventually(SOON, "storage to be closed to others", || {
            let answer = worker.http().get("/evaluations/e-0");
            answer.status == 503 && answer.body.contains("storage is being changed")
        });
        drop(go_on);
        reload.join().expect("it is answered")
    });

    assert_eq!(answer.code, Some(0), "{}", answer.error);
    assert_eq!(answer.output["notes"], json!([]), "nobody is in the old tree");
    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("backend"), &confirmation.body["generation"]), ("files", &1.into()));
}

/// The command used to say nothing, as if nobody could be in it.
#[test]
fn a_merge_that_stays_in_the_tree_before_is_told() {
    let redis = RedisServer::start();
    let setup = with_waiting(two_stores(&redis), "merge").set("storage.backend", "far");
    let setup = setup.set("storage.call_timeout", "500ms").set("storage.close_timeout", "1s");
    let worker = setup.start();
    wait_on(&setup);
    let _go_on = GoOn::at_the_end(&setup);
    Publisher::new(&redis).publish(&[queued("e-1")]);
    wait_for_log(&worker, "switch waits", 1);

    let setup = setup.set("storage.backend", "second");
    let answer = reloaded(&setup, &worker);

    let notes = answer["notes"].to_string();
    assert!(notes.contains("a merge into the tree before has not come back within 500ms"), "{answer}");
    wait_for_log(&worker, "storage.still_in_the_tree_before", 1);
}

#[test]
fn what_a_store_in_memory_holds_goes_only_by_force() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let setup = setup.set("storage.breaker.open_for", "2s");
    reloaded(&setup, &worker);
    Publisher::new(&redis).publish(&[queued("e-1")]);
    confirmations.wait_for(1, SOON);

    let setup = setup.set("storage.breaker.open_for", "3s");
    refused(&setup, &worker, 1, "`main` holds evaluations in memory alone");

    assert!(worker.record("e-1").is_some());
    let answer = reload(&setup, &worker, &["--force"]);
    assert_eq!(answer.code, Some(0), "{}", answer.error);
    assert!(worker.record("e-1").is_none());
}
