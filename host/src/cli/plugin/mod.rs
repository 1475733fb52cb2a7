//! `plugin`: what authors and operators do with the files of plugins.

mod inspect;
mod test;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Global, UsageError, output};
use crate::plugin::find;

/// Show what plugins there are, what one is, or whether one does what it must
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
    /// Find out whether a plugin does all that a backend must do; runs its code, in processes of its own
    #[command(after_help = test::HELP)]
    Test(test::Arguments),
}

/// Runs one of the commands.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let directories = find::directories(&global.load()?.config.storage.plugin_dirs);
    match &arguments.command {
        PluginCommand::Test(arguments) => test::run(arguments, global),
        PluginCommand::List => inspect::list(&find::all(&directories), global.output),
        PluginCommand::Inspect { plugin } => {
            let path = find::resolve(plugin, &directories).map_err(|error| UsageError(error.to_string()))?;
            inspect::inspect(&path, global.output)
        }
    }
}
