//! `get`: shows one evaluation.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::output::{self, Output, plain, to_json};
use super::storage::{Access, Storage};
use crate::storage::read;

/// Show a stored evaluation, with its history
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The evaluation's id
    id: String,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker get demo-1
  storage-worker get demo-1 --output json | jq -r .evaluation.output

Asks the worker that listens on `admin.listen`; if none does, opens the storage itself.

Exit codes: 0 done, 1 there is none or storage failed, 2 wrong usage or configuration";

/// What people look for first; the rest follows in the order of the keys.
const FIRST: [&str; 11] = [
    "id",
    "status",
    "success",
    "language",
    "created_at",
    "submitted_at",
    "queued_at",
    "provisioning_at",
    "started_at",
    "completed_at",
    "runtime_ms",
];
/// What stands below the other values, each in a block of its own.
const BODIES: [&str; 3] = ["code", "output", "error"];

/// Reads the evaluation and prints it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let storage = Storage::root(&global.load()?, Access::Read)?;
    let Some(evaluation) = read::evaluation(&*storage.first().backend, &storage.call(), &arguments.id)? else {
        anyhow::bail!("there is no evaluation `{}`", arguments.id);
    };
    let (record, events) = (to_json(&evaluation)?, to_json(&evaluation.record.history)?);
    match global.output {
        Output::Json => output::print_json(&json!({ "evaluation": record, "events": events }))?,
        Output::Text => output::print(&text(&record, &events))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(record: &Value, events: &Value) -> String {
    let mut text = String::new();
    let keys = record.as_object().into_iter().flat_map(|record| record.keys()).map(String::as_str);
    let rest = keys.filter(|key| !FIRST.contains(key) && !BODIES.contains(key));
    for key in FIRST.into_iter().chain(rest) {
        let value = &record[key];
        // `success` is the one answer of no that says something.
        if !value.is_null() && *value != json!({}) && (*value != json!(false) || key == "success") {
            let _ = writeln!(text, "{key:<17} {}", plain(&shown(value)));
        }
    }
    for name in BODIES {
        if let Some(body) = record[name].as_str() {
            let _ = writeln!(text, "\n{name}:\n{}", indented(body));
        }
    }
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    if !events.is_empty() {
        text.push_str("\nhistory:\n");
    }
    for event in events {
        let part = |key: &str| plain(event[key].as_str().unwrap_or_default());
        let _ = writeln!(text, "  {}  {:<12} {}", part("timestamp"), part("type"), part("message"));
    }
    text
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn indented(body: &str) -> String {
    body.lines().map(|line| format!("  {}", plain(line))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_shown_without_what_is_unknown() {
        let record = json!({
            "id": "demo-1", "status": "completed", "engine": null, "output_truncated": false, "exit_code": 0,
            "output": "one\ntwo\u{1b}[31m\n", "metadata": { "a": 1 },
        });
        let events =
            json!([{ "timestamp": "2025-01-01T00:00:00.000000+00:00", "type": "queued", "message": "queued" }]);

        let expected = "\
id                demo-1
status            completed
exit_code         0
metadata          {\"a\":1}

output:
  one
  two\\u{1b}[31m

history:
  2025-01-01T00:00:00.000000+00:00  queued       queued
";
        assert_eq!(text(&record, &events), expected);
    }
}
