//! The plugin does what a storage backend must do: `storage-worker plugin test` loads the built library, as the worker
//! will, and runs the conformance kit on it.
//!
//! The program is found by the variable STORAGE_WORKER or on the PATH. Without it these tests fail; they are never
//! skipped, since a plugin that nobody tested looks like one that passed.

use std::path::PathBuf;
use std::process::Command;

/// The options of the tested instance, as JSON.
const OPTIONS: &str = r#"PLUGIN_OPTIONS"#;

/// The level that it must reach: `basic`, `durable` or `complete`. Raise it with what you claim.
const LEVEL: &str = "basic";

/// Fails with what was asked of the plugin, and how to ask for that again.
#[test]
fn it_does_what_a_backend_must_do() {
    let (worker, library) = (worker(), library());
    let mut command = Command::new(&worker);
    command
        .args(["plugin", "test", "--options", OPTIONS, "--level", LEVEL])
        .arg(&library);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start `{}`: {error}", worker.display()));
    let [scorecard, errors] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{scorecard}{errors}",
        output.status
    );
    // Shown by `cargo test -- --nocapture`.
    println!("{scorecard}");
}

/// Cargo builds the library beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let name = format!(
        "{}{}{}",
        std::env::consts::DLL_PREFIX,
        "storage_backend_PLUGIN_SNAKE",
        std::env::consts::DLL_SUFFIX
    );
    let library = test
        .parent()
        .expect("a program lies in a directory")
        .join(name);
    assert!(
        library.is_file(),
        "`{}` is not built; keep `cdylib` in `crate-type`",
        library.display()
    );
    library
}

fn worker() -> PathBuf {
    if let Some(named) = std::env::var_os("STORAGE_WORKER") {
        let path = PathBuf::from(named);
        assert!(
            path.is_file(),
            "STORAGE_WORKER names `{}`, and there is no such file",
            path.display()
        );
        return path;
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&directories)
        .map(|directory| directory.join("storage-worker"))
        .find(|file| file.is_file());
    found.expect("no `storage-worker` on the PATH; install it, or name its file in the variable STORAGE_WORKER")
}
