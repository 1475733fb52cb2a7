//! Storage is changed while the worker runs: nothing is lost, and what is wrong changes nothing.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::load::Load;
use storage_worker_tests::process::plugin_path;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

/// What `storage-worker reload` answered.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) output: Value,
    pub(crate) error: String,
}

/// Writes the configuration of the set-up and has the worker read it.
pub(crate) fn reload(setup: &Setup, worker: &Worker, arguments: &[&str]) -> Answer {
    let listen = format!("admin.listen={}", worker.admin_address());
    let arguments = [&["reload", "--output", "json", "--set", &listen], arguments].concat();
    let output = setup.command(&arguments).output().expect("the command runs");
    Answer {
        code: output.status.code(),
        output: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        error: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Two stores, of which `root` is in use.
fn two_stores(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "file");
    let second = setup.path("second").display().to_string();
    setup.set("backends.second.plugin", "file").set("backends.second.options.path", second)
}

/// A third one, that misbehaves when it is opened.
fn with_hostile(setup: Setup, open: &str) -> Setup {
    let plugin = plugin_path("hostile").display().to_string();
    setup.set("backends.hostile.plugin", plugin).set("backends.hostile.options.open", open)
}

fn queued(id: &str) -> Sent {
    Sent::new("evaluation:queued", &json!({"eval_id": id, "code": "1", "timestamp": "2025-01-01T00:00:00Z"}))
}

fn generation(worker: &Worker) -> u64 {
    worker.http().get("/health").json()["generation"].as_u64().expect("health says the generation")
}

fn stored(worker: &Worker, events: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let is_stored = |(id, event): &&(String, String)| {
        worker.record(id).is_some() && worker.history(id).iter().any(|entry| entry["event_id"] == event.as_str())
    };
    events.iter().filter(is_stored).cloned().collect()
}

#[test]
fn stores_are_swapped_under_load_and_every_event_is_in_one_of_them() {
    let redis = RedisServer::start();
    let mut setup = two_stores(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 21, 1000);

    for round in 0..6 {
        eventually(SOON, "some load", || load.handed_on().len() > 300 * (round + 1));
        setup = setup.set("storage.backend", if round % 2 == 0 { "second" } else { "main" });
        let answer = reload(&setup, &worker, &[]);
        assert_eq!(answer.code, Some(0), "{}", answer.error);
        let (opened, closed) = if round % 2 == 0 { ("second", "main") } else { ("main", "second") };
        assert_eq!((&answer.output["opened"][0], &answer.output["closed"][0]), (&opened.into(), &closed.into()));
        assert_eq!(answer.output["generation"], round as u64 + 2);
        assert_eq!(generation(&worker), round as u64 + 2);
    }
    let received = load.stop();

    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    let in_main = stored(&worker, &received);
    setup = setup.set("storage.backend", "second");
    assert_eq!(reload(&setup, &worker, &[]).code, Some(0));
    let in_second = stored(&worker, &received);
    assert!(!in_main.is_empty() && !in_second.is_empty());
    let lost: Vec<_> = received.iter().filter(|event| !in_main.contains(event) && !in_second.contains(event)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let (status, log) = worker.terminate(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(setup.dead_letters().is_empty());
}

#[test]
fn a_backend_that_only_one_may_open_is_handed_over_to_itself() {
    let redis = RedisServer::start();
    let mut setup = Setup::new(&redis.url(), "file");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 22, 1000);

    for round in 0..4 {
        eventually(SOON, "some load", || load.handed_on().len() > 300 * (round + 1));
        setup = setup.set("backends.main.options.sync", if round % 2 == 0 { "none" } else { "batch" });
        let answer = reload(&setup, &worker, &[]);
        assert_eq!(answer.code, Some(0), "{}", answer.error);
        assert_eq!((&answer.output["opened"][0], &answer.output["closed"][0]), (&"main".into(), &"main".into()));
    }
    let received = load.stop();

    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    assert_eq!(stored(&worker, &received), received);
}

#[test]
fn what_is_wrong_changes_nothing_and_says_why() {
    let redis = RedisServer::start();
    let mut setup = two_stores(&redis).set("storage.open_timeout", "500ms");
    let worker = setup.start();

    setup = setup.set("backends.main.plugin", "nonsense");
    let answer = reload(&setup, &worker, &[]);
    // The command reads the same file, so it says so itself, or the worker does.
    assert_eq!(answer.code, Some(2), "{}", answer.error);
    assert!(answer.error.contains("nonsense"), "{}", answer.error);

    setup = setup.set("backends.main.plugin", "file").set("storage.backend", "hostile");
    setup = with_hostile(setup, "hang");
    let answer = reload(&setup, &worker, &[]);
    assert_eq!(answer.code, Some(1), "{}", answer.error);
    assert!(answer.error.contains("did not return within 500ms"), "{}", answer.error);
    let answer = reload(&setup, &worker, &[]);
    assert_eq!(answer.code, Some(1), "{}", answer.error);
    assert!(answer.error.contains("an earlier attempt to open it has not returned yet"), "{}", answer.error);

    assert_eq!(generation(&worker), 1);
    assert_eq!(worker.log().all("storage.not_reloaded").len(), 3, "{}", worker.log());
    let confirmations = Confirmations::listen(&redis);
    Publisher::new(&redis).publish(&[queued("still-1")]);
    confirmations.wait_for(1, SOON);
    setup = setup.set("storage.backend", "second");
    assert_eq!(reload(&setup, &worker, &[]).code, Some(0));
    assert_eq!(generation(&worker), 2);
}

#[test]
fn a_hangup_reads_the_configuration_again_and_a_section_that_cannot_change_is_named() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis);
    let worker = setup.start();

    let setup = setup.set("storage.backend", "second").set("worker.lanes", 2);
    drop(setup.command(&["check"]));
    worker.signal(Signal::HUP);
    eventually(SOON, "the second generation", || generation(&worker) == 2);

    let answer = reload(&setup, &worker, &[]);
    assert_eq!((answer.code, &answer.output["generation"]), (Some(0), &2.into()), "{}", answer.error);
    assert_eq!(answer.output["opened"], Value::Array(Vec::new()), "nothing is different from what is in force");
    assert_eq!(answer.output["restart"][0], "worker");
    let confirmations = Confirmations::listen(&redis);
    Publisher::new(&redis).publish(&[queued("later-1")]);
    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("backend"), &confirmation.body["generation"]), ("second", &2.into()));
}

#[test]
fn a_worker_whose_storage_is_away_can_be_given_another() {
    let redis = RedisServer::start();
    let setup = with_hostile(two_stores(&redis).set("storage.backend", "hostile"), "unavailable");
    let worker = setup.start_unready();
    let confirmations = Confirmations::listen(&redis);
    eventually(SOON, "the subscription", || worker.log().find("subscribed").is_some());
    Publisher::new(&redis).publish(&[queued("waits-1")]);

    let setup = setup.set("storage.backend", "main");
    let answer = reload(&setup, &worker, &[]);

    assert_eq!(answer.code, Some(0), "{}", answer.error);
    assert_eq!(confirmations.wait_for(1, SOON)[0].text("backend"), "main");
}

#[test]
fn many_changes_leave_nothing_behind() {
    let redis = RedisServer::start();
    let mut setup = with_hostile(two_stores(&redis), "configuration");
    let worker = setup.start();
    let threads = |worker: &Worker| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.id())).expect("the process runs");
        tasks.count()
    };
    let mut counts = Vec::new();

    for round in 0..40 {
        // Every other one is refused.
        let root = ["second", "hostile", "main", "hostile"][round % 4];
        setup = setup.set("storage.backend", root);
        let answer = reload(&setup, &worker, &[]);
        assert_eq!(answer.code, Some(i32::from(root == "hostile")), "{}", answer.error);
        counts.push(threads(&worker));
    }

    eventually(SOON, "no more threads than after the first changes", || threads(&worker) <= counts[3] + 1);
    assert_eq!(generation(&worker), 21);
}
