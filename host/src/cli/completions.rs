//! `completions`: what a shell needs to complete the arguments.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, output};

/// Print what a shell needs to complete arguments
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker completions bash > /etc/bash_completion.d/storage-worker
  storage-worker completions zsh > ~/.zfunc/_storage-worker
  storage-worker completions fish > ~/.config/fish/completions/storage-worker.fish";

/// Writes the script of the shell.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "storage-worker", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
