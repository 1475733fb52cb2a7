//! The plugin boundary: what the worker does with plugins of other versions, with files that are none, and with a
//! plugin that misbehaves. All through the real binary.

mod authors;
mod files;
mod hostile;
mod locked;
mod new;
mod versions;

use std::process::Output;
use std::time::Duration;

use storage_worker_tests::worker::Setup;

/// How long anything may take that should take no time at all, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What `storage-worker check` says of a configuration.
pub(crate) fn check(setup: &Setup) -> (i32, String) {
    let output: Output = setup.command(&["check"]).output().expect("start the worker");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}
