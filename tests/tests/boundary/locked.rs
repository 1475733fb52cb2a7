//! The lock file beside a configuration: only the builds in it run, and `plugin lock` writes it.

use std::process::Output;

use storage_worker_tests::worker::Setup;

use crate::check;

fn setup() -> Setup {
    Setup::new("redis://127.0.0.1:1", "memory")
}

#[track_caller]
fn lock(setup: &Setup, arguments: &[&str]) -> (i32, String) {
    let output: Output = setup.command(&[&["plugin", "lock"], arguments].concat()).output().expect("start the worker");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}

fn locked(setup: &Setup) -> String {
    std::fs::read_to_string(setup.path("storage-worker.lock")).expect("there is a lock file")
}

/// The lock file of another build of the plugin.
fn lock_another_build(setup: &Setup) -> String {
    let text = locked(setup);
    let hash = text.split("sha256 = \"").nth(1).expect("it has a hash")[..64].to_owned();
    let other = "0".repeat(64);
    std::fs::write(setup.path("storage-worker.lock"), text.replace(&hash, &other)).expect("write the lock file");
    hash
}

#[test]
fn what_was_locked_is_run() {
    let setup = setup();

    let (status, text) = lock(&setup, &[]);

    assert_eq!(status, 0, "{text}");
    assert!(text.contains("was written") && text.contains("added    memory  0.1.0"), "{text}");
    assert!(locked(&setup).contains("[plugins.memory]"), "{}", locked(&setup));
    assert_eq!(check(&setup).0, 0);
    assert_eq!(lock(&setup, &["--check"]).0, 0);
}

#[test]
fn another_build_than_the_locked_one_is_refused_and_both_hashes_are_told() {
    let setup = setup();
    lock(&setup, &[]);
    let hash = lock_another_build(&setup);

    let (status, text) = check(&setup);

    assert_eq!(status, 2, "{text}");
    assert!(text.contains(&format!("its SHA-256 is {hash}")) && text.contains(&"0".repeat(64)), "{text}");
    assert!(text.contains("run `storage-worker plugin lock` if the new build is wanted"), "{text}");
}

#[test]
fn a_plugin_that_is_not_in_the_lock_file_is_refused_unless_the_configuration_pins_it() {
    let setup = setup();
    lock(&setup, &[]);
    let hash = lock_another_build(&setup);
    std::fs::write(setup.path("storage-worker.lock"), "").expect("write the lock file");

    let (status, text) = check(&setup);

    assert_eq!(status, 2, "{text}");
    assert!(text.contains("is not in the lock file"), "{text}");
    assert_eq!(check(&setup.set("backends.main.sha256", hash)).0, 0);
}

#[test]
fn check_says_what_would_change_and_writes_nothing() {
    let setup = setup();

    let (status, text) = lock(&setup, &["--check"]);

    assert_eq!(status, 1, "{text}");
    assert!(text.contains("is not current") && text.contains("added    memory"), "{text}");
    assert!(!setup.path("storage-worker.lock").exists());

    lock(&setup, &[]);
    lock_another_build(&setup);
    let before = locked(&setup);
    let (status, text) = lock(&setup, &["--check"]);

    assert_eq!(status, 1, "{text}");
    assert!(text.contains("changed  memory") && text.contains(&"0".repeat(64)), "{text}");
    assert_eq!(locked(&setup), before);
}

#[test]
fn a_plugin_that_would_be_refused_is_not_locked() {
    let setup = setup().set("backends.main.sha256", "0".repeat(64));

    let (status, text) = lock(&setup, &[]);

    assert_eq!(status, 2, "{text}");
    assert!(text.contains("the configuration demands"), "{text}");
    assert!(!setup.path("storage-worker.lock").exists());
}

#[test]
fn a_damaged_lock_file_stops_the_start_and_can_be_written_again() {
    let setup = setup();
    std::fs::write(setup.path("storage-worker.lock"), "plugins = 3\n").expect("write the lock file");

    let (status, text) = check(&setup);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("is damaged") && text.contains("`storage-worker plugin lock`"), "{text}");

    assert_eq!(lock(&setup, &[]).0, 0);
    assert_eq!(check(&setup).0, 0);
}
