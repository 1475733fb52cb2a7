//! Redis goes away and comes back: the worker stays, says so, and nothing confirmed or received is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::gate::Gate;
use storage_worker_tests::load::Load;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::{RedisServer, free_port};
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;
use crate::shutdown::assert_stored;

#[test]
fn redis_is_killed_and_restarted_under_load() {
    let mut redis = RedisServer::start();
    // The listener is to be back before the worker, so that it sees what the worker confirms first.
    let gate = Gate::open_to(redis.port());
    let setup = Setup::new(&gate.redis_url(), "file").set("redis.reconnect_max", "500ms");
    let mut worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut load = Load::start(&redis, 3, 2000);

    // What Redis was told to hand on in the last moment before it was killed may have died with it.
    let mut at_risk = BTreeSet::new();

    for outage in 1..=3 {
        let before = confirmations.count();
        eventually(SOON, "the load to be confirmed", || confirmations.count() > before + 2000);
        gate.close_to_new();
        let received = load.handed_on();
        // What a busy machine leaves in the buffers of Redis dies with it.
        eventually(SOON, "the worker to have read it", || {
            received.difference(&confirmations.events()).count() < MOST_UNHEARD
        });
        redis.kill();
        let attempts = load.attempts();
        eventually(SOON, "the worker to notice", || worker.http().get("/health").status == 503);
        assert_eq!(worker.http().get("/health").json()["redis"], "unhealthy");
        assert_eq!(worker.http().get("/livez").status, 200);
        eventually(SOON, "events that nobody hears", || load.attempts() > attempts + 100);
        redis.restart();
        confirmations.wait_for_subscription(outage + 1);
        at_risk.extend(load.handed_on().difference(&received).cloned());
        gate.open();

        eventually(SOON, "everything received before the outage to be confirmed", || {
            are_settled(&received, &confirmations, &worker)
        });
        eventually(SOON, "the worker to be well again", || {
            worker.http().get("/health").status == 200 && worker.is_ready()
        });
        assert!(worker.is_running());
    }

    let received: BTreeSet<_> = load.stop().difference(&at_risk).cloned().collect();
    eventually(SOON, "everything received to be confirmed", || are_settled(&received, &confirmations, &worker));
    assert_stored(&worker, &confirmations.events());
    let (status, log) = worker.terminate(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0), "{log}");
}

/// How many events the worker may not have confirmed, or not to anybody, when Redis is killed.
const MOST_UNHEARD: usize = 200;

/// True if all are confirmed, but for a few whose confirmations Redis took and then died with: those are stored.
fn are_settled(received: &BTreeSet<(String, String)>, confirmations: &Confirmations, worker: &Worker) -> bool {
    let confirmed = confirmations.events();
    let unheard: Vec<_> = received.difference(&confirmed).collect();
    let is_stored =
        |id: &str, event: &str| worker.history_if_any(id).into_iter().flatten().any(|entry| entry["event_id"] == event);
    unheard.len() < MOST_UNHEARD && unheard.iter().all(|(id, event)| is_stored(id, event))
}

#[test]
fn a_worker_starts_without_redis_and_waits_for_it() {
    let gate = Gate::open_to(free_port());
    let setup = Setup::new(&gate.redis_url(), "memory").set("redis.reconnect_max", "500ms");
    let mut worker = setup.start_unready();

    std::thread::sleep(Duration::from_secs(1));

    assert!(worker.is_running());
    assert_eq!(worker.http().get("/livez").status, 200);
    let health = worker.http().get("/health");
    assert_eq!((health.status, &health.json()["redis"]), (503, &json!("unhealthy")));
}

#[test]
fn a_connection_that_is_cut_is_made_again() {
    let redis = RedisServer::start();
    let gate = Gate::open_to(redis.port());
    let setup = Setup::new(&gate.redis_url(), "memory").set("redis.reconnect_max", "500ms");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);

    for cut in 0..5 {
        gate.close();
        gate.open();

        let id = format!("e-{cut}");
        let event = Sent::new("evaluation:completed", &json!({"eval_id": id, "output": "x"}));
        // Again and again: Redis may still count the connection that was cut, and hand the event to nobody.
        eventually(SOON, "the worker to hear again", || {
            let _ = publisher.try_publish(&event);
            confirmations.events().iter().any(|(confirmed, _)| *confirmed == id)
        });
    }

    assert!(worker.is_ready());
}

#[test]
fn passwords_are_not_logged() {
    let redis = RedisServer::start();
    redis::cmd("ACL")
        .arg(&["SETUSER", "worker", "on", ">s3cret-word", "allcommands", "allkeys", "allchannels"])
        .exec(&mut redis.connect())
        .expect("add a user");
    let url = format!("redis://worker:s3cret-word@127.0.0.1:{}", redis.port());

    let worker = Setup::new(&url, "memory").start();

    let health = worker.http().get("/health").body;
    let (_, log) = worker.terminate(SOON);
    assert!(!log.lines().concat().contains("s3cret-word"), "{log}");
    assert!(!health.contains("s3cret-word"), "{health}");
}

/// They used to be dropped: what Redis says then is no refusal.
#[test]
fn confirmations_wait_while_a_script_keeps_redis_busy() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "switch")
        .set("backends.main.children.inner", "memory")
        .set("backends.memory.plugin", "memory")
        .set("worker.retry_max", "100ms");
    let away = setup.path("away");
    let setup = setup.set("backends.main.options.away_while", away.to_str().expect("Unicode"));
    std::fs::write(&away, "").expect("make the file");
    let worker = setup.start_unready();
    let confirmations = Confirmations::listen(&redis);
    redis::cmd("CONFIG").arg(&["SET", "lua-time-limit", "50"]).exec(&mut redis.connect()).expect("it is set");
    eventually(SOON, "the worker to listen", || worker.http().get("/health").json()["redis"] == "healthy");
    let payload = json!({"eval_id": "busy", "event_id": "b", "code": "x", "timestamp": "2025-01-01T12:00:00Z"});
    Publisher::new(&redis).publish(&[Sent::new("evaluation:queued", &payload)]);
    eventually(SOON, "the event to wait", || worker.http().get("/readyz").body.contains("is there"));
    let mut connection = redis.connect();
    let script = std::thread::spawn(move || {
        redis::cmd("EVAL").arg(&["while true do end", "0"]).query::<redis::Value>(&mut connection)
    });

    let mut other = redis.connect();
    eventually(SOON, "redis to be busy", || {
        redis::cmd("PING").exec(&mut other).is_err_and(|error| error.code() == Some("BUSY"))
    });
    std::fs::remove_file(&away).expect("remove the file");
    eventually(SOON, "redis to be called busy", || {
        worker.log().find("cannot publish confirmations, they are kept until it is back").is_some()
    });
    redis::cmd("SCRIPT").arg("KILL").exec(&mut other).expect("it is killed");

    confirmations.wait_for(1, SOON);
    assert!(script.join().expect("it does not panic").is_err());
}
