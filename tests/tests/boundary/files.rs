//! Files that are no plugins, or may not be trusted: each is refused with what is wrong and what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage_worker_tests::process::plugin_path;
use storage_worker_tests::worker::Setup;

use crate::check;

/// The refusal of a plugin file that a function makes in a directory of its own.
fn refusal(make: impl FnOnce(&Path) -> PathBuf) -> String {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let file = make(directory.path());
    let setup = Setup::new("redis://127.0.0.1:1", file.to_str().expect("temporary paths are Unicode"));

    let (status, text) = check(&setup);

    assert_eq!(status, 2, "{text}");
    assert!(text.contains(file.to_str().expect("temporary paths are Unicode")), "the file is not named: {text}");
    text
}

fn written(directory: &Path, bytes: &[u8]) -> PathBuf {
    let path = directory.join("libstorage_backend_odd.so");
    std::fs::write(&path, bytes).expect("write a file");
    path
}

/// A library of a few lines, built by the compiler alone.
fn compiled(directory: &Path, source: &str) -> PathBuf {
    let (input, output) = (directory.join("odd.rs"), directory.join("libstorage_backend_odd.so"));
    std::fs::write(&input, source).expect("write a source");
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--edition", "2024", "--crate-type", "cdylib", "-o"]).arg(&output).arg(&input);
    assert!(command.status().expect("start rustc").success(), "the source does not compile");
    output
}

fn memory_plugin() -> Vec<u8> {
    std::fs::read(plugin_path("memory")).expect("read a built plugin")
}

#[test]
fn a_file_that_is_no_library_is_refused() {
    let text = refusal(|directory| written(directory, b"#!/bin/sh\necho hello\n"));

    assert!(text.contains("not a shared library of this system"), "{text}");
}

#[test]
fn an_empty_file_is_refused() {
    let text = refusal(|directory| written(directory, b""));

    assert!(text.contains("not a shared library of this system"), "{text}");
}

#[test]
fn a_truncated_plugin_is_refused_wherever_it_ends() {
    let whole = memory_plugin();
    for part in [1, 10, 30, 50, 70, 90] {
        let text = refusal(|directory| written(directory, &whole[..whole.len() * part / 100]));

        assert!(text.contains("not a shared library of this system") || text.contains("cannot be read"), "{text}");
    }
}

#[test]
fn a_library_without_a_manifest_is_refused() {
    let text = refusal(|directory| compiled(directory, "#[unsafe(no_mangle)] pub extern \"C\" fn hello() {}"));

    assert!(text.contains("no section `.storage_plugin`"), "{text}");
}

#[test]
fn a_manifest_without_a_backend_is_refused() {
    let manifest = format!(
        r#"{{"magic":"storage-plugin","abi":"rust-1","api":"1.0.0","kind":"backend","name":"odd","version":"0.1.0","panic":"unwind","rustc":"any","target":"{}"}}"#,
        storage_plugin_api::manifest::TARGET
    );
    let source = format!(
        "#[used] #[unsafe(link_section = \".storage_plugin\")] static M: [u8; {}] = *b\"{}\";",
        manifest.len(),
        manifest.replace('"', "\\\"")
    );

    let text = refusal(|directory| compiled(directory, &source));

    assert!(text.contains("does not export a backend"), "{text}");
}

#[test]
fn a_manifest_that_is_no_json_is_refused() {
    let source = "#[used] #[unsafe(link_section = \".storage_plugin\")] static M: [u8; 5] = *b\"hello\";";

    let text = refusal(|directory| compiled(directory, source));

    assert!(text.contains("its manifest cannot be read"), "{text}");
}

#[test]
fn a_plugin_that_everybody_may_write_is_refused() {
    let text = refusal(|directory| {
        let path = written(directory, &memory_plugin());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("change permissions");
        path
    });

    assert!(text.contains("run `chmod o-w "), "{text}");
}

#[test]
fn a_plugin_in_a_directory_that_everybody_may_write_is_refused() {
    let text = refusal(|directory| {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).expect("change permissions");
        written(directory, &memory_plugin())
    });

    assert!(text.contains("everybody may write its directory"), "{text}");
}

#[test]
fn a_plugin_that_is_not_the_pinned_one_is_refused_and_both_hashes_are_told() {
    let pin = "0".repeat(64);
    let setup = Setup::new("redis://127.0.0.1:1", "memory").set("backends.main.sha256", pin.as_str());

    let (status, text) = check(&setup);

    assert_eq!(status, 2, "{text}");
    assert!(text.contains(&pin) && text.contains("its SHA-256 is "), "{text}");
}
