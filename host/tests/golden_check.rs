//! What `check` says of broken configurations: each `golden/check/<name>.toml` has its answer in `<name>.txt`.
//!
//! Lines such as `# env: NAME=VALUE` and `# set: KEY=VALUE` in a configuration are given to the command. After a wanted
//! change run the test with `UPDATE_GOLDEN=1` and review what it rewrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check")
}

/// Runs `check` as an operator in the directory of the file would, with no environment but the given one.
fn check(file: &str, arguments: &[&str]) -> Output {
    let path = directory().join(file);
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let given =
        |prefix: &str| text.lines().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect::<Vec<_>>();
    let mut command = Command::new(env!("CARGO_BIN_EXE_storage-worker"));
    command.current_dir(directory()).env_clear().args(["check", "--config", file]).args(arguments);
    for variable in given("# env: ") {
        let (name, value) = variable.split_once('=').expect("`# env: NAME=VALUE`");
        command.env(name, value);
    }
    for setting in given("# set: ") {
        command.args(["--set", &setting]);
    }
    command.output().expect("the worker starts")
}

fn configurations() -> Vec<String> {
    let names =
        fs::read_dir(directory()).expect("the directory is there").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.to_str()?.strip_suffix(".toml").map(str::to_owned)).collect();
    names.sort();
    names
}

#[test]
fn every_broken_configuration_is_answered_with_what_where_and_what_to_do() {
    let names = configurations();
    assert!(names.len() >= 40, "{} configurations", names.len());

    let mut wrong = Vec::new();
    for name in names {
        let output = check(&format!("{name}.toml"), &[]);
        let answer = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{name}: {answer}");
        assert!(!answer.contains("geheim"), "{name} gives a secret away: {answer}");
        let golden = directory().join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &answer).expect("written");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if answer != expected {
            wrong.push(format!("{name}\n  expected: {expected}  answered: {answer}"));
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn programs_get_the_same_as_json() {
    let output = check("unknown_keys.toml", &["--output", "json"]);

    assert_eq!(output.status.code(), Some(2));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    assert_eq!(answer["ok"], false);
    let problem = &answer["problems"][1];
    assert_eq!((&problem["file"], &problem["line"]), (&"unknown_keys.toml".into(), &6.into()));
    assert_eq!(problem["key"], "storage.backnd");
    assert_eq!(problem["message"], "unknown key `storage.backnd`; did you mean `backend`?");
}

#[test]
fn a_missing_file_is_named() {
    let output = check("no-such-file.toml", &[]);

    let answer = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2));
    assert!(answer.contains("cannot read the configuration `no-such-file.toml`"), "{answer}");
}

#[test]
fn wrong_usage_is_told_with_the_same_code() {
    let output = Command::new(env!("CARGO_BIN_EXE_storage-worker")).arg("chekc").output().expect("the worker starts");

    let answer = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2));
    assert!(answer.contains("check"), "{answer}");
}
