//! The command line: arguments, help, and what to answer with. One file for each command.
//!
//! Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration.

mod bridge;
mod check;
mod completions;
mod copy;
mod dead_letters;
mod diff;
mod explain;
mod get;
mod interrupt;
mod list;
mod output;
mod plugin;
mod progress;
mod prune;
mod publish;
mod reload;
mod replay;
mod run;
mod storage;
mod upkeep;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::output::Output;
use crate::config::{ConfigError, Environment, Loaded};
use crate::telemetry::{self, LogFormat, LogOutput, TelemetryError};

/// Read without being asked for, if it is there.
const DEFAULT_FILE: &str = "storage-worker.toml";

/// Stores evaluation events from Redis through storage backends loaded at run time
#[derive(Debug, Parser)]
#[command(name = "storage-worker", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker --config prod.toml            run the worker
  storage-worker check                         say what is wrong with ./storage-worker.toml
  storage-worker --config prod.toml explain    show what a configuration comes to
  storage-worker publish --generate --count 3  publish the events of three evaluations

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration";

const GLOBAL: &str = "Options of every command";

/// The arguments that every command takes.
#[derive(Args, Clone, Debug)]
struct Global {
    /// Configuration file [default: ./storage-worker.toml if it is there]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "STORAGE_WORKER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,

    /// Set a key of the configuration, over file and environment; may be repeated
    ///
    /// VALUE is TOML, or else text: --set worker.lanes=8 --set redis.url=redis://localhost
    #[arg(long = "set", global = true, help_heading = GLOBAL, value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// What answers look like: for people, or for programs
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,

    /// What log lines look like [default: json for run and bridge, else pretty]
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormatArgument>,

    /// What is logged: error, warn, info, debug, trace, or a filter [default: info for run and bridge, else warn]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "LEVEL", env = "RUST_LOG", hide_env_values = true)]
    log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatArgument {
    /// One JSON object a line
    Json,
    /// For people
    Pretty,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Bridge(bridge::Arguments),
    Check(check::Arguments),
    Explain(explain::Arguments),
    Get(get::Arguments),
    List(list::Arguments),
    Plugin(plugin::Arguments),
    Publish(publish::Arguments),
    Copy(copy::Arguments),
    Diff(diff::Arguments),
    Prune(prune::Arguments),
    DeadLetters(dead_letters::Arguments),
    Replay(replay::Arguments),
    Reload(reload::Arguments),
    Completions(completions::Arguments),
}

/// Does what the arguments of this process ask for.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are answers, not errors; a reader that went away needs neither.
            let code = if answer.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
            let _ = answer.print();
            return code;
        }
    };
    let command = cli.command.unwrap_or_else(|| Command::Run(run::Arguments::default()));
    let started = cli.global.start_logging(matches!(command, Command::Run(_) | Command::Bridge(_)));
    match started.map_err(anyhow::Error::from).and_then(|()| command.run(&cli.global)) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error);
            exit_code(&error)
        }
    }
}

/// 2 if the operator has to change the arguments or the configuration, else 1.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ConfigError>() || cause.is::<UsageError>() || cause.is::<TelemetryError>()
    };
    ExitCode::from(if error.chain().any(is_usage) { 2 } else { 1 })
}

/// Arguments that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

impl Command {
    fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(arguments) => run::run(arguments, global),
            Self::Bridge(arguments) => bridge::run(arguments, global),
            Self::Check(arguments) => check::run(arguments, global),
            Self::Explain(arguments) => explain::run(arguments, global),
            Self::Get(arguments) => get::run(arguments, global),
            Self::List(arguments) => list::run(arguments, global),
            Self::Plugin(arguments) => plugin::run(arguments, global),
            Self::Publish(arguments) => publish::run(arguments, global),
            Self::Copy(arguments) => copy::run(arguments, global),
            Self::Diff(arguments) => diff::run(arguments, global),
            Self::Prune(arguments) => prune::run(arguments, global),
            Self::DeadLetters(arguments) => dead_letters::run(arguments, global),
            Self::Replay(arguments) => replay::run(arguments, global),
            Self::Reload(arguments) => reload::run(arguments, global),
            Self::Completions(arguments) => completions::run(arguments),
        }
    }
}

impl Global {
    /// The file to read; none where none is named and there is none.
    fn file(&self) -> Option<&Path> {
        let default = Path::new(DEFAULT_FILE);
        self.config.as_deref().or_else(|| default.exists().then_some(default))
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        Loaded::load(self.file(), &Environment::of_process(), &self.settings)
    }

    /// What runs on and on logs for programs, to standard output; the other commands answer there and log for people.
    fn start_logging(&self, runs_on: bool) -> Result<(), TelemetryError> {
        let (format, output, level) = match runs_on {
            true => (LogFormat::Json, LogOutput::Stdout, "info"),
            false => (LogFormat::Pretty, LogOutput::Stderr, "warn"),
        };
        let format = match self.log_format {
            Some(LogFormatArgument::Json) => LogFormat::Json,
            Some(LogFormatArgument::Pretty) => LogFormat::Pretty,
            None => format,
        };
        telemetry::init(format, output, Some(self.log_level.as_deref().unwrap_or(level)))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_arguments_may_stand_anywhere() {
        for line in ["storage-worker --config x check --set a=1", "storage-worker check --config x --set a=1"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("valid arguments");

            assert_eq!(cli.global.file(), Some(Path::new("x")));
            assert_eq!(cli.global.settings, ["a=1"]);
        }
    }
}
