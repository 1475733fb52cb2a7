//! `mirror`: shadows that follow, shadows that are waited for, and a worker that is killed or reloaded meanwhile.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::load::Load;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;
use crate::reload::reload;
use crate::shutdown::assert_stored;

/// Files, mirrored into other files that a test can take away.
fn mirror(redis: &RedisServer, ack: &str) -> Setup {
    let setup = Setup::new(&redis.url(), "mirror");
    let text = |name: &str| setup.path(name).to_str().expect("Unicode").to_owned();
    let (one, other, away) = (text("one"), text("other"), text("away"));
    setup
        .set("storage.guarantee", "durable")
        .set("storage.breaker.open_for", "20ms")
        .set("storage.breaker.max_open_for", "100ms")
        .set("worker.retry_max", "100ms")
        .set("backends.main.options.ack", ack)
        .set("backends.main.children.primary", "one")
        .set("backends.main.children.shadow", "far")
        .set("backends.one.plugin", "file")
        .set("backends.one.options.path", one)
        .set("backends.far.plugin", "switch")
        .set("backends.far.children.inner", "other")
        .set("backends.far.options.away_while", away)
        .set("backends.other.plugin", "file")
        .set("backends.other.options.path", other)
}

fn take_away(setup: &Setup) {
    std::fs::write(setup.path("away"), "").expect("make the file");
}

fn give_back(setup: &Setup) {
    let _ = std::fs::remove_file(setup.path("away"));
}

fn detail(worker: &Worker, name: &str) -> Value {
    worker.http().get("/health").json()["backends"]["main"][name].clone()
}

/// The records that a directory of the plugin `file` holds, by the names of their files.
fn records(directory: &Path) -> Vec<(String, Value)> {
    let mut records: Vec<(String, Value)> = std::fs::read_dir(directory.join("evaluations"))
        .expect("the directory is there")
        .map(|entry| {
            let path = entry.expect("readable").path();
            let record = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("a record is JSON");
            (path.file_name().expect("a file").to_string_lossy().into_owned(), record)
        })
        .collect();
    records.sort_by(|a, b| a.0.cmp(&b.0));
    records
}

/// Both have the same records, and as many as there are evaluations.
#[track_caller]
fn assert_alike(setup: &Setup, evaluations: usize) {
    let (one, other) = (records(&setup.path("one")), records(&setup.path("other")));
    assert_eq!(one.len(), evaluations);
    assert!(one == other, "{} and {} records, which differ", one.len(), other.len());
}

#[test]
fn a_shadow_that_is_away_keeps_nothing_waiting_and_has_everything_in_the_end() {
    let redis = RedisServer::start();
    // So small that most of it must be read from the primary again.
    let setup = mirror(&redis, "primary").set("backends.main.options.queue_changes", 50);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let mut generator = Generator::new(31);
    let mut all: Vec<Sent> = Vec::new();

    for is_away in [false, true, false] {
        if is_away {
            take_away(&setup)
        } else {
            give_back(&setup)
        }
        let events: Vec<Sent> = (0..100).flat_map(|_| generator.lifecycle()).collect();
        publisher.publish(&events);
        let confirmed = confirmations.wait_for(events.len(), SOON);
        confirmations.take();
        assert!(confirmed.iter().all(|found| found.text("durability") == "durable" && found.text("backend") == "one"));
        all.extend(events);
        assert!(worker.is_ready(), "it goes on without its shadow");
        if is_away {
            eventually(SOON, "health to tell", || detail(&worker, "state") == "behind");
            assert!(
                detail(&worker, "shadows")["far"]["overflowed"].as_u64() > Some(0),
                "{}",
                detail(&worker, "shadows")
            );
            let explained = setup.command(&["explain"]).output().expect("the command runs");
            let text = String::from_utf8_lossy(&explained.stdout).into_owned();
            assert!(text.contains("`far` follow, up to 50 changes"), "{text}");
        }
    }

    eventually(Duration::from_secs(60), "the shadow to have all", || detail(&worker, "state") == "mirrored");
    assert!(worker.http().metric("storage_worker_backend_count_total", &["shadow_repaired"]) > 0.0);
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "{log}");
    assert!(setup.dead_letters().is_empty());
    assert_alike(&setup, expected(&all, 0).len());
}

#[test]
fn with_all_nothing_is_confirmed_that_the_shadow_does_not_have() {
    let redis = RedisServer::start();
    let setup = mirror(&redis, "all");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let event = |id: &str| Sent::new("evaluation:queued", &json!({"eval_id": id, "code": "1"}));
    let mut publisher = Publisher::new(&redis);
    publisher.publish(&[event("before")]);
    let confirmed = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmed.text("backend"), confirmed.text("durability")), ("main", "durable"));

    take_away(&setup);
    publisher.publish(&[event("during")]);
    eventually(SOON, "the primary to have it", || worker.record("during").is_some());
    eventually(SOON, "readiness to turn", || !worker.is_ready());
    assert_eq!(confirmations.count(), 1, "it is not confirmed");
    give_back(&setup);

    confirmations.wait_for(2, SOON);
    eventually(SOON, "readiness to turn again", || worker.is_ready());
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "{log}");
    assert!(setup.dead_letters().is_empty());
    assert_alike(&setup, 2);
}

#[test]
fn with_all_a_kill_leaves_everything_that_was_confirmed_in_both() {
    let redis = RedisServer::start();
    let mut setup = mirror(&redis, "all");
    let confirmations = Confirmations::listen(&redis);
    let mut confirmed: BTreeSet<(String, String)> = BTreeSet::new();
    for kill in 0..5 {
        let worker = setup.start();
        let mut load = Load::start(&redis, 700 + kill, 2000);
        eventually(SOON, "confirmations under load", || confirmations.count() > 100);
        worker.kill();
        load.stop();
        confirmed.extend(confirmations.take().iter().map(|found| found.about()));
    }

    for root in ["one", "other"] {
        setup = setup.set("storage.backend", root);
        assert_stored(&setup.start(), &confirmed);
    }
}

/// The shadow is away when one mirror takes the place of another; what the first one owed is not forgotten.
#[test]
fn a_reload_hands_over_what_the_shadow_does_not_have() {
    let redis = RedisServer::start();
    let setup = mirror(&redis, "primary");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let mut generator = Generator::new(32);
    take_away(&setup);
    let events: Vec<Sent> = (0..50).flat_map(|_| generator.lifecycle()).collect();
    publisher.publish(&events);
    confirmations.wait_for(events.len(), SOON);

    let setup = setup.set("backends.main.options.queue_changes", 1000).set("storage.close_timeout", "1s");
    let answer = reload(&setup, &worker, &[]);

    assert_eq!(answer.code, Some(0), "{}", answer.error);
    assert_eq!(answer.output["opened"], json!(["main"]), "the children are carried over");
    eventually(SOON, "the new one to know", || detail(&worker, "shadows")["far"]["owed"].as_u64() >= Some(50));
    give_back(&setup);
    eventually(SOON, "the shadow to have all", || detail(&worker, "state") == "mirrored");
    worker.terminate(SOON);
    assert_alike(&setup, expected(&events, 0).len());
}
