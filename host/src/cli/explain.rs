//! `explain`: draws the storage tree, and says where each value came from.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::output::{self, Output, origin_json};
use crate::app;
use crate::config::{ConfigError, Loaded, Origin, Setting};
use crate::http::client::Client;
use crate::journal::config::Mode;
use crate::storage::Plan;
use crate::storage::explain::{self, Explanation};
use crate::telemetry::metrics::Metrics;

/// Draw the storage tree and say where each value of the configuration came from
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Show only the values that somebody gave, no defaults
    #[arg(long)]
    given: bool,

    /// Ask the running worker for the tree and values that it works with
    #[arg(long)]
    running: bool,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker explain
  STORAGE_BACKEND=memory storage-worker explain --given
  storage-worker explain --running

Secrets are shown as [redacted].

Exit codes: 0 done, 1 no worker answered, 2 wrong usage or configuration";

/// Shows the tree of the configuration, or that of the running worker.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let loaded = global.load()?;
    if arguments.running {
        return running(&loaded, arguments, global.output);
    }
    let mut settings = loaded.settings();
    if arguments.given {
        settings.retain(|setting| setting.origin != Origin::Default);
    }
    let (plan, refusal) = match app::plan(&loaded, &Metrics::new()) {
        Ok(plan) => (plan, None),
        Err(error) => match plan_without_guarantee(&loaded) {
            Some(plan) => (plan, Some(error)),
            None => return incomplete(&loaded, settings, error, global.output),
        },
    };
    let explanation = Explanation { journal: journal_of(&loaded), ..plan.explain() };
    match global.output {
        Output::Text => {
            let settings = settings.into_iter().map(Into::into).collect();
            output::print(&Explanation { settings, ..explanation }.to_text())?;
            loaded.notes.iter().for_each(|note| output::print_note(note));
            refusal.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
        }
        Output::Json => {
            let mut answer = serde_json::to_value(&explanation)?;
            answer["settings"] = settings.iter().map(setting_json).collect();
            answer["notes"] = json!(loaded.notes);
            if let Some(error) = &refusal {
                answer["problems"] = error.problems().iter().map(output::problem_json).collect();
            }
            output::print_json(&answer)?;
            Ok(if refusal.is_some() { ExitCode::from(2) } else { ExitCode::SUCCESS })
        }
    }
}

/// A tree that is only too weak for `storage.guarantee` is drawn all the same, since so one sees where.
fn plan_without_guarantee(loaded: &Loaded) -> Option<Plan> {
    loaded.config.storage.guarantee?;
    let mut loaded = loaded.clone();
    loaded.config.storage.guarantee = None;
    app::plan(&loaded, &Metrics::new()).ok()
}

/// Asks the worker, which also knows of each backend whether it is left alone.
fn running(loaded: &Loaded, arguments: &Arguments, output: Output) -> anyhow::Result<ExitCode> {
    let answer = Client::new(loaded.config.admin.listen).get("/explain")?;
    let mut explanation: Explanation =
        serde_json::from_value(answer.context("the worker cannot explain its storage")?)?;
    explanation.journal = journal_of_running(&explanation.settings);
    if arguments.given {
        explanation.settings.retain(|setting| setting.origin != Origin::Default.to_string());
    }
    match output {
        Output::Text => output::print(&explanation.to_text())?,
        Output::Json => output::print_json(&serde_json::to_value(&explanation)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the journal promises of events that arrive by pub/sub.
fn journal_of(loaded: &Loaded) -> Option<String> {
    let mode = loaded.config.journal.mode;
    loaded.config.source.pubsub.enabled.then(|| format!("journal {}: {}", mode.as_str(), mode.promise()))
}

/// The same of a running worker, by its settings.
fn journal_of_running(settings: &[explain::Setting]) -> Option<String> {
    let value = |key: &str| settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str());
    // Values are as TOML writes them, and so a text is as JSON writes it, too.
    let mode: Mode = serde_json::from_str(value("journal.mode")?).ok()?;
    (value("source.pubsub.enabled")? == "true").then(|| format!("journal {}: {}", mode.as_str(), mode.promise()))
}

/// Shows what is known when the plugins do not go together: the tree as it is written, the values, the problems.
fn incomplete(loaded: &Loaded, settings: Vec<Setting>, error: ConfigError, output: Output) -> anyhow::Result<ExitCode> {
    let root = tree(loaded, "", &loaded.config.storage.backend);
    match output {
        Output::Text => {
            let settings: Vec<_> = settings.into_iter().map(Into::into).collect();
            output::print(&format!("{}\n{}", draw(&root), explain::table(&settings)))?;
            loaded.notes.iter().for_each(|note| output::print_note(note));
            Err(error.into())
        }
        Output::Json => {
            let settings: Vec<_> = settings.iter().map(setting_json).collect();
            let problems: Vec<_> = error.problems().iter().map(output::problem_json).collect();
            output::print_json(&json!({
                "tree": root.json(), "settings": settings, "notes": loaded.notes, "problems": problems,
            }))?;
            Ok(ExitCode::from(2))
        }
    }
}

/// A backend of the storage tree, as it is drawn.
struct Node<'a> {
    role: &'a str,
    name: &'a str,
    plugin: &'a str,
    children: Vec<Node<'a>>,
}

impl Node<'_> {
    fn json(&self) -> Value {
        let children: Vec<_> = self.children.iter().map(Node::json).collect();
        json!({ "role": self.role, "name": self.name, "plugin": self.plugin, "children": children })
    }

    fn label(&self) -> String {
        let role = if self.role.is_empty() { String::new() } else { format!("{}: ", self.role) };
        format!("{role}{}  plugin {}", self.name, self.plugin)
    }
}

/// The tree below a backend; the configuration has no circles and no unknown names.
fn tree<'a>(loaded: &'a Loaded, role: &'a str, name: &'a str) -> Node<'a> {
    let backend = loaded.config.backends.get(name);
    let children =
        backend.map(|backend| backend.children.iter().map(|(role, child)| tree(loaded, role, child)).collect());
    let plugin = backend.map_or("", |backend| backend.plugin.as_str());
    Node { role, name, plugin, children: children.unwrap_or_default() }
}

fn draw(root: &Node<'_>) -> String {
    let mut text = format!("{}\n", root.label());
    draw_children(root, "", &mut text);
    text
}

fn draw_children(node: &Node<'_>, indent: &str, text: &mut String) {
    for (index, child) in node.children.iter().enumerate() {
        let is_last = index + 1 == node.children.len();
        let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        writeln!(text, "{indent}{branch}{}", child.label()).expect("writing to a string does not fail");
        draw_children(child, &format!("{indent}{below}"), text);
    }
}

fn setting_json(setting: &Setting) -> Value {
    let mut value = origin_json(&setting.origin);
    value["key"] = Value::from(setting.key.as_str());
    value["value"] = setting.value.clone();
    value
}
