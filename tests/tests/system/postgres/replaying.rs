//! Everything that a live worker took, replayed twice into a fresh database while it goes on, equals what it stored.

use std::process::Output;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::load::Load;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use super::setup;
use crate::SOON;

const STREAM: &str = "evaluation:events";

/// Sets of events before the live ones; `make soak` has more.
fn sets() -> usize {
    std::env::var("REPLAY_SETS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

/// A worker, and beside its database a fresh one.
fn start(redis: &RedisServer, server: &PostgresServer, more: impl FnOnce(Setup) -> Setup) -> (Setup, Worker) {
    server.connect().run("CREATE DATABASE fresh");
    let setup = more(setup(redis, server));
    let worker = setup.start();
    let admin = worker.admin_address().to_owned();
    let setup = setup
        .set("admin.listen", admin)
        .set("backends.fresh.plugin", "postgres")
        .set("backends.fresh.options.url", server.url_of("fresh"))
        .set("backends.fresh.options.durability", "durable");
    (setup, worker)
}

#[track_caller]
fn answer(output: &Output, code: i32) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn run(setup: &Setup, arguments: &[&str]) -> Output {
    setup.command(&[arguments, &["--output", "json"]].concat()).output().expect("run the command")
}

/// Odd and repeated events in any order, and some whose time is that of their arrival.
fn events() -> Vec<Sent> {
    let mut generator = Generator::new(31);
    let sets: Vec<Sent> = (0..sets()).flat_map(|_| generator.any_set()).collect();
    let mut mixed = generator.shuffle_and_repeat(&sets);
    mixed.extend(
        (0..20).map(|number| {
            Sent::new("evaluation:failed", &json!({"eval_id": format!("timeless-{number}"), "error": "x"}))
        }),
    );
    mixed
}

/// Everything is stored; nothing more comes.
fn assert_equal(setup: &Setup, server: &PostgresServer) {
    let said = answer(&run(setup, &["diff", "main", "fresh"]), 0);
    assert_eq!(said["differences"], json!([]), "{said}");
    let count = |url: &str| {
        let database = storage_worker_tests::postgres_server::Database::connect(url).expect("it answers");
        database.number("SELECT count(*) FROM evaluations")
    };
    let (live, fresh) = (count(&server.url()), count(&server.url_of("fresh")));
    assert_eq!(live, fresh);
    eprintln!("{live} evaluations, equal in both");
}

#[test]
fn a_stream_that_is_replayed_twice_into_a_fresh_database_equals_the_live_one() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let (setup, worker) = start(&redis, &server, |setup| {
        setup
            .set("source.streams.streams", vec![STREAM])
            .set("source.streams.block", "100ms")
            .set("source.pubsub.enabled", false)
            .set("worker.name", "a")
    });
    let mut stream = Stream::new(&redis, STREAM);
    let mut added = events();
    stream.add(&added);
    let done = std::sync::atomic::AtomicBool::new(false);
    let live = std::thread::scope(|scope| {
        let live = scope.spawn(|| {
            let (mut generator, mut stream, mut added) = (Generator::new(32), Stream::new(&redis, STREAM), Vec::new());
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let events = generator.any_set();
                stream.add(&events);
                added.extend(events);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            added
        });
        let replayed = run(&setup, &["replay", "--stream", STREAM, "--into", "fresh"]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        answer(&replayed, 0);
        live.join().expect("it does not panic")
    });
    added.extend(live);

    let second = answer(&run(&setup, &["replay", "--stream", STREAM, "--into", "fresh"]), 0);

    assert_eq!((&second["stored"], &second["refused"]), (&json!(added.len()), &json!(0)));
    eventually(SOON, "everything to be acknowledged", || {
        worker.http().get("/health").json()["events_processed"].as_u64() >= Some(added.len() as u64)
    });
    assert_equal(&setup, &server);
}

#[test]
fn an_archive_that_is_replayed_twice_into_a_fresh_database_equals_the_live_one() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let (setup, worker) =
        start(&redis, &server, |setup| setup.set("journal.archive", true).set("journal.max_bytes", "8MiB"));
    let confirmations = Confirmations::listen(&redis);
    let sent = events();
    // No more at once than a small machine takes in the time that Redis gives a subscriber.
    for chunk in sent.chunks(2000) {
        let done = confirmations.count() + chunk.len();
        Publisher::new(&redis).publish(chunk);
        confirmations.wait_for(done, SOON);
    }
    let mut load = Load::start(&redis, 33, 300);
    eventually(SOON, "live events", || load.handed_on().len() > 100);
    let journal = setup.path("journal").display().to_string();

    answer(&run(&setup, &["replay", "--journal", &journal, "--into", "fresh"]), 0);
    let live = load.stop();
    eventually(SOON, "everything to be stored", || {
        live.is_subset(&confirmations.events()) && crate::journal::entries(&worker) == 0
    });
    let second = answer(&run(&setup, &["replay", "--journal", &journal, "--into", "fresh"]), 0);

    assert!(second["stored"].as_u64() >= Some((sent.len() + live.len()) as u64), "{second}");
    assert_equal(&setup, &server);
}
