//! `plugin new`: what it writes builds and passes in an empty directory, by the commands of its own README and CI file.

use std::path::{Path, PathBuf};
use std::process::Output;

use storage_worker_tests::outside;
use storage_worker_tests::worker::Setup;
use tempfile::TempDir;

fn plugin_new(directory: &Path, arguments: &[&str]) -> Output {
    let setup = Setup::new("redis://127.0.0.1:1", "memory");
    let mut command = setup.command(&[&["plugin", "new"], arguments].concat());
    command.current_dir(directory).output().expect("start the worker")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A new crate in an empty directory.
fn new(arguments: &[&str]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let output = plugin_new(directory.path(), arguments);
    assert!(output.status.success(), "{}", text(&output));
    let path = directory.path().join(format!("storage-backend-{}", arguments[0]));
    (directory, path)
}

/// Runs the commands that stand first in the README, and those of the CI file that are not among them.
#[test]
fn a_new_document_store_builds_and_passes_by_the_commands_of_its_readme_and_ci() {
    let (_directory, path) = new(&["my-documents"]);
    let read = |file: &str| std::fs::read_to_string(path.join(file)).expect("it was written");
    let readme = read("README.md");
    let commands = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has commands");
    assert!(commands.contains("cargo test\n") && commands.contains("plugin inspect"), "{commands}");
    let ci = read(".github/workflows/ci.yml");
    let of_ci: Vec<&str> = ci.lines().filter_map(|line| line.trim().strip_prefix("- run: cargo ")).collect();
    assert!(of_ci.len() >= 4, "{ci}");

    outside::run_as_stranger(&path, commands);
    for command in of_ci.iter().map(|command| format!("cargo {command}")) {
        if !commands.lines().any(|line| line == command.replace(" --locked", "")) {
            outside::run_as_stranger(&path, &command);
        }
    }
}

/// The other kinds differ in their sources only, so theirs are built and tested, and linted.
#[test]
fn a_new_backend_builds_and_passes() {
    for arguments in [&["my-backend", "--kind", "backend"][..], &["my-async", "--async"]] {
        let (_directory, path) = new(arguments);
        outside::run_as_stranger(&path, "cargo test\ncargo clippy --locked --no-deps --all-targets -- -D warnings");
    }
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let (directory, path) = new(&["mine"]);
    let before = std::fs::read_to_string(path.join("Cargo.toml")).expect("it was written");

    let output = plugin_new(directory.path(), &["mine", "--kind", "backend"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("is not an empty directory; name another with --path"), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(path.join("Cargo.toml")).expect("it is there"), before);
}

#[test]
fn a_name_that_would_never_be_found_is_refused() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    for (arguments, reason) in [
        (&["memory"][..], "there is a plugin `memory` already"),
        (&["My_Store"][..], "lower-case letters, digits"),
        (&["mine", "--kind", "documents", "--async"][..], "a document store is synchronous"),
    ] {
        let output = plugin_new(directory.path(), arguments);

        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output).contains(reason), "{}", text(&output));
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0);
}

#[test]
fn from_the_registry_there_is_no_copy_of_the_sources_and_it_says_what_is_not_published() {
    for (arguments, features) in
        [(&["mine", "--registry"][..], None), (&["mine", "--registry", "--async"], Some("tokio"))]
    {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let output = plugin_new(directory.path(), arguments);
        assert!(output.status.success(), "{}", text(&output));
        let path = directory.path().join("storage-backend-mine");

        let manifest = std::fs::read_to_string(path.join("Cargo.toml")).expect("it was written");
        let manifest: toml::Table = manifest.parse().expect("it is TOML");
        let api = &manifest["dependencies"]["storage-plugin-api"];
        assert_eq!(api["version"].as_str(), Some(storage_plugin_api::manifest::API_VERSION), "{manifest}");
        assert!(api.get("path").is_none(), "{manifest}");
        assert_eq!(api.get("features").and_then(|all| all[0].as_str()), features, "{manifest}");
        assert!(!path.join("plugin-api").exists());
        assert!(text(&output).contains("is not published yet, so cargo cannot build this"), "{}", text(&output));
    }
}
