//! Builds packages of other workspaces than this one, as their authors would.
//!
//! All share one build directory, so that their dependencies are compiled once; they are built one after the other,
//! since cargo tells packages of one name in two such workspaces apart by their age only.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::process::{library_name, worker_binary};
use crate::worker::Setup;

/// Held while a package is built.
static BUILDING: Mutex<()> = Mutex::new(());

/// Builds the plugin `examples/<name>`, and gives a copy of its library in a directory. What it depends on, and this
/// workspace does not, is fetched once.
///
/// # Panics
/// When it does not build, or not with the versions of its lock file; one that this workspace has not is downloaded.
#[must_use]
#[track_caller]
pub fn build_example(name: &str, into: &Path) -> PathBuf {
    let workspace = repository().join("examples").join(name);
    build(&workspace, &format!("storage-backend-{name}"), &library_name(name), into, &["--locked"])
}

/// Builds the plugin in C of `examples/c-log`, and gives its library.
///
/// # Panics
/// When it does not build.
#[must_use]
#[track_caller]
pub fn build_c_example(into: &Path) -> PathBuf {
    make_c_example("build", into);
    into.join(library_name("clog"))
}

/// A configuration with the plugin in C of `examples/c-log`, built into a directory of its set-up.
///
/// # Panics
/// When it does not build.
#[must_use]
#[track_caller]
pub fn c_example_setup(redis_url: &str) -> Setup {
    let setup = Setup::new(redis_url, "clog");
    let plugin = build_c_example(&setup.path("built"));
    let [plugin, data] = [plugin, setup.path("data")].map(|path| path.to_str().expect("paths are Unicode").to_owned());
    setup.set("backends.main.plugin", plugin).set("backends.main.options.path", data)
}

/// Makes a target of `examples/c-log`, and gives what was printed.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn make_c_example(target: &str, into: &Path) -> String {
    let output = Command::new("make")
        .arg("--no-print-directory")
        .arg("-C")
        .arg(repository().join("examples/c-log"))
        .arg(target)
        .arg(format!("BUILD={}", into.display()))
        .output()
        .expect("`make` starts; install it");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`make {target}` of examples/c-log failed:\n{text}");
    text.into_owned()
}

/// Builds a package of a workspace, and gives a copy in a directory of the file of this name that it made. The options
/// are those of `cargo build`.
///
/// # Panics
/// When it does not build.
#[must_use]
#[track_caller]
pub fn build(workspace: &Path, package: &str, file: &str, into: &Path, options: &[&str]) -> PathBuf {
    let target = shared_target();
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", package])
        .args(options)
        .current_dir(workspace)
        .env("CARGO_TARGET_DIR", &target)
        // Quickly; and alike for all, so that what they depend on is the same.
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .output()
        .expect("start cargo");
    assert!(output.status.success(), "{package} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    let built = into.join(file);
    std::fs::create_dir_all(into).expect("make a directory");
    std::fs::copy(target.join("debug").join(file), &built).expect("copy what was built");
    built
}

/// Runs a shell's commands in a workspace, with little in the environment and the worker on the search path. Its
/// directory `target` is the one that all share.
///
/// # Panics
/// When one of the commands fails.
#[track_caller]
pub fn run_as_stranger(workspace: &Path, commands: &str) {
    let target = workspace.join("target");
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !target.exists() {
        std::fs::create_dir_all(shared_target()).expect("make a directory");
        std::os::unix::fs::symlink(shared_target(), target).expect("link a directory");
    }
    let cargo = Path::new(env!("CARGO")).parent().expect("cargo lies in a directory").to_owned();
    let worker = worker_binary().parent().expect("the worker lies in a directory").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([cargo, worker].into_iter().chain(std::env::split_paths(&path)));
    let kept = ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
    let output = Command::new("sh")
        .args(["-ec", commands])
        .current_dir(workspace)
        .env_clear()
        .envs(kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("PATH", path.expect("directories of a search path have no `:`"))
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        // A release is tried for its own sake, not for its speed.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .output()
        .expect("start a shell");
    let [answer, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "`{commands}` ended with {}:\n{answer}\n{errors}", output.status);
}

/// Copies a directory of the workspace, but for what is built in it.
///
/// # Panics
/// When it cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("make a directory");
    for entry in std::fs::read_dir(from).expect("list a directory of the workspace").flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("know a file's type").is_dir() {
            true if entry.file_name() == "target" => {}
            true => copy(&entry.path(), &target),
            false => std::fs::copy(entry.path(), target).map(drop).expect("copy a file"),
        }
    }
}

fn shared_target() -> PathBuf {
    worker_binary().parent().and_then(Path::parent).expect("target/<profile>/<file>").join("variants")
}

/// The directory of this repository.
///
/// # Panics
/// Never: the kit lies in it.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository").to_owned()
}
