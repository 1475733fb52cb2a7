//! A plugin of somebody else's: `examples/sqlite`, built outside of this workspace, in the real worker. Found by its name
//! and by its path, killed under load, shared by two workers, and read by commands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::load::Load;
use storage_worker_tests::outside::build_example;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use crate::SOON;
use crate::kill::probe_until_confirmed;
use crate::models::compare;
use crate::shutdown::assert_stored;

const KILLS: u64 = 15;
const EVALUATIONS: usize = 300;

/// A configuration whose plugin is a file, of which this is the path.
pub(crate) fn by_path(redis: &RedisServer, built: &Path) -> Setup {
    let plugin = build_example("sqlite", built);
    with_database(Setup::new(&redis.url(), plugin.to_str().expect("temporary paths are Unicode")))
}

/// A configuration whose plugin has a name, and lies in a directory of plugins.
fn by_name(redis: &RedisServer, built: &Path) -> Setup {
    let library = build_example("sqlite", built);
    assert_eq!(library.parent(), Some(built), "it lies where it is looked for");
    let directory = built.to_str().expect("temporary paths are Unicode").to_owned();
    with_database(Setup::new(&redis.url(), "sqlite")).set("storage.plugin_dirs", vec![directory])
}

fn with_database(setup: Setup) -> Setup {
    let path = setup.path("evaluations.db");
    setup
        .set("backends.main.options.path", path.to_str().expect("temporary paths are Unicode"))
        .set("storage.guarantee", "durable")
}

/// Events of some evaluations, in any order and more than once, and what is made of them.
fn generated(generator: &mut Generator) -> (Vec<Sent>, Vec<Sent>) {
    let events: Vec<Sent> = (0..EVALUATIONS).flat_map(|_| generator.any_set()).collect();
    let mixed = generator.shuffle_and_repeat(&events);
    (events, mixed)
}

#[test]
fn found_by_its_name_it_keeps_the_contract() {
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    let setup = by_name(&redis, built.path());
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let (events, mixed) = generated(&mut Generator::new(11));

    Publisher::new(&redis).publish(&mixed);

    confirmations.wait_for(mixed.len(), SOON);
    assert!(confirmations.take().iter().all(|found| found.text("durability") == "durable"));
    let model = expected(&events, 0);
    let mut by_status: BTreeMap<&str, u64> = BTreeMap::new();
    for (id, expected) in &model {
        compare(&worker, id, expected);
        *by_status.entry(expected.record["status"].as_str().expect("a status")).or_default() += 1;
    }
    let statistics = worker.http().get("/statistics").json();
    assert_eq!(statistics["by_status"], serde_json::json!(by_status), "{statistics}");
    let page = worker.http().get("/evaluations?limit=1000").json();
    let created: Vec<&str> = page["evaluations"].as_array().expect("a list").iter().map(created_at).collect();
    assert_eq!(created.len(), EVALUATIONS);
    assert!(created.is_sorted_by(|one, next| one >= next), "newest first: {created:?}");
    assert!(setup.dead_letters().is_empty());
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "the worker ended with {status}:\n{log}");
}

#[test]
fn plugin_test_finds_it_complete_and_shared() {
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    let plugin = build_example("sqlite", built.path());
    let plugin = plugin.to_str().expect("temporary paths are Unicode");
    let setup = Setup::new(&redis.url(), plugin);
    let arguments = ["plugin", "test", plugin, "--options", r#"{"path":"{dir}/evaluations.db"}"#, "--seed", "7"];

    let tested = setup.command(&arguments).stdin(Stdio::null()).output().expect("it starts");

    let told = String::from_utf8_lossy(&tested.stdout);
    assert!(tested.status.success(), "{told}\n{}", String::from_utf8_lossy(&tested.stderr));
    assert!(told.contains("\ncomplete  yes\n") && told.contains("\nshared    yes\n"), "{told}");
}

fn created_at(record: &Value) -> &str {
    record["created_at"].as_str().expect("a record was created")
}

#[test]
fn nothing_confirmed_is_lost_when_the_worker_is_killed() {
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    let setup = by_path(&redis, built.path());
    let confirmations = Confirmations::listen(&redis);
    let mut random = fastrand::Rng::with_seed(51);
    let mut confirmed: BTreeSet<(String, String)> = BTreeSet::new();

    for kill in 0..KILLS {
        let worker = setup.start_unready();
        let first = probe_until_confirmed(&redis, &confirmations, kill);
        let mut load = Load::start(&redis, 900 + kill, 3000);
        eventually(SOON, "confirmations under load", || confirmations.count() > first + 100);
        std::thread::sleep(Duration::from_millis(random.u64(0..100)));

        let log = worker.kill();

        load.stop();
        let errors: Vec<Value> = log.entries().into_iter().filter(|entry| entry["level"] == "error").collect();
        assert!(errors.is_empty(), "kill {kill}: {errors:?}");
        confirmed.extend(confirmations.take().iter().map(|found| found.about()));
    }

    assert!(confirmed.len() > 100 * usize::try_from(KILLS).expect("a small number"), "{}", confirmed.len());
    assert_stored(&setup.start(), &confirmed);
}

/// Each takes every event, so both merge the same evaluations at the same time.
#[test]
fn two_workers_share_one_database() {
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    let setup = by_path(&redis, built.path());
    let one = setup.start();
    let setup = setup.set("journal.path", "journal-of-the-other");
    let other = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut generator = Generator::new(12);
    let (events, mixed) = generated(&mut generator);

    Publisher::new(&redis).publish(&mixed);

    confirmations.wait_for(2 * mixed.len(), SOON);
    for (id, expected) in &expected(&events, 0) {
        compare(&one, id, expected);
        compare(&other, id, expected);
    }
    let created = confirmations.take().iter().filter(|found| found.text("result") == "created").count();
    assert!(created >= EVALUATIONS, "{created}");
    assert!(setup.dead_letters().is_empty());

    // The one that stays goes on with what the other leaves.
    one.terminate(SOON);
    let (events, mixed) = generated(&mut generator);
    Publisher::new(&redis).publish(&mixed);
    confirmations.wait_for(mixed.len(), SOON);
    for (id, expected) in &expected(&events, 0) {
        compare(&other, id, expected);
    }
    other.terminate(SOON);
    assert!(setup.path("evaluations.db").exists());
    assert!(!setup.path("evaluations.db-wal").exists(), "the last one to close brings the log into the database");
}

#[test]
fn commands_read_it_without_a_worker_and_leave_it_as_it_was() {
    let redis = RedisServer::start();
    let built = tempfile::tempdir().expect("make a temporary directory");
    let setup = by_path(&redis, built.path());
    let list =
        || setup.command(&["list", "--all", "--output", "json"]).stdin(Stdio::null()).output().expect("it starts");

    let nothing = list();
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing is stored in"), "{nothing:?}");
    assert!(!nothing.status.success());
    assert!(!setup.path("evaluations.db").exists(), "reading makes no database");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let (_, mixed) = generated(&mut Generator::new(14));
    Publisher::new(&redis).publish(&mixed);
    confirmations.wait_for(mixed.len(), SOON);
    worker.terminate(SOON);
    let before = std::fs::read(setup.path("evaluations.db")).expect("read the database");

    let listed = list();

    assert!(listed.status.success(), "{listed:?}");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed["evaluations"].as_array().map(Vec::len), Some(EVALUATIONS));
    assert!(std::fs::read(setup.path("evaluations.db")).expect("read the database") == before);
    assert!(!setup.path("evaluations.db-wal").exists() && !setup.path("evaluations.db-shm").exists());
}
