//! Commands about dead letters that meet each other, a kill, or a file that somebody else has written into.

use std::io::Write;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use super::{letters, matched, start};
use crate::SOON;

fn bad(number: u32) -> Sent {
    Sent::new("evaluation:queued", &json!({"eval_id": format!("e-{number}"), "source": format!("print({number})")}))
}

/// A worker, and so many letters that lack their code.
fn with_letters(redis: &RedisServer, count: u32, more: impl FnOnce(Setup) -> Setup) -> (Setup, Worker) {
    let (setup, worker) = start(more(Setup::new(&redis.url(), "file")));
    Publisher::new(redis).publish(&(0..count).map(bad).collect::<Vec<_>>());
    eventually(SOON, "the letters", || setup.dead_letters().len() == count as usize);
    (setup, worker)
}

fn outcomes(output: &Output, which: &str) -> usize {
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    said["letters"].as_array().map_or(0, |all| all.iter().filter(|one| one["outcome"] == which).count())
}

#[test]
fn two_people_who_retry_the_same_letters_at_once_store_each_and_lose_none() {
    let redis = RedisServer::start();
    let (setup, worker) = with_letters(&redis, 600, |setup| setup);
    letters(&setup, 0, &["edit", ".code = .source", "--all"]);

    let retry = || setup.command(&["dead-letters", "retry", "--all", "--output", "json"]).output().expect("run it");
    let both = std::thread::scope(|scope| {
        [scope.spawn(retry), scope.spawn(retry)].map(|thread| thread.join().expect("it does not panic"))
    });

    for output in &both {
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(outcomes(output, "parked"), 0);
    }
    assert!(both.iter().map(|output| outcomes(output, "stored")).sum::<usize>() >= 600);
    assert_eq!(matched(&setup, &[]), json!(0));
    for number in [0, 299, 599] {
        let id = format!("e-{number}");
        assert_eq!(worker.record(&id).expect("stored")["code"], format!("print({number})"));
        assert_eq!(worker.history(&id).len(), 1, "tried twice is stored once");
    }
}

#[test]
fn a_worker_that_is_killed_in_the_middle_of_a_retry_loses_no_letter() {
    let redis = RedisServer::start();
    let slow = |setup: Setup| {
        let (data, away) = (setup.path("data").display().to_string(), setup.path("away").display().to_string());
        setup
            .set("backends.main.plugin", "switch")
            .set("backends.main.children.inner", "files")
            .set(
                "backends.main.options",
                toml::Table::from_iter([("away_while".to_owned(), away.into()), ("slow_ms".to_owned(), 1500.into())]),
            )
            .set("backends.files.plugin", "file")
            .set("backends.files.options.path", data)
    };
    let (setup, worker) = with_letters(&redis, 400, slow);
    letters(&setup, 0, &["edit", ".code = .source", "--all"]);

    let mut retrying = setup.start_command(&["dead-letters", "retry", "--all"]);
    eventually(SOON, "some to be stored", || matched(&setup, &[]).as_u64() < Some(400));
    worker.kill();
    let (status, log) = retrying.wait(SOON);
    assert!(status.code() == Some(1) && log.lines().concat().contains("stopped after"), "{log}");
    let left = setup.command(&["dead-letters", "list", "--output", "json"]).output().expect("run it");
    let left: Value = serde_json::from_slice(&left.stdout).expect("JSON");
    assert!(left["matched"].as_u64() > Some(0), "it was killed in the middle");

    let (setup, worker) = start(setup.set("admin.listen", "127.0.0.1:0"));
    letters(&setup, 0, &["retry", "--all"]);

    assert_eq!(matched(&setup, &[]), json!(0));
    for number in 0..400 {
        let code = worker.record(&format!("e-{number}")).expect("stored")["code"].clone();
        assert_eq!(code, format!("print({number})"));
    }
}

/// How many are edited, once the worker is done with what the killed command had sent already.
fn edited_in_the_end(setup: &Setup) -> u64 {
    let edited = || matched(setup, &["--state", "edited"]).as_u64().expect("a number");
    let mut before = edited();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = edited();
        if now == before {
            return now;
        }
        before = now;
    }
}

#[test]
fn an_edit_that_is_killed_can_be_finished_for_the_letters_that_it_did_not_reach() {
    let redis = RedisServer::start();
    let (setup, worker) = with_letters(&redis, 2000, |setup| setup);
    let expression = ".code = .source | del(.source)";

    let editing = setup.start_command(&["dead-letters", "edit", expression, "--all"]);
    eventually(SOON, "some to be edited", || matched(&setup, &["--state", "edited"]).as_u64() > Some(0));
    editing.kill();
    let edited = edited_in_the_end(&setup);
    let rest = letters(&setup, 0, &["edit", expression, "--state", "dead"]);

    assert_eq!(rest["edited"].as_u64(), Some(2000 - edited), "each is edited once");
    letters(&setup, 0, &["retry", "--all"]);
    assert_eq!(matched(&setup, &[]), json!(0));
    for number in [0, 1000, 1999] {
        assert_eq!(worker.record(&format!("e-{number}")).expect("stored")["code"], format!("print({number})"));
    }
}

/// What somebody else wrote into the file is counted and left out; the letters before and behind it are whole.
#[test]
fn garbage_in_the_file_costs_no_letter() {
    let redis = RedisServer::start();
    let (setup, worker) = with_letters(&redis, 3, |setup| setup);
    let path = setup.path("dead-letters.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("it is there");
    let huge = "x".repeat(8 << 20);
    let deep = "[".repeat(100_000);
    let parts: [&[u8]; 6] = [
        b"\xff\x00\xfe\n",
        huge.as_bytes(),
        b"\n",
        deep.as_bytes(),
        b"\n{\"action\":\"explode\",\"id\":\"x\"}\n",
        b"{\"chan",
    ];
    file.write_all(&parts.concat()).expect("write it");
    Publisher::new(&redis).publish(&[bad(3)]);
    let counted = || worker.http().metric("storage_worker_dead_letters_total", &["reason=\"missing_field\""]);
    eventually(SOON, "one more letter", || counted() == 4.0);

    let listed = letters(&setup, 0, &["list"]);

    assert_eq!((&listed["matched"], &listed["unreadable"]), (&json!(4), &json!(5)), "{listed}");
    letters(&setup, 0, &["edit", ".code = .source", "--all"]);
    letters(&setup, 0, &["retry", "--all"]);
    assert_eq!(matched(&setup, &[]), json!(0));
    assert!((0..4).all(|number| worker.record(&format!("e-{number}")).is_some()));
}

#[test]
fn a_letter_that_is_not_there_is_named() {
    let redis = RedisServer::start();
    let (setup, _worker) = with_letters(&redis, 1, |setup| setup);
    let id = setup.dead_letters()[0]["id"].as_str().expect("an id").to_owned();

    let shown = setup.command(&["dead-letters", "show", &id, "0123"]).output().expect("run it");
    let retried = letters(&setup, 0, &["drop", "--id", "0123"]);

    let said = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(shown.status.code() == Some(1) && said.contains("`0123`") && !said.contains(&id), "{said}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&id));
    assert_eq!(retried["letters"], json!([{"id": "0123", "outcome": "gone"}]));
}
