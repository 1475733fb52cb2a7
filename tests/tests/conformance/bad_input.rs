//! What `plugin test` says to arguments and files that are of no use, and to plugins that do not even open.

use std::time::Duration;

use rustix::process::Signal;
use storage_worker_tests::process::{Process, plugin_path};
use storage_worker_tests::wait::eventually;

use crate::Kit;

#[track_caller]
fn assert_refused(arguments: &[&str], code: i32, expected: &str) {
    let answer = Kit::new().run(arguments);

    assert!(answer.stderr.contains(expected), "{arguments:?}: {}", answer.stderr);
    assert_eq!(answer.code, code, "{arguments:?}: {}", answer.stderr);
    assert_eq!(answer.stdout, "");
}

#[test]
fn a_file_that_is_not_there() {
    assert_refused(&["./libstorage_backend_mine.so"], 2, "cannot find plugin `./libstorage_backend_mine.so`");
    assert_refused(&["mine"], 2, "there is no plugin `mine`");
    assert_refused(&["--backend", "mine"], 2, "there is no `[backends.mine]`");
}

#[test]
fn a_file_that_is_no_plugin() {
    assert_refused(&[env!("CARGO_MANIFEST_DIR")], 2, "a directory");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    assert_refused(&[manifest], 2, "not a shared library of this system");
}

#[test]
fn a_plugin_for_another_processor() {
    let kit = Kit::new();
    let mut bytes = std::fs::read(plugin_path("memory")).expect("read a plugin");
    let target = storage_plugin_api::manifest::TARGET.as_bytes();
    let other: Vec<u8> = target.iter().map(|byte| if *byte == b'l' { b'x' } else { *byte }).collect();
    let places: Vec<usize> =
        (0..bytes.len() - target.len()).filter(|place| bytes[*place..].starts_with(target)).collect();
    for place in places {
        bytes[place..place + target.len()].copy_from_slice(&other);
    }
    let path = kit.cache().join("libstorage_backend_other.so");
    std::fs::write(&path, bytes).expect("write a plugin");

    let answer = kit.run(&[path.to_str().expect("temporary paths are Unicode")]);

    assert!(answer.stderr.contains("it was built for"), "{}", answer.stderr);
    assert_eq!(answer.code, 2);
}

/// A file whose head is of another processor than its manifest says: made by hand, since nobody builds one.
#[test]
fn a_library_of_another_processor_than_its_manifest_says() {
    const MACHINE: std::ops::Range<usize> = 18..20;
    let kit = Kit::new();
    let mut bytes = std::fs::read(plugin_path("memory")).expect("read a plugin");
    // s390, which no worker runs on.
    bytes[MACHINE].copy_from_slice(&22_u16.to_le_bytes());
    let path = kit.cache().join("libstorage_backend_other.so");
    std::fs::write(&path, bytes).expect("write a plugin");

    let answer = kit.run(&[path.to_str().expect("temporary paths are Unicode")]);

    assert!(answer.stderr.contains("its head is for S390x, its manifest for"), "{}", answer.stderr);
    assert_eq!((answer.code, &*answer.stdout), (2, ""));
}

#[test]
fn options_that_are_no_json_or_not_the_plugins() {
    assert_refused(&["memory", "--options", "path=x"], 2, "`--options` is no JSON");
    assert_refused(&["memory", "--options", "[]"], 2, "`--options` is no JSON object");
    assert_refused(&["memory", "--away-options", "{"], 2, "`--away-options` is no JSON");
    assert_refused(&["memory", "--options", r#"{"max_bites":1}"#], 2, "max_bites");
    assert_refused(&["memory", "--only", "marge"], 2, "there is no behavior and no family `marge`");
    assert_refused(&[], 2, "required");
}

#[test]
fn a_plugin_that_does_not_open() {
    assert_refused(&["hostile", "--options", r#"{"open":"unavailable"}"#], 1, "does not open: error `unavailable`");
    assert_refused(&["hostile", "--options", r#"{"open":"panic"}"#], 1, "panicked: hostile in `open`");
}

#[test]
fn a_plugin_that_hangs_in_open_is_given_up() {
    let options = r#"{"path":"{dir}","break":"hangs_in_open"}"#;
    assert_refused(
        &["broken", "--options", options],
        1,
        "does not open: it hangs, and was killed; nothing else was tested",
    );
}

#[test]
fn a_run_that_is_stopped_cleans_up_behind_itself() {
    let kit = Kit::new();
    let options = r#"{"path":"{dir}","break":"hangs_in_open"}"#;
    let mut process = Process::start(&mut kit.command(&["broken", "--options", options]));
    let has_begun = || std::fs::read_dir(kit.temporary.path()).is_ok_and(|mut entries| entries.next().is_some());
    eventually(Duration::from_secs(20), "its temporary directory", has_begun);

    process.signal(Signal::TERM);

    let status = process.wait(Duration::from_secs(20)).expect("it ends");
    assert_eq!(status.code(), Some(1));
    kit.assert_empty();
}
