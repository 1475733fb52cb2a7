//! What the worker tells of itself: log lines (`log.rs`) and metrics (`metrics.rs`).
//!
//! Everyone logs through `tracing`; this module decides where the lines go and which are wanted. A panic is a log line,
//! too.

pub mod log;
pub mod metrics;
mod process;

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use self::log::{Lines, Style};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for programs.
    #[default]
    Json,
    /// For people.
    Pretty,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output: for `run`, whose output is its log.
    Stdout,
    /// Standard error: for the commands that answer something.
    Stderr,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error(
        "`{filter}` is no log level; write error, warn, info, debug, trace, or a filter such as `info,storage_worker=debug`"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else logs already.
    #[error("logging has started already in this process")]
    Started(#[source] TryInitError),
}

/// Starts logging for the rest of the process. The filter is a level or what `RUST_LOG` takes; `info` if there is none.
///
/// # Errors
/// When the filter is none, or logging was started before.
pub fn init(format: LogFormat, output: LogOutput, filter: Option<&str>) -> Result<(), TelemetryError> {
    let filter = filter.filter(|filter| !filter.trim().is_empty()).unwrap_or("info");
    let filter =
        EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let style = match format {
        LogFormat::Json => Style::Json,
        LogFormat::Pretty => Style::Pretty { colored: is_colored(output) },
    };
    // A line that cannot be written has nobody to be told to, and must not stop the worker.
    let write: fn(&[u8]) = match output {
        LogOutput::Stdout => |line| drop(io::stdout().lock().write_all(line)),
        LogOutput::Stderr => |line| drop(io::stderr().lock().write_all(line)),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(Lines::new(style, write))
        .try_init()
        .map_err(TelemetryError::Started)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        tracing::error!(place, thread, panic = text, "panicked");
    }));
    Ok(())
}

fn is_colored(output: LogOutput) -> bool {
    let is_terminal = match output {
        LogOutput::Stdout => io::stdout().is_terminal(),
        LogOutput::Stderr => io::stderr().is_terminal(),
    };
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
