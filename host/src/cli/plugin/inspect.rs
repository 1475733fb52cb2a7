//! `plugin list` and `plugin inspect`: what plugins there are, and what one is. None of their code is run.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use storage_plugin_api::manifest::{API_VERSION, Manifest};

use super::output::{self, Output};
use crate::error_chain::with_causes;
use crate::plugin::{find, manifest, trust};

pub(super) const LIST_HELP: &str = "\
Examples:
  storage-worker plugin list
  storage-worker plugin list --set 'storage.plugin_dirs=[\"target/release\"]' --output json

Exit codes: 0 done, 2 wrong usage or configuration";

pub(super) const INSPECT_HELP: &str = "\
Examples:
  storage-worker plugin inspect file
  storage-worker plugin inspect ./libstorage_backend_mine.so

Exit codes: 0 this worker can run it, 1 it cannot, 2 wrong usage or configuration";

/// Shows what the file of every plugin in these directories says of itself, and on the side where was looked.
pub(super) fn list(directories: &[PathBuf], format: Output) -> anyhow::Result<ExitCode> {
    let found = find::all(directories);
    let plugins: Vec<_> = found.iter().map(|(name, path)| (name, Inspected::of(path))).collect();
    match format {
        Output::Json => output::print_json(&plugins.iter().map(|(_, plugin)| plugin.json()).collect())?,
        Output::Text if plugins.is_empty() => {
            output::print("no plugins; name their directory in `storage.plugin_dirs`")?
        }
        Output::Text => output::print(&plugins.iter().map(|(name, plugin)| plugin.line(name)).collect::<String>())?,
    }
    if format == Output::Text {
        output::print_note(&format!("looked in {}", find::describe(directories)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what the file of a plugin says of itself.
pub(super) fn inspect(path: &Path, format: Output) -> anyhow::Result<ExitCode> {
    let plugin = Inspected::of(path);
    match format {
        Output::Json => output::print_json(&plugin.json())?,
        Output::Text => output::print(&plugin.text())?,
    }
    Ok(if plugin.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is known of a plugin's file.
struct Inspected {
    path: String,
    manifest: Option<Manifest>,
    sha256: Option<String>,
    /// Why this worker cannot run it.
    problem: Option<String>,
}

impl Inspected {
    fn of(path: &Path) -> Self {
        let trusted = trust::check(path).map_err(|error| with_causes(&error));
        let read = manifest::inspect(path);
        let (manifest, sha256, problem) = match read {
            Ok(inspected) => {
                let runnable = manifest::check(&inspected.manifest).map_err(|error| with_causes(&error));
                (Some(inspected.manifest), Some(inspected.sha256), trusted.and(runnable).err())
            }
            Err(error) => (None, None, Some(with_causes(&error))),
        };
        Self { path: path.display().to_string(), manifest, sha256, problem }
    }

    fn json(&self) -> Value {
        let mut value = json!({ "file": self.path, "sha256": self.sha256, "problem": self.problem });
        if let Some(manifest) = &self.manifest {
            value["name"] = Value::from(manifest.name.as_str());
            value["version"] = Value::from(manifest.version.as_str());
            value["kind"] = Value::from(manifest.kind.as_str());
            value["api"] = Value::from(manifest.api.as_str());
            value["abi"] = Value::from(manifest.abi.as_str());
            value["rustc"] = Value::from(manifest.rustc.as_str());
            value["compiler"] = Value::from(manifest.compiler.as_str());
            value["target"] = Value::from(manifest.target.as_str());
            value["panic"] = Value::from(manifest.panic.as_str());
        }
        value
    }

    /// One line, and one more if there is a problem. `name` is that of the file, which is how the plugin is found.
    fn line(&self, name: &str) -> String {
        let what = match &self.manifest {
            Some(manifest) => {
                format!("{:<16}  {:<9}  plugin-api {:<7}", name, manifest.version, manifest.api)
            }
            None => format!("{name:<16}  {:<9}  {:<18}", "", ""),
        };
        let problem = self.problem.as_ref().map(|problem| format!("\n  cannot be run: {problem}")).unwrap_or_default();
        format!("{what}  {}{problem}\n", self.path)
    }

    fn text(&self) -> String {
        let mut rows = vec![("file", self.path.clone())];
        if let Some(manifest) = &self.manifest {
            rows.extend([
                ("name", manifest.name.clone()),
                ("version", manifest.version.clone()),
                ("kind", manifest.kind.clone()),
                ("plugin-api", format!("{} (this worker: {API_VERSION})", manifest.api)),
                ("rustc", manifest.rustc.clone()),
                ("compiler", manifest.compiler.clone()),
                ("target", manifest.target.clone()),
                ("panic", manifest.panic.clone()),
            ]);
            // A plugin in Rust has no C compiler, one in C no panics.
            rows.retain(|(_, value)| !value.is_empty());
        }
        rows.extend(self.sha256.iter().map(|sha256| ("sha256", sha256.clone())));
        rows.push(match &self.problem {
            Some(problem) => ("cannot be run", problem.clone()),
            None => ("can be run", "yes".to_owned()),
        });
        let mut text = String::new();
        for (name, value) in rows {
            writeln!(text, "{name:<13}  {value}").expect("writing to a string does not fail");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_plugin_is_told_with_the_reason() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(find::file_name("odd"));
        std::fs::write(&path, "no library").expect("written");

        let plugin = Inspected::of(&path);

        assert!(
            plugin.problem.as_ref().is_some_and(|problem| problem.contains("not a shared library")),
            "{:?}",
            plugin.problem
        );
        assert!(plugin.line("odd").contains("cannot be run: not a shared library"), "{}", plugin.line("odd"));
        assert_eq!(plugin.json()["sha256"], Value::Null);
    }
}
