//! `dead-letters edit`: gives letters the payloads that a jq expression makes of theirs.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::super::output::{self, Output};
use super::super::progress::Progress;
use super::bench::Bench;
use super::jq::Expression;
use super::{CHUNK, counted, note, stopped};
use crate::letters::desk::{DoneOutcome, Edit};

/// What became of the letters.
#[derive(Default)]
struct Edited {
    count: usize,
    gone: usize,
    failed: Vec<Value>,
    /// Of a dry run: what the letters would become.
    shown: Vec<Value>,
}

/// Edits them, and says how it went; 1 if the expression failed for any.
pub(super) fn run(
    bench: &Bench,
    expression: &Expression,
    ids: &[String],
    format: Output,
    dry_run: bool,
) -> anyhow::Result<ExitCode> {
    let progress = Progress::start("edited", Some(ids.len() as u64));
    let mut edited = Edited::default();
    let mut left = ids;
    while !left.is_empty() {
        let so_far = edited.count;
        let (chunk, rest) = left.split_at(left.len().min(CHUNK));
        let beyond = edit_some(bench, expression, chunk, dry_run, &mut edited);
        let beyond = beyond.inspect_err(|_| progress.end()).with_context(|| {
            format!("{}; those are in the state `edited`, the rest is as it was", stopped("edited", so_far))
        })?;
        left = &ids[ids.len() - rest.len() - beyond..];
        progress.at((ids.len() - left.len()) as u64);
    }
    progress.end();
    answer(&edited, format, dry_run)?;
    Ok(ExitCode::from(u8::from(!edited.failed.is_empty())))
}

/// Edits as many of them as are handed out at once. Gives how many ids are left.
fn edit_some(
    bench: &Bench,
    expression: &Expression,
    ids: &[String],
    dry_run: bool,
    edited: &mut Edited,
) -> anyhow::Result<usize> {
    let (letters, left) = bench.some_letters(ids)?;
    edited.gone += ids.len() - left.len() - letters.len();
    let mut edits = Vec::new();
    for letter in letters {
        match expression.apply(letter.current_payload()) {
            Ok(edited) => edits.push(Edit { id: letter.id, edited }),
            Err(error) => edited.failed.push(json!({ "id": letter.id, "error": error })),
        }
    }
    if dry_run {
        edited.count += edits.len();
        edited.shown.extend(edits.iter().map(|edit| json!({ "id": edit.id, "edited": edit.edited })));
    } else if !edits.is_empty() {
        let done = bench.edit(&edits, &note(Some(expression.text())))?;
        let changed = done.iter().filter(|done| done.outcome == DoneOutcome::Edited).count();
        edited.count += changed;
        edited.gone += done.len() - changed;
    }
    Ok(left.len())
}

fn answer(edited: &Edited, format: Output, dry_run: bool) -> anyhow::Result<()> {
    let Edited { count, gone, failed, shown } = edited;
    match format {
        Output::Json if dry_run => output::print_json(&json!({ "dry_run": true, "letters": shown, "failed": failed }))?,
        Output::Json => output::print_json(&json!({ "edited": count, "gone": gone, "failed": failed }))?,
        Output::Text => {
            let line = |value: &Value, key: &str| {
                format!(
                    "  {}  {}\n",
                    output::plain(value["id"].as_str().unwrap_or_default()),
                    output::plain(value[key].as_str().unwrap_or_default())
                )
            };
            let mut text = format!("{} {}\n", if dry_run { "would edit" } else { "edited" }, counted(*count));
            text.extend(shown.iter().map(|value| line(value, "edited")));
            if *gone > 0 {
                text.push_str(&format!("{} gone meanwhile\n", counted(*gone)));
            }
            if !failed.is_empty() {
                text.push_str(&format!("{} could not be edited:\n", counted(failed.len())));
                text.extend(failed.iter().map(|value| line(value, "error")));
            }
            output::print(&text)?;
        }
    }
    Ok(())
}
