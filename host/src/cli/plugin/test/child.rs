//! The processes of a test run: they load the plugin, so that a crash or a hang in it ends no more than one of them.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};

use serde::{Deserialize, Serialize};
use storage_plugin_api::conformance::{Flood, Place, Report, Step, Subject, Verdict, behaviors};
use storage_plugin_api::{Call, Description, Error};

use super::Test;
use super::processes::{Errand, MARK};
use super::subject::{OPEN_BUDGET, Tested, new_directory};

/// Asked for instead of a behavior: whether it opens at all.
pub(super) const OPEN: &str = "@open";

/// What a child says once it has loaded the plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Greeting {
    /// It can be tested.
    Ready {
        /// The plugin, for people.
        plugin: String,
        description: Box<Description>,
        /// All behaviors share one place, and perhaps others use it too.
        is_shared_place: bool,
    },
    /// Its options or file are refused.
    Refused { reason: String },
}

/// Does what a parent wants of this process.
pub(super) fn run(test: &Test<'_>, errand: &str) -> anyhow::Result<ExitCode> {
    let lines = lines_of_parent()?;
    match serde_json::from_str(errand)? {
        Errand::Behaviors { work, seed } => behave(test, work, seed, &lines),
        Errand::Flood { directory, flood } => {
            let merged = match tested(test, Path::new(""), &directory) {
                Ok(tested) => merge(&tested, directory, &flood),
                Err(error) => Err(error),
            };
            if let Err(error) = merged {
                tell(&format!("failed `{}`: {error}", error.kind));
            }
        }
    }
    // What is left open must not hold up the end.
    std::process::exit(0)
}

/// Names that the parent asks for. Its end is the end of this process, whatever it is at.
fn lines_of_parent() -> std::io::Result<Receiver<String>> {
    let (sender, lines) = channel();
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
        std::process::exit(0)
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(read)?;
    Ok(lines)
}

/// One write for each line, so that none is cut by what a plugin prints.
fn tell(line: &str) {
    let line = format!("{MARK}{}\n", line.replace('\n', " "));
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

fn tell_json(value: &impl Serialize) {
    tell(&serde_json::to_string(value).expect("what a child tells has only text keys"));
}

/// The backend under test, as it describes itself at some directory.
fn tested(test: &Test<'_>, work: &Path, directory: &Path) -> Result<Tested, Error> {
    let (_, origin) = test.origin().map_err(|error| Error::configuration(format!("{error:#}")))?;
    let away = test.away().map_err(|error| Error::configuration(format!("{error:#}")))?;
    let description = origin.describe(directory)?;
    if !description.problems.is_empty() {
        return Err(Error::configuration(description.problems.join("; ")));
    }
    if description.roles.iter().any(|role| role.required) && test.is_file() {
        return Err(Error::configuration(
            "it is a layer and needs children; name it in a configuration and test it with `--config FILE --backend NAME`",
        ));
    }
    let (work, children, rounds) = (work.to_owned(), test.children(), test.arguments.rounds);
    Ok(Tested { origin, away, work, children, description, rounds })
}

fn behave(test: &Test<'_>, work: PathBuf, seed: u64, names: &Receiver<String>) {
    // As it is for every place: there, and empty.
    let tested = new_directory(&work).and_then(|directory| {
        let tested = tested(test, &work, &directory);
        let _ = std::fs::remove_dir_all(directory);
        tested
    });
    let tested = match tested {
        Ok(tested) => tested,
        Err(error) => return tell_json(&Greeting::Refused { reason: error.message }),
    };
    let plugin = test.origin().map(|(plugin, _)| plugin).unwrap_or_default();
    let description = Box::new(tested.description.clone());
    tell_json(&Greeting::Ready { plugin, description, is_shared_place: tested.has_others() });
    for name in names {
        let report = match behaviors().find(|behavior| behavior.name == name) {
            Some(behavior) => behavior.run(&tested, seed),
            None => opens(&tested),
        };
        tell_json(&report);
    }
}

fn opens(tested: &Tested) -> Report {
    let opened = tested.place().and_then(|place| {
        let backend = place.open()?;
        backend.close(&Call::with_budget(OPEN_BUDGET))
    });
    let verdict = match opened {
        Ok(()) => Verdict::Passed,
        Err(error) => Verdict::Failed {
            expected: "it opens and closes".to_owned(),
            seen: format!("error `{}`: {error}", error.kind),
        },
    };
    Report { verdict, notes: Vec::new() }
}

fn merge(tested: &Tested, directory: PathBuf, flood: &Flood) -> Result<(), Error> {
    let backend = tested.place_at(directory, false).open()?;
    flood.run(&*backend, |step| match step {
        Step::Merging(number) => tell(&format!("merging {number}")),
        Step::Answered(number) => tell(&format!("answered {number}")),
    })?;
    backend.close(&Call::with_budget(OPEN_BUDGET))
}
