//! A change is cut short, or cuts something short: by the end of the worker, by a kill, during the first opening.

use rustix::process::Signal;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::http::Http;
use storage_worker_tests::load::Load;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use super::{HOSTILE_OPENS, assert_stored, generation, queued, two_stores, wait_for_log, with_hostile};
use crate::SOON;

/// Asks for a change and does not wait for its end.
fn begin_reload(setup: &Setup, worker: &Worker) -> std::thread::JoinHandle<()> {
    setup.write();
    let http = Http::new(worker.admin_address());
    std::thread::spawn(move || {
        // What is answered, if anything, is not what these tests are about.
        let _ = http.try_post("/reload");
    })
}

/// A layer that takes its time to open over files; another `sync` of the files hands them over, and so lasts.
fn slowly_handed_over(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "switch");
    let (data, away) = (setup.path("data").display().to_string(), setup.path("away").display().to_string());
    setup
        .set("backends.main.children.inner", "files")
        .set("backends.main.options.away_while", away)
        .set("backends.files.plugin", "file")
        .set("backends.files.options.path", data)
}

/// Begins the hand-over, and is back when the files are open anew and the layer is not.
fn begin_hand_over(setup: Setup, worker: &Worker) -> (Setup, std::thread::JoinHandle<()>) {
    let setup = setup.set("backends.files.options.sync", "none").set("backends.main.options.open_slow_ms", 3000);
    let reload = begin_reload(&setup, worker);
    let is_handed_over = || {
        let opened = worker.log().all("storage.backend_opened");
        opened.iter().filter(|entry| entry["backend"] == "files").count() == 2
    };
    eventually(SOON, "the files to be open anew", is_handed_over);
    (setup, reload)
}

#[test]
fn a_worker_that_is_told_to_end_during_a_reload_stores_what_it_has_received() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis).set("storage.open_timeout", "60s");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 31, 1000);
    eventually(SOON, "some load", || load.handed_on().len() > 300);
    let setup = with_hostile(setup.set("storage.backend", "hostile"), "open", "hang");
    let reload = begin_reload(&setup, &worker);
    wait_for_log(&worker, HOSTILE_OPENS, 1);

    let (status, log) = worker.terminate(SOON);

    assert_eq!(status.code(), Some(0), "{log}");
    reload.join().expect("it is answered, or cut off");
    let received = load.stop();
    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    let setup = setup.set("storage.backend", "main");
    let worker = setup.start();
    assert_stored(&worker, &received);
}

#[test]
fn a_worker_that_is_told_to_end_during_a_hand_over_stores_what_it_has_received() {
    let redis = RedisServer::start();
    let setup = slowly_handed_over(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 32, 1000);
    eventually(SOON, "some load", || load.handed_on().len() > 300);
    let (setup, reload) = begin_hand_over(setup, &worker);

    let (status, log) = worker.terminate(SOON);

    assert_eq!(status.code(), Some(0), "{log}");
    reload.join().expect("it is answered, or cut off");
    let received = load.stop();
    eventually(SOON, "every event to be confirmed", || received.is_subset(&confirmations.events()));
    let setup = setup.set("backends.main.options.open_slow_ms", 0);
    let worker = setup.start();
    assert_stored(&worker, &received);
}

#[test]
fn a_worker_that_is_killed_during_a_hand_over_has_what_it_confirmed() {
    let redis = RedisServer::start();
    let setup = slowly_handed_over(&redis);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let _load = Load::start(&redis, 33, 1000);
    eventually(SOON, "some load", || confirmations.count() > 300);
    let (setup, reload) = begin_hand_over(setup, &worker);

    worker.kill();

    reload.join().expect("it is cut off");
    let confirmed = confirmations.events();
    let setup = setup.set("backends.main.options.open_slow_ms", 0);
    let worker = setup.start();
    assert_stored(&worker, &confirmed);
}

#[test]
fn a_hangup_ends_the_wait_for_a_first_opening_that_lasts() {
    let redis = RedisServer::start();
    let setup = two_stores(&redis).set("storage.open_timeout", "60s").set("storage.backend", "hostile");
    let setup = with_hostile(setup, "open", "hang");
    let worker = setup.start_unready();
    let confirmations = Confirmations::listen(&redis);
    wait_for_log(&worker, HOSTILE_OPENS, 1);
    wait_for_log(&worker, "subscribed", 1);
    Publisher::new(&redis).publish(&[queued("waits-1")]);

    let setup = setup.set("storage.backend", "main");
    setup.write();
    worker.signal(Signal::HUP);

    let confirmation = confirmations.wait_for(1, SOON).remove(0);
    assert_eq!((confirmation.text("backend"), &confirmation.body["generation"]), ("main", &2.into()));
    assert_eq!(generation(&worker), 2);
    assert!(worker.record("waits-1").is_some());
    let (status, log) = worker.terminate(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
}
