//! `plugin test`, and the conformance kit behind it: right plugins pass, each broken rule is caught by the behavior that
//! is meant for it and by no other, and nothing is left behind. All through the real binary.

mod bad_input;
mod bare;
mod broken;
mod buckets;
mod layers;
mod right;

use std::process::{Command, Output};

use serde_json::Value;
use storage_worker_tests::process::worker_binary;
use tempfile::TempDir;

/// A run of `plugin test` with temporary directories of its own.
pub(crate) struct Kit {
    temporary: TempDir,
    cache: TempDir,
}

/// What a run answered.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Kit {
    pub(crate) fn new() -> Self {
        let make = || tempfile::tempdir().expect("make a temporary directory");
        Self { temporary: make(), cache: make() }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(worker_binary());
        command.args(["plugin", "test"]).args(arguments);
        // Nothing of the developer's own: neither a configuration nor variables.
        command
            .current_dir(self.cache.path())
            .env("TMPDIR", self.temporary.path())
            .env("XDG_CACHE_HOME", self.cache.path());
        for variable in ["RUST_LOG", "STORAGE_WORKER_CONFIG", "STORAGE_BACKEND", "DATABASE_URL", "ENABLE_CACHING"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs it, and looks whether anything is left behind.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("start the worker");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("answers are UTF-8");
        self.assert_empty();
        Answer { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
    }

    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        let left: Vec<_> = std::fs::read_dir(self.temporary.path()).expect("list a directory").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    pub(crate) fn cache(&self) -> &std::path::Path {
        self.cache.path()
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }
}

/// The names of the behaviors with a verdict.
pub(crate) fn with_verdict(card: &Value, verdict: &str) -> Vec<String> {
    let behaviors = card["behaviors"].as_array().expect("a scorecard has behaviors");
    let names = behaviors.iter().filter(|behavior| behavior["verdict"] == verdict);
    names.map(|behavior| behavior["name"].as_str().expect("a behavior has a name").to_owned()).collect()
}
