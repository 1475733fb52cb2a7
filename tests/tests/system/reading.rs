//! What an operator reads with commands: from the worker that runs, and from its files when none does.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::worker::Setup;

use crate::SOON;

const EVALUATIONS: usize = 25;

fn run(setup: &Setup, arguments: &[&str]) -> Output {
    setup.command(arguments).stdin(Stdio::null()).output().expect("the command starts")
}

#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// What every way of reading must show.
#[track_caller]
fn assert_readable(setup: &Setup, options: &[&str]) {
    let with = |arguments: &[&'static str]| {
        let all: Vec<&str> = arguments.iter().copied().chain(options.iter().copied()).collect();
        run(setup, &all)
    };

    let record: Value = serde_json::from_str(&text(&with(&["get", "e-7", "--output", "json"]))).expect("JSON");
    assert_eq!(record["evaluation"]["code"], "print(7)");
    assert_eq!(record["events"].as_array().map(Vec::len), Some(1));
    let shown = text(&with(&["get", "e-7"]));
    assert!(shown.starts_with("id                e-7\nstatus            queued\n"), "{shown}");
    assert!(shown.contains("\ncode:\n  print(7)\n"), "{shown}");

    let listed: Value = serde_json::from_str(&text(&with(&["list", "--all", "--output", "json"]))).expect("JSON");
    let ids: Vec<_> = listed["evaluations"].as_array().expect("a list").iter().map(|e| e["id"].clone()).collect();
    let newest_first: Vec<_> = (0..EVALUATIONS).rev().map(|number| json!(format!("e-{number}"))).collect();
    assert_eq!(ids, newest_first);
    let table = text(&with(&["list", "--limit", "3", "--status", "queued"]));
    assert_eq!(table.lines().count(), 5, "{table}");
    assert_eq!(text(&with(&["list", "--status", "failed"])), "no evaluations\n");

    let absent = with(&["get", "nobody"]);
    assert_eq!(absent.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&absent.stderr), "error: there is no evaluation `nobody`\n");
}

#[test]
fn evaluations_are_read_through_the_worker_and_without_one() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "file");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let event = |number: usize| {
        let time = format!("2025-01-01T00:00:{number:02}Z");
        let payload =
            json!({ "eval_id": format!("e-{number}"), "code": format!("print({number})"), "timestamp": time });
        Sent::new("evaluation:queued", &payload)
    };
    Publisher::new(&redis).publish(&(0..EVALUATIONS).map(event).collect::<Vec<_>>());
    confirmations.wait_for(EVALUATIONS, SOON);

    let listen = format!("admin.listen={}", worker.admin_address());
    assert_readable(&setup, &["--set", &listen]);
    let explained = text(&run(&setup, &["explain", "--running", "--set", &listen]));
    assert!(explained.starts_with("main (file "), "{explained}");
    assert!(explained.contains("Guarantee: durable."), "{explained}");
    assert!(explained.contains("Pub/sub: journal always: "), "{explained}");

    // Without a worker's address the command opens the files itself, and finds that they are in use.
    let refused = run(&setup, &["get", "e-7", "--set", "storage.open_timeout=1s"]);
    let reason = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{reason}");
    assert!(reason.contains("so storage is opened here: ") && reason.contains("backend `main`"), "{reason}");
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "{log}");
    assert_readable(&setup, &[]);
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let redis = RedisServer::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let setup = Setup::new(&redis.url(), "memory").set("http.listen", address.as_str());

    let output = run(&setup, &["run"]);

    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let log = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(log.contains(&format!("cannot listen on `{address}`, which `http.listen` names")), "{log}");
}
