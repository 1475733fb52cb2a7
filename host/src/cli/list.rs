//! `list`: shows many evaluations, newest first, page by page as they come.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use storage_plugin_api::Status;

use super::output::{Output, plain, to_json, write_part};
use super::storage::{Access, Storage};
use super::{Global, UsageError};
use crate::http;
use crate::storage::read::{self, PageRequest};

/// How many are read at once.
const PAGE: usize = 1000;

/// List stored evaluations, newest first
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Only those of this status
    #[arg(long, value_name = "STATUS", value_parser = Status::ALL.map(Status::as_str))]
    status: Option<String>,

    /// Only those of this language
    #[arg(long, value_name = "LANGUAGE")]
    language: Option<String>,

    /// Only those created at this time or later, such as 2025-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,

    /// Every one
    #[arg(long, conflicts_with = "limit")]
    all: bool,

    /// Go on where a list before ended: its `next_cursor`
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker list
  storage-worker list --status failed --since 2025-01-31 --limit 20
  storage-worker list --all --output json | jq -r '.evaluations[].id'

Code, output and error are left out; `get` shows them.
Asks the worker that listens on `admin.listen`; if none does, opens the storage itself.

Exit codes: 0 done, 1 storage failed, 2 wrong usage or configuration";

/// Reads page after page and prints each as it comes.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let since = arguments.since.as_deref().map(http::parse_time).transpose();
    let since = since.map_err(|error| UsageError(error.replacen("`since`", "`--since`", 1)))?;
    let storage = Storage::root(&global.load()?, Access::Read)?;
    let root = storage.first();
    let mut request = PageRequest {
        status: arguments.status.as_deref().and_then(Status::parse),
        language: arguments.language.clone(),
        since,
        limit: 0,
        cursor: arguments.cursor.clone(),
    };
    let mut left = if arguments.all { usize::MAX } else { usize::try_from(arguments.limit).unwrap_or(usize::MAX) };
    let mut listing = Listing::new(global.output);
    loop {
        request.limit = left.min(PAGE);
        let page = read::page(&*root.backend, &root.capabilities, &storage.call(), request.clone())?;
        let evaluations = page.evaluations.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
        left = left.saturating_sub(evaluations.len());
        request.cursor = page.next_cursor;
        if !write_part(&listing.page(&evaluations))? {
            return Ok(ExitCode::SUCCESS);
        }
        if left == 0 || request.cursor.is_none() {
            write_part(&listing.end(request.cursor.as_deref()))?;
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The pages as they are printed.
struct Listing {
    output: Output,
    printed: usize,
    id_width: usize,
}

impl Listing {
    fn new(output: Output) -> Self {
        Self { output, printed: 0, id_width: 0 }
    }

    fn page(&mut self, evaluations: &[Value]) -> String {
        let mut text = String::new();
        match self.output {
            Output::Json => {
                for evaluation in evaluations {
                    text.push_str(if self.printed == 0 { "{\"evaluations\":[" } else { "," });
                    text.push_str(&evaluation.to_string());
                    self.printed += 1;
                }
            }
            Output::Text => {
                let ids = evaluations.iter().filter_map(|evaluation| Some(evaluation["id"].as_str()?.chars().count()));
                self.id_width = ids.max().unwrap_or_default().max(self.id_width).max(2);
                if self.printed == 0 && !evaluations.is_empty() {
                    text.push_str(&self.line(["ID", "STATUS", "LANGUAGE", "CREATED", "RUNTIME"]));
                }
                for evaluation in evaluations {
                    text.push_str(&self.row(evaluation));
                    self.printed += 1;
                }
            }
        }
        text
    }

    fn end(&self, cursor: Option<&str>) -> String {
        match (self.output, cursor) {
            (Output::Json, _) => {
                let start = if self.printed == 0 { "{\"evaluations\":[" } else { "" };
                format!("{start}],\"next_cursor\":{}}}\n", Value::from(cursor))
            }
            (Output::Text, Some(_)) => format!("… and more; see `--limit` and `--all` ({} shown)\n", self.printed),
            (Output::Text, None) if self.printed == 0 => "no evaluations\n".to_owned(),
            (Output::Text, None) => String::new(),
        }
    }

    fn row(&self, evaluation: &Value) -> String {
        let part = |key: &str| plain(evaluation[key].as_str().unwrap_or("-"));
        let created = part("created_at");
        // Seconds are enough for people.
        let created = created.split('.').next().unwrap_or_default();
        let runtime = evaluation["runtime_ms"].as_i64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        self.line([&part("id"), &part("status"), &part("language"), created, &runtime])
    }

    fn line(&self, [id, status, language, created, runtime]: [&str; 5]) -> String {
        let mut line = String::new();
        let width = self.id_width;
        let _ = writeln!(line, "{id:width$}  {status:12}  {language:12}  {created:19}  {runtime}");
        line
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluation(id: &str) -> Value {
        json!({ "id": id, "status": "completed", "language": null, "created_at": "2025-01-01T00:00:00.5+00:00", "runtime_ms": 12 })
    }

    #[test]
    fn people_get_a_table() {
        let mut listing = Listing::new(Output::Text);

        let text = listing.page(&[evaluation("demo-1"), evaluation("x")]) + &listing.end(Some("more"));

        let expected = "\
ID      STATUS        LANGUAGE      CREATED              RUNTIME
demo-1  completed     -             2025-01-01T00:00:00  12 ms
x       completed     -             2025-01-01T00:00:00  12 ms
… and more; see `--limit` and `--all` (2 shown)
";
        assert_eq!(text, expected);
        assert_eq!(Listing::new(Output::Text).end(None), "no evaluations\n");
    }

    #[test]
    fn programs_get_one_value_over_all_pages() {
        let mut listing = Listing::new(Output::Json);

        let text =
            listing.page(&[evaluation("a"), evaluation("b")]) + &listing.page(&[evaluation("c")]) + &listing.end(None);

        let value: Value = serde_json::from_str(&text).expect("one JSON value");
        assert_eq!(value["evaluations"].as_array().map(Vec::len), Some(3));
        assert_eq!(Listing::new(Output::Json).end(None), "{\"evaluations\":[],\"next_cursor\":null}\n");
    }
}
