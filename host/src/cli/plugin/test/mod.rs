//! `plugin test`: runs the conformance kit of plugin-api against a built plugin, over the real boundary.
//!
//! The plugin is loaded in processes of its own (`child.rs`, `processes.rs`), several at once; this one only hands out
//! the behaviors (`crew.rs`) and prints what became of them (`scorecard.rs`).

mod again;
mod child;
mod crew;
mod processes;
mod scorecard;
mod subject;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::Value;
use storage_plugin_api::conformance::{self, Behavior, Level, behaviors};

use self::again::Again;
use self::crew::Crew;
use self::processes::Children;
use self::subject::Origin;
use super::super::output::{self, Output};
use super::super::{Global, UsageError};
use crate::plugin::{Loader, find, manifest};
use crate::telemetry::metrics::Metrics;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The path of a file, or a name in `storage.plugin_dirs`
    #[arg(required_unless_present_any = ["backend", "list"], conflicts_with = "backend")]
    plugin: Option<String>,

    /// The options to open it with; `{dir}` stands for a directory, `{place}` for a name, fresh for each behavior
    #[arg(long, value_name = "JSON", default_value = "{}", conflicts_with = "backend")]
    options: String,

    /// A backend of the configuration, with its children; `{dir}` in options as in --options
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Options whose far side cannot be reached, say a port where nothing listens; `{dir}` as in --options
    #[arg(long, value_name = "JSON")]
    away_options: Option<String>,

    /// Fail unless the backend reaches this level
    #[arg(long, value_enum, value_name = "LEVEL", conflicts_with_all = ["only", "list"])]
    level: Option<LevelArgument>,

    /// Fail unless the backend earns this badge, which stands beside the levels
    #[arg(long, value_enum, value_name = "BADGE", conflicts_with_all = ["only", "list"])]
    badge: Option<Badge>,

    /// Run only this behavior, or this family; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// What everything random is made from [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// How many behaviors run at the same time [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,

    /// How long a behavior may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    timeout: u64,

    /// How many times each process of `shared.four_processes` goes through its ids
    #[arg(long, value_name = "COUNT", default_value_t = conformance::DEFAULT_ROUNDS)]
    rounds: u64,

    /// List the behaviors, run none
    #[arg(long)]
    list: bool,

    /// What a process of the test does
    #[arg(long, hide = true, overrides_with = "child")]
    child: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelArgument {
    /// Merges, reads, lists, opens and closes right
    Basic,
    /// And what is answered survives a crash
    Durable,
    /// And lists newest first, counts, prunes, deletes by digest
    Complete,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Badge {
    /// Works for several processes at once
    Shared,
}

impl Arguments {
    /// The levels that must be reached.
    fn demanded(&self) -> Vec<Level> {
        let level = self.level.map(|level| match level {
            LevelArgument::Basic => Level::Basic,
            LevelArgument::Durable => Level::Durable,
            LevelArgument::Complete => Level::Complete,
        });
        level.into_iter().chain(self.badge.map(|Badge::Shared| Level::Shared)).collect()
    }
}

pub(super) const HELP: &str = "\
Examples:
  storage-worker plugin test ./libstorage_backend_mine.so
  storage-worker plugin test file --options '{\"path\":\"{dir}\"}'
  storage-worker plugin test file --options '{\"path\":\"{dir}\"}' --level durable
  storage-worker plugin test --config tree.toml --backend cached
  storage-worker plugin test ./libstorage_backend_mine.so --only merge.order --seed 7

Levels: basic, durable, complete, each with what the ones before it ask; the badge `shared` beside them.
The plugin's log is shown with --log-level. See docs/plugin-testing.md.

Exit codes: 0 nothing failed and what was demanded is reached, 1 otherwise, 2 wrong usage or configuration";

/// Seconds of a behavior's time that are left when other processes must be done.
const JUDGING: u64 = 20;

/// A test as the arguments ask for it.
pub(super) struct Test<'a> {
    arguments: &'a Arguments,
    global: &'a Global,
}

pub(super) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let test = Test { arguments, global };
    if let Some(errand) = &arguments.child {
        return child::run(&test, errand);
    }
    if arguments.list {
        return list(&test.chosen()?, global.output);
    }
    let chosen = test.chosen()?;
    test.away()?;
    // Says what is wrong with a file before any of its code is run.
    test.inspect()?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    // Before there is anything to clean up.
    let stop = crew::stop_on_signals()?;
    let work = Work::new().context("cannot make a temporary directory")?;
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let crew = Crew {
        children: test.children(),
        work: &work.0,
        seed,
        limit: Duration::from_secs(arguments.timeout.max(1)),
        jobs,
        stop,
    };
    let start = Instant::now();
    let run = crew.run(&chosen)?;
    let is_whole = arguments.only.is_empty();
    let again = Again::of(arguments, global);
    let demanded = arguments.demanded();
    let card = scorecard::Scorecard { run: &run, seed, took: start.elapsed(), is_whole, again, demanded };
    match global.output {
        Output::Text => output::print(&card.text())?,
        Output::Json => output::print_json(&card.json())?,
    }
    Ok(if card.has_failed() || !card.has_what_was_demanded() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list(chosen: &[&'static Behavior], format: Output) -> anyhow::Result<ExitCode> {
    match format {
        Output::Text => output::print(&scorecard::list(chosen))?,
        Output::Json => {
            output::print_json(&chosen.iter().map(|behavior| scorecard::behavior_json(behavior)).collect())?
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Test<'_> {
    /// The behaviors that are asked for.
    fn chosen(&self) -> anyhow::Result<Vec<&'static Behavior>> {
        let only = &self.arguments.only;
        let is_meant = |behavior: &Behavior, name: &str| behavior.name == name || behavior.family() == name;
        if let Some(name) = only.iter().find(|name| !behaviors().any(|behavior| is_meant(behavior, name))) {
            return Err(UsageError(format!("there is no behavior and no family `{name}`; `--list` names all")).into());
        }
        let chosen = |behavior: &&Behavior| only.is_empty() || only.iter().any(|name| is_meant(behavior, name));
        Ok(behaviors().filter(chosen).collect())
    }

    fn children(&self) -> Children {
        Children {
            are_loud: self.global.log_level.is_some(),
            flood_limit: Duration::from_secs(self.arguments.timeout.saturating_sub(JUDGING).max(1)),
        }
    }

    /// True for a plugin's file, false for a backend of the configuration.
    fn is_file(&self) -> bool {
        self.arguments.backend.is_none()
    }

    fn away(&self) -> anyhow::Result<Option<Value>> {
        self.arguments.away_options.as_deref().map(|text| options("--away-options", text)).transpose()
    }

    fn inspect(&self) -> anyhow::Result<()> {
        let Some(plugin) = &self.arguments.plugin else {
            let loaded = self.global.load()?;
            let backend = self.arguments.backend.as_deref().unwrap_or_default();
            if !loaded.config.backends.contains_key(backend) {
                let known: Vec<&str> = loaded.config.backends.keys().map(String::as_str).collect();
                let known = known.join("`, `");
                return Err(UsageError(format!("there is no `[backends.{backend}]`; there are `{known}`")).into());
            }
            return Ok(());
        };
        options("--options", &self.arguments.options)?;
        let directories = find::directories(&self.global.load()?.config.storage.plugin_dirs);
        let path = find::resolve(&as_path(plugin), &directories).map_err(|error| UsageError(error.to_string()))?;
        let checked = manifest::inspect(&path).and_then(|inspected| manifest::check(&inspected.manifest));
        checked.map_err(|error| UsageError(format!("cannot test `{}`: {error}", path.display())).into())
    }

    /// The plugin, for people, and what to open.
    fn origin(&self) -> anyhow::Result<(String, Origin)> {
        let loaded = self.global.load()?;
        let storage = &loaded.config.storage;
        let metrics = Arc::new(Metrics::new());
        let loader = Loader::new(&storage.plugin_dirs, storage.plugin_cache_dir.as_deref(), metrics);
        if let Some(backend) = &self.arguments.backend {
            let config = crate::storage::Config { backend: backend.clone(), guarantee: None, ..storage.clone() };
            let origin =
                Origin::Tree { loader: Arc::new(loader), config: Box::new(config), backends: loaded.config.backends };
            return Ok((format!("backend `{backend}`"), origin));
        }
        let plugin = self.arguments.plugin.as_deref().unwrap_or_default();
        let library = loader.load(&as_path(plugin), None)?;
        let manifest = library.manifest();
        let text = format!("plugin `{}` {} ({})", manifest.name, manifest.version, library.path().display());
        let options = options("--options", &self.arguments.options)?;
        Ok((text, Origin::File { library, options }))
    }
}

/// A file of this directory is meant as such, although it has no `/`.
fn as_path(plugin: &str) -> String {
    let is_here = !plugin.contains('/') && plugin.contains('.') && Path::new(plugin).is_file();
    if is_here { format!("./{plugin}") } else { plugin.to_owned() }
}

fn options(name: &str, text: &str) -> anyhow::Result<Value> {
    match serde_json::from_str(text) {
        Ok(Value::Object(options)) => Ok(Value::Object(options)),
        Ok(_) => Err(UsageError(format!("`{name}` is no JSON object; write {name} '{{\"path\":\"{{dir}}\"}}'")).into()),
        Err(error) => {
            let text = format!("`{name}` is no JSON: {error}; write {name} '{{\"path\":\"{{dir}}\"}}'");
            Err(UsageError(text).into())
        }
    }
}

/// The directory of everything that a test makes; it goes with it.
struct Work(PathBuf);

impl Work {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let name = format!("storage-worker-test-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // A process that was killed may still have a write under way, which makes a file again.
        for _ in 0..50 {
            if std::fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
