//! Any text is a configuration, or has problems that can be shown.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use storage_worker::config::{ConfigError, Environment, Loaded};
use tempfile::TempDir;

static PLACE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

fuzz_target!(|text: &str| {
    let path: PathBuf = PLACE.path().join("storage-worker.toml");
    std::fs::write(&path, text).expect("the file is written");
    match Loaded::load(Some(&path), &Environment::default(), &[]) {
        Ok(loaded) => assert!(!loaded.settings().is_empty()),
        Err(error @ ConfigError::Problems(_)) => {
            assert!(!error.problems().is_empty());
            assert!(!error.to_string().is_empty());
        }
        Err(_) => {}
    }
});
