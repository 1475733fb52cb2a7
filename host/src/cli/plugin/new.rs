//! `plugin new`: a crate for a new plugin that builds, stores and passes the conformance kit at once.
//!
//! What is written stands in `host/templates/plugin`; `plugin_api.rs` is the copy of plugin-api that goes with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::super::output::{self, Output};
use super::super::{Global, UsageError};
use super::plugin_api;
use crate::plugin::find;

pub(super) const HELP: &str = "\
The crate is a directory `storage-backend-NAME` that needs nothing beside it: put it into a repository of its
own. The README in it says how to build, test and run the plugin.

Examples:
  storage-worker plugin new my-store
  storage-worker plugin new my-store --kind backend --async --path ~/code/my-store

Exit codes: 0 done, 1 the files cannot be written, 2 wrong usage";

/// Longest name of a plugin, in characters; it becomes a part of file names and metrics.
const MAX_NAME: usize = 40;

macro_rules! template {
    ($file:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/plugin/", $file))
    };
}

#[derive(Args, Debug)]
pub(crate) struct NewArguments {
    /// What the plugin is called in a configuration: lower-case letters, digits and `-`
    name: String,
    /// What the plugin implements
    #[arg(
        long,
        value_enum,
        value_name = "KIND",
        default_value = "documents",
        default_value_if("is_async", "true", "backend")
    )]
    kind: Kind,
    /// With `async fn`, on a tokio runtime of the plugin's own; for a backend
    #[arg(long = "async")]
    is_async: bool,
    /// The directory to make [default: storage-backend-NAME]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Depend on the published plugin-api, instead of a copy of its sources beside the crate; says so while there is none
    #[arg(long)]
    registry: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// `DocumentStore`: keeps bytes under an id, the worker merges
    Documents,
    /// `Backend`: merges by itself
    Backend,
}

/// Writes the crate.
pub(super) fn run(arguments: &NewArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let name = &arguments.name;
    check_name(name)?;
    if arguments.is_async && arguments.kind == Kind::Documents {
        let message = "a document store is synchronous; give `--kind backend` with `--async`, or leave `--async` out";
        return Err(UsageError(message.to_owned()).into());
    }
    let directory = arguments.path.clone().unwrap_or_else(|| PathBuf::from(format!("storage-backend-{name}")));
    if directory.exists() && fs::read_dir(&directory).map_or(true, |mut entries| entries.next().is_some()) {
        let message =
            format!("`{}` exists and is not an empty directory; name another with --path", directory.display());
        return Err(UsageError(message).into());
    }
    let files = files(name, Variant::of(arguments), arguments.registry);
    for (file, text) in &files {
        write(&directory.join(file), text)?;
    }
    answer(global.output, name, &directory, files.len())?;
    if arguments.registry && !plugin_api::IS_PUBLISHED {
        output::print_note(&format!(
            "storage-plugin-api {} is not published yet, so cargo cannot build this before it is; begin without \
             --registry to build now",
            plugin_api::VERSION
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn check_name(name: &str) -> Result<(), UsageError> {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
    let starts_with_letter = name.starts_with(|first: char| first.is_ascii_lowercase());
    if name.len() > MAX_NAME || !starts_with_letter || !name.split('-').all(is_word) {
        return Err(UsageError(format!(
            "`{name}` cannot be the name of a plugin; it has lower-case letters, digits and single `-` between them, \
             begins with a letter, and has at most {MAX_NAME} characters"
        )));
    }
    // The directory of the executable is searched first, so a plugin of that name would never be found by it.
    match find::resolve(name, &find::directories(&[])) {
        Ok(path) => Err(UsageError(format!(
            "there is a plugin `{name}` already, `{}`, and it would be found first; take another name",
            path.display()
        ))),
        Err(_) => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let context = || format!("cannot write `{}`", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(context)?;
    }
    fs::write(path, text).with_context(context)
}

/// What differs between the kinds of plugins.
struct Variant {
    summary: &'static str,
    sources: &'static [(&'static str, &'static str)],
    /// What stands in the README about the sources.
    about: &'static str,
    features: &'static str,
    dependencies: &'static str,
    options_json: &'static str,
    options_toml: &'static str,
    option_row: &'static str,
}

impl Variant {
    fn of(arguments: &NewArguments) -> &'static Self {
        match (arguments.kind, arguments.is_async) {
            (Kind::Documents, _) => &DOCUMENTS,
            (Kind::Backend, false) => &BACKEND,
            (Kind::Backend, true) => &ASYNCHRONOUS,
        }
    }
}

const DOCUMENTS: Variant = Variant {
    summary: "a file per evaluation, volatile, for one process at a time",
    sources: &[("src/lib.rs", template!("documents.rs")), ("src/files.rs", template!("files.rs"))],
    about: "- `src/lib.rs`: the options and the `DocumentStore`. `src/files.rs`: reading and writing single files.",
    features: "",
    dependencies: "",
    options_json: r#"{"path": "{dir}"}"#,
    options_toml: "path = \"./data\"",
    option_row: "| `path` | the directory of the files; made if it is not there |",
};

const BACKEND: Variant = Variant {
    summary: "states in memory, volatile",
    sources: &[("src/lib.rs", template!("backend.rs")), ("src/states.rs", template!("states.rs"))],
    about: "- `src/lib.rs`: the options and the `Backend`. `src/states.rs`: what a merge, a list and a delete do.",
    features: "",
    dependencies: "",
    options_json: "{}",
    options_toml: "max_evaluations = 100000",
    option_row: "| `max_evaluations` | at most so many are kept, further ones wait; default 100000 |",
};

const ASYNCHRONOUS: Variant = Variant {
    sources: &[("src/lib.rs", template!("asynchronous.rs")), ("src/states.rs", template!("states.rs"))],
    about: "- `src/lib.rs`: the options and the `AsyncBackend`. `src/states.rs`: what a merge, a list and a delete do.",
    features: ", features = [\"tokio\"]",
    dependencies: "tokio = { version = \"1\", default-features = false, features = [\"sync\"] }\n",
    ..BACKEND
};

/// Every file of the crate, by its path in it.
fn files(name: &str, variant: &Variant, from_registry: bool) -> Vec<(String, String)> {
    let snake = name.replace('-', "_");
    let place = match from_registry {
        true => format!("version = \"{}\"", plugin_api::VERSION),
        false => "path = \"plugin-api\"".to_owned(),
    };
    let api_files = match from_registry {
        true => "",
        false => {
            "- `plugin-api/`: a copy of `storage-plugin-api`, unchanged. Once a version is published, remove the directory and \
             write that version in `Cargo.toml` instead of the path.\n"
        }
    };
    let fill = |text: &str| {
        // Longer words first: one begins with another.
        text.replace("PLUGIN_API_FILES\n", api_files)
            .replace("PLUGIN_API", &format!("{place}{}", variant.features))
            .replace("PLUGIN_DEPENDENCIES", variant.dependencies)
            .replace("PLUGIN_FILES", variant.about)
            .replace("PLUGIN_LIBRARY", &find::file_name(name))
            .replace("PLUGIN_OPTION_ROW", variant.option_row)
            .replace("PLUGIN_OPTIONS", variant.options_json)
            .replace("PLUGIN_SUMMARY", variant.summary)
            .replace("PLUGIN_TOML", variant.options_toml)
            .replace("PLUGIN_SNAKE", &snake)
            .replace("PLUGIN_NAME", name)
    };
    let common = [
        ("Cargo.toml", template!("Cargo.toml.template")),
        ("README.md", template!("README.md.template")),
        ("tests/conformance.rs", template!("conformance.rs")),
        (".github/workflows/ci.yml", template!("ci.yml")),
        (".gitignore", template!("gitignore")),
    ];
    let mut files: Vec<(String, String)> =
        common.iter().chain(variant.sources).map(|(file, text)| ((*file).to_owned(), fill(text))).collect();
    // The versions that our own tests ran with; cargo drops what the crate does not use.
    files.push(("Cargo.lock".to_owned(), plugin_api::LOCK.to_owned()));
    if !from_registry {
        files.extend(plugin_api::files().into_iter().map(|(file, text)| (format!("plugin-api/{file}"), text)));
    }
    files
}

fn answer(format: Output, name: &str, directory: &Path, files: usize) -> std::io::Result<()> {
    let place = directory.display();
    match format {
        Output::Json => output::print_json(&json!({ "name": name, "directory": place.to_string(), "files": files })),
        Output::Text => output::print(&format!(
            "`{place}` has the plugin `{name}`, ready to build; its README.md says how to go on:\n  cd {place}\n  cargo test"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_found_are_refused() {
        for name in ["a", "my-store", "s3", "a-1"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "a--b", "A", "1a", "a_b", "a/b", "ä", &"a".repeat(41)] {
            let error = check_name(name).expect_err("it is no name").to_string();
            assert!(error.contains("lower-case letters"), "{error}");
        }
    }

    #[test]
    fn no_word_of_a_template_is_left() {
        for variant in [&DOCUMENTS, &BACKEND, &ASYNCHRONOUS] {
            for from_registry in [false, true] {
                let files = files("my-store", variant, from_registry);
                let left =
                    files.iter().find(|(file, text)| !file.starts_with("plugin-api") && text.contains("PLUGIN_"));
                assert!(left.is_none(), "{left:?}");
                assert_eq!(files.iter().any(|(file, _)| file == "plugin-api/src/lib.rs"), !from_registry);
            }
        }
    }
}
