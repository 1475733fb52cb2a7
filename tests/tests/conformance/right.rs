//! The plugins that come with the worker do what they claim, and the scorecard says so.

use serde_json::Value;

use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::redis_server::free_port;

use crate::{Kit, with_verdict};

#[track_caller]
pub(crate) fn assert_reached(card: &Value, reached: &[&str]) {
    assert_eq!(with_verdict(card, "failed"), [""; 0], "{}", card["behaviors"]);
    assert_eq!(with_verdict(card, "not_run"), [""; 0], "{}", card["behaviors"]);
    for (level, standing) in card["levels"].as_object().expect("a whole run tells levels") {
        assert_eq!(standing["reached"], reached.contains(&level.as_str()), "{level}: {standing}");
    }
}

#[test]
fn memory_is_basic() {
    let answer = Kit::new().run(&["memory", "--output", "json"]);

    assert_reached(&answer.json(), &["basic"]);
    assert_eq!(answer.code, 0);
}

#[test]
fn file_is_complete() {
    let options = r#"{"path":"{dir}"}"#;
    let answer = Kit::new().run(&["file", "--options", options, "--level", "complete", "--output", "json"]);

    let card = answer.json();
    assert_reached(&card, &["basic", "durable", "complete"]);
    assert_eq!((answer.code, &card["missed"]), (0, &Value::Array(Vec::new())));
}

/// Four processes merge into the same 1000 ids, `SHARED_ROUNDS` times each.
#[test]
fn postgres_is_complete_and_shared() {
    let server = PostgresServer::start_with(&[]);
    let options = format!(r#"{{"url":"{}"}}"#, server.url());
    let away = format!(r#"{{"url":"postgres://postgres@127.0.0.1:{}/postgres"}}"#, free_port());
    let rounds = std::env::var("SHARED_ROUNDS").unwrap_or_else(|_| "3".to_owned());
    let demanded = ["--level", "complete", "--badge", "shared", "--rounds", &rounds, "--timeout", "1200"];
    let arguments = ["postgres", "--options", &options, "--away-options", &away, "--output", "json"];

    let answer = Kit::new().run(&[&arguments[..], &demanded].concat());

    let card = answer.json();
    assert_reached(&card, &["basic", "durable", "complete", "shared"]);
    assert_eq!((answer.code, &card["missed"]), (0, &Value::Array(Vec::new())));
}

#[test]
fn a_backend_of_a_configuration_is_tested_behind_its_guard() {
    let kit = Kit::new();
    let config = kit.cache().join("tree.toml");
    let text = "[storage]\nbackend = \"disk\"\n[backends.disk]\nplugin = \"file\"\noptions = { path = \"{dir}\" }\n";
    std::fs::write(&config, text).expect("write a configuration");
    let config = config.to_str().expect("temporary paths are Unicode");

    let answer = kit.run(&["--config", config, "--backend", "disk", "--output", "json"]);

    assert_reached(&answer.json(), &["basic", "durable", "complete"]);
}

#[test]
fn what_is_not_claimed_is_never_passed() {
    let answer = Kit::new().run(&["memory", "--only", "durability", "--only", "blobs"]);

    assert!(!answer.stdout.contains("  ok  "), "{}", answer.stdout);
    assert!(answer.stdout.contains("durability.survives_kill"), "{}", answer.stdout);
    assert!(answer.stdout.contains("not claimed: needs `durable`"), "{}", answer.stdout);
    assert!(answer.stdout.contains("0 passed, 0 failed, 7 not claimed, 0 not run"), "{}", answer.stdout);
}

/// Without `strace` nobody knows whether it syncs, and the level is not granted.
#[test]
fn without_strace_nothing_is_called_synced() {
    let kit = Kit::new();
    let mut command =
        kit.command(&["file", "--options", r#"{"path":"{dir}"}"#, "--only", "durability.synced_before_answered"]);

    let output = command.env("PATH", "/nowhere").output().expect("start the worker");

    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("not run: needs `strace`; install the package `strace`"), "{text}");
    assert!(text.contains("0 passed, 0 failed, 0 not claimed, 1 not run"), "{text}");
    kit.assert_empty();
}

/// What is sent encrypted has the id of no event in it; that used to fail a right backend.
#[test]
fn what_is_sent_over_tls_is_for_the_far_side_to_sync() {
    let server = PostgresServer::start_with(&["ssl=on", "fsync=off", "full_page_writes=off"]);
    let options = format!(r#"{{"url":"{}?sslmode=require","durability":"durable"}}"#, server.url());
    let behavior = "durability.synced_before_answered";

    let answer = Kit::new().run(&["postgres", "--options", &options, "--only", behavior, "--output", "json"]);

    let card = answer.json();
    assert_eq!(with_verdict(&card, "passed"), [behavior], "{card}");
    let note = card["behaviors"][0]["notes"][0].as_str().unwrap_or_default();
    assert!(note.contains("could not be read in 24 of 24 merges (encrypted?)"), "{card}");
    assert_eq!(answer.code, 0);
}

#[test]
fn a_level_and_a_badge_that_are_demanded_and_not_reached_fail_a_run_in_which_nothing_failed() {
    let answer = Kit::new().run(&["memory", "--level", "durable", "--badge", "shared"]);

    assert!(answer.stdout.contains(" 0 failed"), "{}", answer.stdout);
    assert!(answer.stdout.contains("FAIL: `durable` is demanded and not reached"), "{}", answer.stdout);
    assert!(answer.stdout.contains("FAIL: `shared` is demanded and not reached"), "{}", answer.stdout);
    assert_eq!(answer.code, 1);
    assert_eq!(Kit::new().run(&["memory", "--level", "basic", "--only", "merge"]).code, 2);
}

/// A reproducer ends up in logs of CI and in bug reports.
#[test]
fn a_secret_is_not_in_the_command_that_a_failure_names() {
    let options = r#"{"path":"{dir}","break":"empty_batch","password":"geheim","url":"x://u:geheim@h"}"#;
    let away = r#"{"path":"{dir}","away":true,"password":"geheim"}"#;
    let set = "redis.url=\"redis://:geheim@127.0.0.1:1\"";
    for format in ["text", "json"] {
        let arguments = ["broken", "--options", options, "--away-options", away, "--set", set];
        let rest = ["--only", "merge.empty_batch", "--output", format];

        let answer = Kit::new().run(&[&arguments[..], &rest].concat());

        assert_eq!(answer.code, 1, "{}{}", answer.stdout, answer.stderr);
        assert!(!answer.stdout.contains("geheim"), "{}", answer.stdout);
        assert!(answer.stdout.contains("--set 'redis.url=[redacted]'"), "{}", answer.stdout);
        assert!(answer.stdout.contains("`[redacted]` stands for a secret that was left out"), "{}", answer.stdout);
    }
}

#[test]
fn a_failure_can_be_had_again_by_the_command_it_names() {
    let options = r#"{"path":"{dir}","break":"last_arrival"}"#;
    let first = Kit::new().run(&["broken", "--options", options, "--only", "merge"]);
    let again =
        first.stdout.lines().find_map(|line| line.trim().strip_prefix("again:")).expect("a failure has a command");

    assert!(again.contains("--only merge.order --seed "), "{again}");
    assert!(first.stdout.contains("expected: "), "{}", first.stdout);
    let seed = again.rsplit(' ').next().expect("the seed is last");
    let second = Kit::new().run(&["broken", "--options", options, "--only", "merge.order", "--seed", seed]);
    let order = |text: &str| {
        text.split_once("in the order").map(|(_, order)| order.lines().next().unwrap_or_default().to_owned())
    };
    assert_eq!(order(&second.stdout), order(&first.stdout));
    assert!(order(&first.stdout).is_some(), "{}", first.stdout);
}
