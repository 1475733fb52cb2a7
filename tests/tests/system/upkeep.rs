//! `copy`, `diff` and `prune` as operators run them: with and without a worker, cut short, and asked for what is not there.

use std::process::{Child, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::{RedisServer, free_port};
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use crate::SOON;

/// So many evaluations are in the first store.
const EVALUATIONS: usize = 400;

/// Two stores of files, of which `main` holds some evaluations.
fn filled(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "file");
    let other = setup.path("other").display().to_string();
    let setup = setup
        .set("admin.listen", format!("127.0.0.1:{}", free_port()))
        .set("backends.other.plugin", "file")
        .set("backends.other.options.path", other);
    let worker = setup.start();
    let confirmations = Confirmations::listen(redis);
    let mut generator = Generator::new(71);
    let events: Vec<Sent> = (0..EVALUATIONS).flat_map(|_| generator.lifecycle()).collect();
    Publisher::new(redis).publish(&events);
    confirmations.wait_for(events.len(), SOON);
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "{log}");
    setup
}

fn run(setup: &Setup, arguments: &[&str]) -> Output {
    setup.command(arguments).output().expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON that a command answers, and its exit code.
#[track_caller]
fn answer(output: &Output) -> (Option<i32>, Value) {
    let json = serde_json::from_slice(&output.stdout);
    (output.status.code(), json.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

/// A slow copy that has got somewhere.
fn copy_under_way(setup: &Setup) -> Child {
    let arguments = ["copy", "--from", "main", "--to", "other", "--resume", "place", "--output", "json"];
    let mut command = setup.command(&[&arguments[..], &["--batch", "5", "--rate", "50"]].concat());
    let child = command.stdin(Stdio::null()).spawn().expect("the command starts");
    eventually(SOON, "a part to be copied", || setup.path("place").exists());
    child
}

#[track_caller]
fn assert_goes_on(setup: &Setup) {
    let rest = run(setup, &["copy", "--from", "main", "--to", "other", "--resume", "place", "--output", "json"]);
    let (code, rest) = answer(&rest);
    assert_eq!((code, &rest["complete"], &rest["after"]), (Some(0), &json!(true), &Value::Null), "{rest}");
    let copied = rest["copied"].as_u64().expect("a number");
    assert!(0 < copied && copied < EVALUATIONS as u64, "it goes on where the first one ended: {rest}");
    assert!(!setup.path("place").exists(), "the place of what is done is of no use");
    let same = run(setup, &["diff", "main", "other", "--output", "json"]);
    let (code, same) = answer(&same);
    assert_eq!((code, &same["compared"], &same["differences"]), (Some(0), &json!(EVALUATIONS), &json!([])), "{same}");
}

#[test]
fn a_copy_that_is_killed_goes_on_where_it_was() {
    let redis = RedisServer::start();
    let setup = filled(&redis);
    let mut copy = copy_under_way(&setup);

    copy.kill().expect("it runs");
    copy.wait().expect("it is ours");

    assert_goes_on(&setup);
}

#[test]
fn a_copy_that_is_interrupted_says_where_it_was_and_goes_on_there() {
    let redis = RedisServer::start();
    let setup = filled(&redis);
    let copy = copy_under_way(&setup);

    kill_process(Pid::from_child(&copy), Signal::INT).expect("it runs");

    let (code, ended) = answer(&copy.wait_with_output().expect("it ends"));
    assert_eq!((code, &ended["complete"]), (Some(1), &json!(false)), "{ended}");
    let place: Value = serde_json::from_slice(&std::fs::read(setup.path("place")).expect("it stays")).expect("JSON");
    assert_eq!((&place["place"]["after"], &place["copied"]), (&ended["after"], &ended["copied"]));
    assert_goes_on(&setup);
}

#[test]
fn what_differs_is_named_and_repaired_and_deletes_are_spoken_of() {
    let redis = RedisServer::start();
    let setup = filled(&redis);
    let copied = run(&setup, &["copy", "--from", "main", "--to", "other"]);
    assert!(text(&copied.stdout).contains(&format!("{EVALUATIONS} new there")), "{copied:?}");

    // Everything has ended, long ago.
    let pruned = run(&setup, &["prune", "other", "--older-than", "1d", "--output", "json"]);
    let (code, pruned) = answer(&pruned);
    assert_eq!((code, &pruned["complete"]), (Some(0), &json!(true)), "{pruned}");
    let removed = pruned["removed"].as_u64().expect("a number");
    assert!(removed > 0, "{pruned}");
    let differ = run(&setup, &["diff", "main", "other"]);
    assert_eq!(differ.status.code(), Some(1));
    let said = text(&differ.stdout);
    assert_eq!(said.matches("  only in `main`").count() as u64, removed, "{said}");
    assert!(said.contains(&format!("{removed} of {EVALUATIONS} evaluations differ")), "{said}");
    assert!(said.contains("a delete leaves no trace"), "{said}");

    let repaired = run(&setup, &["diff", "main", "other", "--repair", "--output", "json"]);
    let (code, repaired) = answer(&repaired);
    assert_eq!((code, &repaired["repaired"]), (Some(0), &json!(removed)));
    assert_eq!(repaired["differences"].as_array().map(Vec::len), usize::try_from(removed).ok());
    let same = run(&setup, &["diff", "main", "other"]);
    assert_eq!(same.status.code(), Some(0));
    assert!(text(&same.stdout).contains("deleted in both cannot be seen"), "{same:?}");
}

#[test]
fn with_running_nothing_is_opened_here() {
    let redis = RedisServer::start();
    let setup = filled(&redis);

    let none = run(&setup, &["copy", "--running", "--give-up-after", "1s", "--from", "main", "--to", "other"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("nothing listens on `127.0.0.1:"), "{none:?}");
    assert!(!setup.path("other").exists());

    let worker = setup.start();
    let elsewhere = run(&setup, &["diff", "--running", "main", "other"]);
    assert_eq!(elsewhere.status.code(), Some(2));
    let said = text(&elsewhere.stderr);
    assert!(said.contains("the running worker has no backend `other` in its tree; it has: `main`"), "{said}");
    // Without it what the worker does not have is opened here, and what it has is reached through it.
    let copied = run(&setup, &["copy", "--from", "main", "--to", "other", "--output", "json"]);
    assert_eq!(answer(&copied).1["created"], EVALUATIONS);
    let (status, log) = worker.terminate(Duration::from_secs(30));
    assert!(status.success(), "{log}");
}

#[test]
fn names_that_cannot_be_meant_are_refused_with_those_that_can() {
    let redis = RedisServer::start();
    let setup = filled(&redis);
    let cases: [(&[&str], &str); 4] = [
        (&["copy", "--from", "main", "--to", "main"], "both backends are `main`; name two"),
        (&["diff", "main", "othr"], "there is no backend `othr`; did you mean `other`?"),
        (&["prune", "mai", "--older-than", "1d"], "there is no backend `mai`; did you mean `main`?"),
        (&["prune", "main", "--older-than", "old"], "invalid value 'old' for '--older-than <TIME>'"),
    ];
    for (arguments, expected) in cases {
        let output = run(&setup, arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains(expected), "expected: {expected}\nsaid: {}", text(&output.stderr));
    }
    assert!(!setup.path("other").exists(), "nothing was opened");
}
