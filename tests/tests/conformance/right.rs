//! The plugins that come with the worker do what they claim, and the scorecard says so.

use serde_json::Value;

use crate::{Kit, with_verdict};

#[track_caller]
fn assert_reached(card: &Value, reached: &[&str]) {
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
    let answer = Kit::new().run(&["file", "--options", r#"{"path":"{dir}"}"#, "--output", "json"]);

    assert_reached(&answer.json(), &["basic", "durable", "complete"]);
    assert_eq!(answer.code, 0);
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
    assert!(answer.stdout.contains("0 passed, 0 failed, 6 not claimed, 0 not run"), "{}", answer.stdout);
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
