//! `explain`: draws the storage tree, and says where each value came from.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::output::{self, Output, origin_json};
use crate::config::{Loaded, Setting};

/// Draw the storage tree and say where each value of the configuration came from
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Show only the values that somebody gave, no defaults
    #[arg(long)]
    given: bool,
}

const AFTER_HELP: &str = "\
Examples:
  storage-worker explain
  STORAGE_BACKEND=memory storage-worker explain --given

Secrets are shown as [redacted].

Exit codes: 0 done, 2 wrong usage or configuration";

/// Loads the configuration and shows what it comes to.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let loaded = global.load()?;
    let mut settings = loaded.settings();
    if arguments.given {
        settings.retain(|setting| setting.origin != crate::config::Origin::Default);
    }
    let root = tree(&loaded, "", &loaded.config.storage.backend);
    match global.output {
        Output::Text => {
            output::print(&format!("{}\n{}", draw(&root), table(&settings)))?;
            loaded.notes.iter().for_each(|note| output::print_note(note));
        }
        Output::Json => {
            let settings: Vec<_> = settings.iter().map(setting_json).collect();
            output::print_json(&json!({ "storage": root.json(), "settings": settings, "notes": loaded.notes }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
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

fn table(settings: &[Setting]) -> String {
    let rows: Vec<_> = settings
        .iter()
        .map(|setting| {
            let value = if setting.value.is_null() { "none".to_owned() } else { setting.value.to_string() };
            (setting.key.as_str(), value, setting.origin.to_string())
        })
        .collect();
    let keys = rows.iter().map(|(key, _, _)| key.chars().count()).max().unwrap_or_default();
    let values = rows.iter().map(|(_, value, _)| value.chars().count().min(48)).max().unwrap_or_default();
    let mut text = String::new();
    for (key, value, origin) in rows {
        writeln!(text, "{key:keys$}  {value:values$}  {origin}").expect("writing to a string does not fail");
    }
    text
}

fn setting_json(setting: &Setting) -> Value {
    let mut value = origin_json(&setting.origin);
    value["key"] = Value::from(setting.key.as_str());
    value["value"] = setting.value.clone();
    value
}
