//! Redis behind a sentinel: the worker finds the primary, and follows when another one takes over.

use std::process::{Command, Stdio};

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::process::{Process, find_program};
use storage_worker_tests::redis_server::{RedisServer, free_port};
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use tempfile::TempDir;

use super::{STREAM, setup, wait_until_settled};
use crate::SOON;

const NAME: &str = "main";

fn failed(id: &str) -> Sent {
    Sent::new("evaluation:failed", &json!({"eval_id": id, "error": "x"}))
}

/// A sentinel that watches a primary, alone and so quick to decide.
struct Sentinel {
    port: u16,
    _process: Process,
    _directory: TempDir,
}

impl Sentinel {
    fn start(primary: &RedisServer) -> Self {
        let (directory, port) = (tempfile::tempdir().expect("make a temporary directory"), free_port());
        let config = directory.path().join("sentinel.conf");
        let lines = [
            format!("port {port}\nbind 127.0.0.1\ndir {}", directory.path().display()),
            format!("sentinel monitor {NAME} 127.0.0.1 {} 1", primary.port()),
            format!("sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 10000\n"),
        ];
        std::fs::write(&config, lines.join("\n")).expect("write the configuration");
        let program = find_program("redis-server").expect("redis-server is not installed; run `make setup`");
        let mut command = Command::new(program);
        command.arg(&config).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
        let sentinel = Self { port, _process: Process::start(&mut command), _directory: directory };
        eventually(SOON, "the sentinel to know a replica", || sentinel.replicas() == Some(1));
        sentinel
    }

    /// How many replicas it knows of, if it answers.
    fn replicas(&self) -> Option<usize> {
        let mut connection =
            redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).ok()?.get_connection().ok()?;
        let found: Vec<redis::Value> = redis::cmd("SENTINEL").arg(&["REPLICAS", NAME]).query(&mut connection).ok()?;
        Some(found.len())
    }
}

#[test]
fn a_failover_is_followed_without_a_restart() {
    let mut primary = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port())]);
    let sentinel = Sentinel::start(&primary);
    // The first of them is none: the next is asked.
    let url = format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/{NAME}", free_port(), sentinel.port);
    let worker = setup(&primary, "memory", "a").set("redis.url", url).start();
    let mut stream = Stream::new(&primary, STREAM);
    stream.add(&[failed("before")]);
    wait_until_settled(&mut stream);
    redis::cmd("WAIT").arg(&["1", "10000"]).exec(&mut primary.connect()).expect("wait for the replica");

    primary.kill();

    let is_primary = || {
        let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut replica.connect()).expect("a role");
        role.first() == Some(&redis::Value::BulkString(b"master".to_vec()))
    };
    eventually(SOON * 2, "the replica to take over", is_primary);
    // Redis ends the connections that it had as a replica.
    let mut stream = Stream::new(&replica, STREAM);
    let confirmations = Confirmations::listen(&replica);
    stream.add(&[failed("after")]);
    eventually(SOON, "what came afterwards to be stored", || worker.record("after").is_some());
    wait_until_settled(&mut stream);
    confirmations.wait_for(1, SOON);
    assert!(worker.record("before").is_some());
    eventually(SOON, "the worker to be well", || worker.http().get("/health").status == 200);
}
