//! The options of the backend `sqlite`, and what an instance of them promises.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use storage_plugin_api::{Capabilities, Description, Durability};

/// Calls that are of use at once: one writes, some read, and some wait with their batches for their turn to write.
const PARALLEL_CALLS: usize = 8;

/// What can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The database file; it is made if it is missing, and so is its directory. On a local disk: over a network file
    /// system SQLite cannot share it.
    pub path: PathBuf,
    /// When a merge counts as stored. Default `"full"`.
    #[serde(default)]
    pub synchronous: Synchronous,
}

/// What a merge waits for; the words are SQLite's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Synchronous {
    /// Until the disk has it: one sync for each batch.
    #[default]
    Full,
    /// For nothing: a power failure loses what was merged last (the database stays whole), so the backend is volatile.
    Normal,
}

impl Options {
    pub(crate) fn durability(&self) -> Durability {
        match self.synchronous {
            Synchronous::Full => Durability::Durable,
            Synchronous::Normal => Durability::Volatile,
        }
    }

    pub(crate) fn describe(&self) -> Description {
        let capabilities = Capabilities {
            durable: self.durability() == Durability::Durable,
            evicting: false,
            exclusive: false,
            list_by_id: true,
            list_by_created: true,
            counts: true,
            blobs: true,
            states: true,
            prune: true,
            parallel_calls: PARALLEL_CALLS,
        };
        let mut notes =
            vec![format!("stores in the file `{}`, by SQLite {}", self.path.display(), rusqlite::version())];
        if self.synchronous == Synchronous::Normal {
            notes.push("a power failure loses what was merged last (`synchronous = \"normal\"`)".to_owned());
        }
        let problems = problem(&self.path).into_iter().collect();
        Description { capabilities, problems, notes, ..Description::default() }
    }
}

/// What is wrong with a path. Looks, but opens nothing.
fn problem(path: &Path) -> Option<String> {
    let text = path.to_string_lossy();
    if text.is_empty() {
        return Some("`path` is empty; give the file of the database".to_owned());
    }
    if text == ":memory:" {
        return Some("`path` is `:memory:`; give a file, or use the plugin `memory`".to_owned());
    }
    if text.contains('\0') {
        return Some(format!("`path` is {text:?}, and no file name has a NUL"));
    }
    if path.is_dir() {
        return Some(format!(
            "`path` is `{text}`, a directory; give a file, say `{}`",
            path.join("evaluations.db").display()
        ));
    }
    // The closest that is there; what is missing below it is made.
    let is_file = |above: &&Path| above.exists() && !above.is_dir();
    path.ancestors().skip(1).find(is_file).map(|file| {
        format!(
            "`path` is `{text}`, but `{}` is a file, so there can be no directory; give another one",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Options, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_path_is_required_and_unknown_keys_are_refused() {
        let missing = read("{}").expect_err("no path").to_string();
        let unknown = read(r#"{"path":"a","sync":"full"}"#).expect_err("unknown").to_string();
        let value = read(r#"{"path":"a","synchronous":"extra"}"#).expect_err("unknown").to_string();

        assert!(missing.contains("`path`"), "{missing}");
        assert!(unknown.contains("`sync`") && unknown.contains("`synchronous`"), "{unknown}");
        assert!(value.contains("`extra`") && value.contains("`full`"), "{value}");
    }

    #[test]
    fn it_is_durable_and_shared_unless_told_otherwise() {
        let full = read(r#"{"path":"a"}"#).expect("options").describe();
        let normal = read(r#"{"path":"a","synchronous":"normal"}"#).expect("options").describe();

        assert!(full.capabilities.durable && !full.capabilities.exclusive);
        assert!(!normal.capabilities.durable);
        assert!(normal.notes.iter().any(|note| note.contains("power failure")), "{:?}", normal.notes);
    }

    #[test]
    fn a_path_that_cannot_be_is_a_problem() {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let problem =
            |path: &Path| Options { path: path.to_owned(), synchronous: Synchronous::Full }.describe().problems.pop();

        for path in ["new.db", "new/deeper/new.db"] {
            assert_eq!(problem(&directory.path().join(path)), None);
        }
        assert_eq!(problem(Path::new("new.db")), None);
        let below_a_file = Path::new(file!()).canonicalize().map(|file| file.join("new.db"));
        let below_a_file = below_a_file.expect("the tests run in the directory of the crate");
        for path in [Path::new(""), Path::new(":memory:"), directory.path(), &below_a_file] {
            let problem = problem(path).unwrap_or_else(|| panic!("{path:?} is a problem"));
            assert!(problem.contains("`path`"), "{problem}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 0, "looking makes nothing");
    }
}
