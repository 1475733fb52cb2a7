//! `check`: says everything that is wrong with a configuration, and touches nothing.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::Global;
use super::output::{self, Output};
use crate::app;
use crate::config::{ConfigError, Loaded};
use crate::telemetry::metrics::Metrics;

/// Say what is wrong with the configuration, and touch nothing
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {}

const AFTER_HELP: &str = "\
Examples:
  storage-worker check
  storage-worker check --config prod.toml --output json

Exit codes: 0 no problem, 2 at least one";

/// Loads the configuration and its plugins, and answers with all problems.
pub(crate) fn run(_: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let result = global.load().and_then(|loaded| app::plan(&loaded, &Metrics::new()).map(|_| loaded));
    let result = result.and_then(|loaded| app::check_journal(&loaded).map(|()| loaded));
    match global.output {
        Output::Text => text(global, result),
        Output::Json => json(&result),
    }
}

fn text(global: &Global, result: Result<Loaded, ConfigError>) -> anyhow::Result<ExitCode> {
    let loaded = result?;
    loaded.notes.iter().for_each(|note| output::print_note(note));
    let name = global.file().map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
    output::print(&format!("{name}: no problem found"))?;
    Ok(ExitCode::SUCCESS)
}

fn json(result: &Result<Loaded, ConfigError>) -> anyhow::Result<ExitCode> {
    let (code, answer) = match result {
        Ok(loaded) => (ExitCode::SUCCESS, json!({ "ok": true, "problems": [], "notes": loaded.notes })),
        Err(error) => {
            let problems: Vec<_> = error.problems().iter().map(output::problem_json).collect();
            (ExitCode::from(2), json!({ "ok": false, "problems": problems, "notes": [] }))
        }
    };
    output::print_json(&answer)?;
    Ok(code)
}
