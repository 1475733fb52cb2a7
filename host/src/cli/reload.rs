//! `reload`: has the running worker read its configuration again.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::Global;
use super::output::{self, Output};
use crate::http::client::{Client, ClientError};
use crate::storage::Reloaded;

/// Have the running worker change storage to what its configuration says now
///
/// The worker reads the file and the variables that it was started with, opens the new backends beside the old ones,
/// switches, and closes what is no longer used. Whatever is wrong, nothing changes. Only `[storage]` and `[backends]` take
/// effect; sections that need a restart are named.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Change even if that drops a fallback which holds what is stored nowhere else
    #[arg(long)]
    force: bool,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker check && storage-worker reload
  storage-worker reload --config prod.toml --output json

`kill -HUP` of the worker does the same; its log says how it ended.

Exit codes: 0 changed, or nothing to change; 1 refused, or no worker runs; 2 the configuration is wrong";

/// What a worker answers to a configuration that cannot be used.
const WRONG_CONFIGURATION: u16 = 422;

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let listen = global.load()?.config.admin.listen;
    let path = if arguments.force { "/reload?force=true" } else { "/reload" };
    let answer = match Client::new(listen).post(path) {
        Ok(answer) => answer,
        Err(ClientError::Refused { status: WRONG_CONFIGURATION, detail, .. }) => {
            output::print_error(&anyhow::anyhow!(detail));
            return Ok(ExitCode::from(2));
        }
        Err(error) => return Err(anyhow::Error::new(error).context("storage was not changed")),
    };
    match global.output {
        Output::Json => output::print_json(&answer)?,
        Output::Text => {
            let reloaded = serde_json::from_value(answer).context("the worker answers what is no reload")?;
            output::print(&text(&reloaded))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(reloaded: &Reloaded) -> String {
    let Reloaded { generation, opened, closed, restart, notes } = reloaded;
    let mut lines = Vec::new();
    if opened.is_empty() && closed.is_empty() {
        lines.push(format!("no backend changed; generation {generation} is in force"));
    } else {
        lines.push(format!("generation {generation} is in force"));
        for (what, names) in [("opened", opened), ("closed", closed)] {
            if !names.is_empty() {
                lines.push(format!("{what}: {}", names.join(", ")));
            }
        }
    }
    if !restart.is_empty() {
        lines.push(format!("changed, and in force only after a restart: {}", restart.join(", ")));
    }
    lines.extend(notes.iter().cloned());
    lines.join("\n")
}
