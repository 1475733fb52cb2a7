//! `plugin lock`: writes down which builds of its plugins a configuration may run.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::super::output::{self, Output};
use super::super::{Global, UsageError};
use crate::error_chain::with_causes;
use crate::plugin::lock::{Lock, Locked};
use crate::plugin::{LoadError, find, inspected};

pub(super) const HELP: &str = "\
The lock file lies beside the configuration: that of prod.toml is prod.lock. Where there is one, the worker
runs only the builds in it. Run this again after a plugin was replaced on purpose.

Examples:
  storage-worker --config prod.toml plugin lock
  storage-worker --config prod.toml plugin lock --check

Exit codes: 0 done, 1 the lock file is not what it should be (--check), 2 wrong usage or configuration";

/// Writes the lock file of the configuration, or says how it differs from what it should be.
pub(super) fn run(is_check: bool, global: &Global) -> anyhow::Result<ExitCode> {
    let loaded = global.load()?;
    let Some(file) = &loaded.file else {
        let message = "there is no configuration file to lock the plugins of; name one: `--config FILE`";
        return Err(UsageError(message.to_owned()).into());
    };
    let directories = find::directories(&loaded.config.storage.plugin_dirs);
    let mut plugins = BTreeMap::new();
    for backend in loaded.config.backends.values() {
        let locked = locked(&backend.plugin, backend.sha256.as_deref(), &directories);
        plugins.insert(backend.plugin.clone(), locked.map_err(|error| UsageError(with_causes(&error)))?);
    }
    let old = Lock::beside(file);
    let new = Lock { path: Lock::path_beside(file), plugins };
    let changes = changes(old.as_ref().ok().and_then(Option::as_ref), &new.plugins);
    let is_current = matches!(&old, Ok(Some(old)) if changes.is_empty() && old.plugins == new.plugins);
    if !is_check && !is_current {
        new.write().map_err(|error| anyhow::anyhow!("cannot write `{}`: {error}", new.path.display()))?;
    }
    let damage = old.as_ref().err().map(|error| error.to_string());
    let done = match (is_check, is_current) {
        (_, true) => "is current",
        (false, false) => "was written",
        (true, false) => "is not current; run `storage-worker plugin lock` if these builds are wanted",
    };
    answer(global.output, &new.path, done, is_current, damage.as_deref(), &changes)?;
    Ok(if is_check && !is_current { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The build that the configuration finds now, if this worker would run it.
fn locked(plugin: &str, pin: Option<&str>, directories: &[std::path::PathBuf]) -> Result<Locked, LoadError> {
    let path = find::resolve(plugin, directories)?;
    let inspected = inspected(plugin, &path, pin)?;
    Ok(Locked { version: inspected.manifest.version, sha256: inspected.sha256 })
}

/// What a new lock file changes; of a plugin that is in both, what was and what is.
struct Change<'a> {
    plugin: &'a str,
    old: Option<&'a Locked>,
    new: Option<&'a Locked>,
}

fn changes<'a>(old: Option<&'a Lock>, new: &'a BTreeMap<String, Locked>) -> Vec<Change<'a>> {
    let before = |plugin: &str| old.and_then(|lock| lock.plugins.get(plugin));
    let kept = new.iter().map(|(plugin, locked)| Change { plugin, old: before(plugin), new: Some(locked) });
    let gone = old.into_iter().flat_map(|lock| &lock.plugins).filter(|(plugin, _)| !new.contains_key(*plugin));
    let gone = gone.map(|(plugin, locked)| Change { plugin, old: Some(locked), new: None });
    kept.chain(gone).filter(|change| change.old != change.new).collect()
}

impl Change<'_> {
    fn line(&self) -> String {
        let build = |locked: &Locked| format!("{} {}", locked.version, locked.sha256);
        match (self.old, self.new) {
            (Some(old), Some(new)) => {
                format!(
                    "  changed  {}\n             from {}\n             to   {}\n",
                    self.plugin,
                    build(old),
                    build(new)
                )
            }
            (None, Some(new)) => format!("  added    {}  {}\n", self.plugin, build(new)),
            (Some(old), None) => format!("  removed  {}  {}\n", self.plugin, build(old)),
            (None, None) => String::new(),
        }
    }

    fn json(&self) -> Value {
        json!({ "plugin": self.plugin, "old": self.old, "new": self.new })
    }
}

fn answer(
    format: Output,
    path: &Path,
    done: &str,
    is_current: bool,
    damage: Option<&str>,
    changes: &[Change<'_>],
) -> std::io::Result<()> {
    let file = path.display().to_string();
    match format {
        Output::Json => {
            let changes: Vec<Value> = changes.iter().map(Change::json).collect();
            output::print_json(
                &json!({ "file": file, "was_current": is_current, "damage": damage, "changes": changes }),
            )
        }
        Output::Text => {
            let damage = damage.map(|damage| format!("  {damage}\n")).unwrap_or_default();
            output::print(&format!("{file} {done}\n{damage}{}", changes.iter().map(Change::line).collect::<String>()))
        }
    }
}
