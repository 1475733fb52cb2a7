//! `plugin`: what authors and operators do with the files of plugins.

mod inspect;
mod lock;
mod new;
mod plugin_api;
mod test;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Global, UsageError, output};
use crate::plugin::find;

/// Begin a plugin, test it, show what there are and what one is, pin their builds
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// List the plugins in the directory of the executable and in `storage.plugin_dirs`
    #[command(after_help = inspect::LIST_HELP)]
    List,
    /// Show what a plugin's file says of itself, its hash, and whether this worker can run it
    #[command(after_help = inspect::INSPECT_HELP)]
    Inspect {
        /// A name in `storage.plugin_dirs`, or the path of a file
        plugin: String,
    },
    /// Make a crate for a new plugin, ready to build and test
    #[command(after_help = new::HELP)]
    New(new::NewArguments),
    /// Write down which builds of its plugins a configuration may run, into a file beside it
    #[command(after_help = lock::HELP)]
    Lock {
        /// Say how the lock file differs from the builds that are there now, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// Find out whether a plugin does all that a backend must do; runs its code, in processes of its own
    #[command(after_help = test::HELP)]
    Test(test::Arguments),
}

/// Runs one of the commands.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let directories = || -> anyhow::Result<_> { Ok(find::directories(&global.load()?.config.storage.plugin_dirs)) };
    match &arguments.command {
        PluginCommand::Test(arguments) => test::run(arguments, global),
        PluginCommand::List => inspect::list(&directories()?, global.output),
        PluginCommand::Inspect { plugin } => {
            let path = find::resolve(plugin, &directories()?).map_err(|error| UsageError(error.to_string()))?;
            inspect::inspect(&path, global.output)
        }
        PluginCommand::New(arguments) => new::run(arguments, global),
        PluginCommand::Lock { check } => lock::run(*check, global),
    }
}
