//! `run`: the worker itself, and what `storage-worker` does when no command is named.

use std::process::ExitCode;

use clap::Args;

use super::Global;
use crate::app::{self, AppError};

/// Threads of the asynchronous part, which only moves bytes; events are merged on lane threads.
const ASYNC_THREADS: usize = 2;

/// Take events from Redis, store them, confirm them; the default command
#[derive(Args, Debug, Default)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {}

const AFTER_HELP: &str = "\
Examples:
  storage-worker --config storage-worker.toml
  storage-worker run --log-format pretty --set storage.backend=memory

SIGHUP: read the configuration again and change storage to it, see `storage-worker reload --help`.
SIGTERM or SIGINT: finish what was taken, then end; a second one: end at once.

Exit codes: 0 told to end and all was stored, 1 failed while running, 2 wrong usage or configuration";

/// Runs until told to end.
pub(crate) fn run(_: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let loaded = global.load()?;
    let reread = global.clone();
    for note in &loaded.notes {
        tracing::warn!(note, "configuration");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(ASYNC_THREADS).enable_all().build()?;
    let result = runtime.block_on(app::run(loaded, Box::new(move || reread.load())));
    // What hangs in a plugin must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(AppError::Config(error)) => Err(error.into()),
        Err(error) => {
            let code = if error.is_configuration() { 2 } else { 1 };
            tracing::error!(reason = crate::error_chain::with_causes(&error), "storage_worker.failed");
            Ok(ExitCode::from(code))
        }
    }
}
