//! How commands answer: text for people, JSON for programs, on standard output; errors on standard error.

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use crate::config::{ConfigError, Origin, Problem};
use crate::error_chain::with_causes;
use crate::secret::redact_url;

/// What answers look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// One JSON value, for programs
    Json,
}

/// Writes an answer. A reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{end}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a part of a long answer; false if nobody reads it any more.
pub(crate) fn write_part(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// The text without what could steer a terminal; stored texts come from anywhere.
pub(crate) fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\t' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(plain).collect()
}

/// Writes a JSON answer, on one line.
pub(crate) fn print_json(value: &Value) -> io::Result<()> {
    print(&value.to_string())
}

/// The value as a worker's answer would be read: numbers keep their digits.
pub(crate) fn to_json(value: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::from_slice(&serde_json::to_vec(value)?)
}

/// Writes something beside the answer.
pub(crate) fn print_note(note: &str) {
    // Nobody is left to be told that this failed.
    let _ = writeln!(io::stderr(), "note: {}", redact_url(note));
}

/// Writes why the command failed: problems of the configuration one a line, anything else with its causes.
pub(crate) fn print_error(error: &anyhow::Error) {
    let text = match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Problems(problems)) => problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"),
        Some(ConfigError::Read { .. }) | None => {
            format!("error: {}", with_causes(error.as_ref()))
        }
    };
    let _ = writeln!(io::stderr(), "{}", redact_url(&text));
}

/// A problem for programs.
pub(crate) fn problem_json(problem: &Problem) -> Value {
    let mut value = origin_json(&problem.origin);
    value["key"] = Value::from(problem.key.as_str());
    value["message"] = Value::from(redact_url(&problem.message));
    value
}

/// An origin for programs.
pub(crate) fn origin_json(origin: &Origin) -> Value {
    match origin {
        Origin::Default => serde_json::json!({ "from": "default" }),
        Origin::File { path, line } => {
            serde_json::json!({ "from": "file", "file": path.display().to_string(), "line": line })
        }
        Origin::Environment(variable) => serde_json::json!({ "from": "environment", "variable": variable }),
        Origin::CommandLine(_) => serde_json::json!({ "from": "command line" }),
    }
}
