//! `storage-worker.toml` at the top of the repository is the reference: it must parse, say the defaults, and name every
//! key.

use std::path::{Path, PathBuf};

use storage_worker::config::{Config, Environment, Loaded, Setting};

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage-worker.toml")
}

fn load(path: &Path) -> Loaded {
    Loaded::load(Some(path), &Environment::default(), &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// The reference with its commented-out keys in force: lines such as `# guarantee = "durable"`.
fn with_comments_in_force() -> String {
    let text = std::fs::read_to_string(reference()).expect("the reference is there");
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let line = |line: &str| {
        let commented =
            line.strip_prefix("# ").filter(|rest| rest.split_once(" = ").is_some_and(|(name, _)| is_name(name)));
        format!("{}\n", commented.unwrap_or(line))
    };
    text.lines().map(line).collect()
}

#[test]
fn the_reference_says_the_defaults() {
    assert_eq!(load(&reference()).config, Config::default());
}

#[test]
fn no_file_means_the_defaults() {
    let loaded = Loaded::load(None, &Environment::default(), &[]).expect("the defaults are sound");

    assert_eq!(loaded.config, Config::default());
}

#[test]
fn every_default_stands_in_the_reference() {
    let lacks = |setting: &Setting| setting.origin.file_line().is_none() && !setting.value.is_null();

    let unnamed: Vec<_> = load(&reference()).settings().into_iter().filter(lacks).collect();

    assert!(unnamed.is_empty(), "keys that storage-worker.toml lacks: {unnamed:#?}");
}

#[test]
fn every_key_without_a_default_stands_there_as_a_comment() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("in-force.toml");
    std::fs::write(&path, with_comments_in_force()).expect("written");

    let settings = load(&path).settings();

    let unset: Vec<_> = settings.iter().filter(|setting| setting.value.is_null()).collect();
    assert!(unset.is_empty(), "keys that storage-worker.toml lacks: {unset:#?}");
    for key in ["events.\"evaluation:submitted\".time", "backends.file.sha256"] {
        assert!(settings.iter().any(|setting| setting.key == key), "{key} is not in {settings:#?}");
    }
}
