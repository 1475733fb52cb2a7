//! From a plugin's name to its file.
//!
//! A name is looked up as `libstorage_backend_<name>.so` in the directory of the executable and then in
//! `storage.plugin_dirs`; what contains a `/` is a path and is taken as it is.

use std::collections::BTreeMap;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use thiserror::Error;

const STEM: &str = "storage_backend_";

/// There is no such plugin.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct NotFound {
    message: String,
}

/// The directories to search, in order: that of the executable, then those of the configuration.
pub(crate) fn directories(configured: &[PathBuf]) -> Vec<PathBuf> {
    let executable = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    executable.into_iter().chain(configured.iter().cloned()).collect()
}

/// The file of a plugin.
///
/// # Errors
/// When there is none; the text lists those that there are, and where it looked.
pub(crate) fn resolve(plugin: &str, directories: &[PathBuf]) -> Result<PathBuf, NotFound> {
    if plugin.contains('/') {
        // Made absolute, since a bare name would make the dynamic linker search its own path.
        return std::fs::canonicalize(plugin).map_err(|error| NotFound {
            message: format!(
                "cannot find plugin `{plugin}`: {error}; `plugin` is a path to a file, or a name without `/`"
            ),
        });
    }
    let file = file_name(plugin);
    let found = directories.iter().map(|directory| directory.join(&file)).find(|path| path.is_file());
    let found = found.and_then(|path| std::fs::canonicalize(path).ok());
    found.ok_or_else(|| NotFound { message: not_found(plugin, &file, directories) })
}

/// The name of a plugin's file.
pub(crate) fn file_name(plugin: &str) -> String {
    format!("{DLL_PREFIX}{STEM}{}{DLL_SUFFIX}", plugin.replace('-', "_"))
}

/// Every file that is named as a plugin, by its plugin's name; of two of one name the one that would be loaded.
pub(crate) fn all(directories: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for directory in directories {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let stem = name.to_str().and_then(|name| name.strip_prefix(DLL_PREFIX)?.strip_suffix(DLL_SUFFIX));
            if let Some(plugin) = stem.and_then(|stem| stem.strip_prefix(STEM)) {
                found.entry(plugin.replace('_', "-")).or_insert_with(|| entry.path());
            }
        }
    }
    found
}

/// The directories for people, and which of them cannot be looked into.
pub(crate) fn describe(directories: &[PathBuf]) -> String {
    let describe = |directory: &PathBuf| {
        let problem = match std::fs::read_dir(directory) {
            Ok(_) => String::new(),
            Err(error) if error.kind() == ErrorKind::NotFound => " (no such directory)".to_owned(),
            Err(error) => format!(" (cannot be read: {error})"),
        };
        format!("`{}`{problem}", directory.display())
    };
    directories.iter().map(describe).collect::<Vec<_>>().join(", ")
}

fn not_found(plugin: &str, file: &str, directories: &[PathBuf]) -> String {
    let mut message = format!("there is no plugin `{plugin}` (no file `{file}`); looked in {}", describe(directories));
    let known: Vec<String> = all(directories).into_keys().collect();
    match known.is_empty() {
        true => message.push_str(", where there are no plugins; put it there, or name its path"),
        false => {
            let known = known.join(", ");
            let _ = write!(message, ", where there are: {known}; name one of them, or put it there");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_is_not_there_names_those_that_are() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join(file_name("cached-composite")), b"").expect("a file");

        let error = resolve("postgres", &[directory.path().to_owned()]).expect_err("there is none");

        assert!(error.to_string().contains("libstorage_backend_postgres"), "{error}");
        assert!(error.to_string().contains("where there are: cached-composite; name one of them"), "{error}");
    }
}
