//! What `check` says of trees that cannot work: each `golden/trees/<name>.toml` has its answer in `<name>.txt`.
//!
//! Here and not with the other wrong configurations (`host/tests/golden_check.rs`), since the plugins have their say.
//! `UPDATE_GOLDEN=1` rewrites the answers for review.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage_worker_tests::process::worker_binary;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/trees")
}

/// What `check` says, without what is different on every machine: where the plugins lie, and which there are.
fn refusal(name: &str) -> String {
    let mut command = Command::new(worker_binary());
    command.current_dir(directory()).env_clear().args(["check", "--config", &format!("{name}.toml")]);
    let output = command.output().expect("the worker starts");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{name} is refused: {text}");
    let plugins = worker_binary().parent().expect("it lies in a directory").display().to_string();
    let text = text.replace(&plugins, "<directory of the executable>");
    match text.split_once("where there are: ") {
        Some((start, all)) => {
            let (all, remedy) = all.split_once("; ").expect("it says what to do");
            let all: Vec<&str> = all.split(", ").collect();
            for plugin in ["cached-composite", "file", "memory", "mirror", "postgres", "tiered"] {
                assert!(all.contains(&plugin), "{plugin} is not among the plugins that are there: {all:?}");
            }
            format!("{start}where there are: <plugins>; {remedy}")
        }
        None => text,
    }
}

#[test]
fn every_tree_that_cannot_work_is_refused_with_what_to_do() {
    let names = fs::read_dir(directory()).expect("the trees").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<_> = names.filter_map(|name| name.to_str()?.strip_suffix(".toml").map(str::to_owned)).collect();
    names.sort();
    assert!(names.len() >= 20, "{} trees", names.len());

    let mut wrong = Vec::new();
    for name in names {
        let answer = refusal(&name);
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
