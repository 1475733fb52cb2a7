//! The kit itself: what it starts stops, and what it says is so.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::gate::Gate;
use storage_worker_tests::process::Process;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;

use crate::SOON;

#[test]
fn a_redis_that_was_killed_comes_back_on_its_port_with_its_data() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    redis::cmd("SET").arg("key").arg("value").exec(&mut redis.connect()).expect("set a key");

    redis.kill();
    assert!(redis.try_connect().is_err());
    redis.restart();

    assert_eq!(redis.url(), url);
    let value: String = redis::cmd("GET").arg("key").query(&mut redis.connect()).expect("get the key");
    assert_eq!(value, "value");
}

#[test]
fn confirmations_are_heard_again_after_redis_was_away() {
    let mut redis = RedisServer::start();
    let confirmations = Confirmations::listen(&redis);
    let confirmation = Sent::new("storage:evaluation:created", &json!({"eval_id": "e", "event_id": "1"}));

    redis.restart();
    confirmations.wait_for_subscription(2);
    Publisher::new(&redis).publish(&[confirmation]);

    let received = confirmations.wait_for(1, SOON);
    assert_eq!(received[0].about(), ("e".to_owned(), "1".to_owned()));
}

#[test]
fn a_closed_gate_lets_nobody_through() {
    let redis = RedisServer::start();
    let gate = Gate::open_to(redis.port());
    let client = redis::Client::open(gate.redis_url()).expect("a Redis URL");
    let ping = |connection: &mut redis::Connection| redis::cmd("PING").query::<String>(connection);
    let mut connection = client.get_connection().expect("the gate is open");
    assert_eq!(ping(&mut connection).expect("the gate is open"), "PONG");

    gate.close();

    assert!(ping(&mut connection).is_err());
    assert!(client.get_connection().is_err());
    gate.open();
    assert!(client.get_connection().is_ok());
}

#[test]
fn a_dropped_process_is_gone() {
    let mut process = Process::start(Command::new("sleep").arg("600"));
    let id = process.id();
    assert!(process.is_running());
    assert!(process.wait(Duration::from_millis(50)).is_none());

    drop(process);

    let id = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    assert!(rustix::process::test_kill_process(id).is_err());
}
