//! The lock file: which build of each plugin a configuration may run, by SHA-256.
//!
//! It lies beside the configuration and has its name with the ending `.lock`, is written by `storage-worker plugin lock`
//! and read at every start. Where there is one, it is complete: a plugin that is not in it is refused, since a list that lets
//! others in protects from nothing. A `sha256` in the configuration is a second pin beside it, and a plugin that only
//! that one names is let in.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

const HEAD: &str = "\
# Which builds of its plugins this configuration may run. Written by `storage-worker plugin lock`; keep it beside the
# configuration, and run that command again after a plugin was replaced on purpose.

";

/// The builds that may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The file it is kept in.
    pub path: PathBuf,
    /// By the plugin's name or path, as the configuration has it.
    pub plugins: BTreeMap<String, Locked>,
}

/// One build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// What it said its version was; for people.
    pub version: String,
    /// SHA-256 of its file, 64 lower-case hex digits.
    pub sha256: String,
}

/// A lock file cannot be used.
#[derive(Debug, Error)]
pub enum LockError {
    /// It cannot be read.
    #[error("cannot read the lock file `{path}`: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// Its text is no lock file.
    #[error("the lock file `{path}` is damaged: {reason}; write it again with `storage-worker plugin lock`")]
    Damaged { path: PathBuf, reason: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    plugins: BTreeMap<String, Locked>,
}

impl Lock {
    /// The lock file of a configuration: beside it, of the same name.
    #[must_use]
    pub fn path_beside(configuration: &Path) -> PathBuf {
        configuration.with_extension("lock")
    }

    /// Reads the lock file of a configuration; none if it has none.
    ///
    /// # Errors
    /// When there is one that cannot be used.
    pub fn beside(configuration: &Path) -> Result<Option<Self>, LockError> {
        let path = Self::path_beside(configuration);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(path, &text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LockError::Read { path, source }),
        }
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self, LockError> {
        let damaged = |reason: String| LockError::Damaged { path: path.clone(), reason };
        let text: Text = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
        let is_hash =
            |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if let Some((plugin, _)) = text.plugins.iter().find(|(_, locked)| !is_hash(&locked.sha256)) {
            return Err(damaged(format!("`sha256` of `{plugin}` is not 64 lower-case hex digits")));
        }
        Ok(Self { path, plugins: text.plugins })
    }

    /// Replaces the file at once: no start reads a half of it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write(&self) -> io::Result<()> {
        let text = toml::to_string(&Text { plugins: self.plugins.clone() }).map_err(io::Error::other)?;
        let temporary = self.path.with_extension("lock.new");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(HEAD.as_bytes())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Lock, LockError> {
        Lock::parse(PathBuf::from("worker.lock"), text)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let configuration = directory.path().join("worker.toml");
        let locked = Locked { version: "1.2.3".to_owned(), sha256: "ab".repeat(32) };
        let plugins = BTreeMap::from([("./lib/libstorage_backend_mine.so".to_owned(), locked)]);
        let lock = Lock { path: Lock::path_beside(&configuration), plugins };

        assert_eq!(Lock::beside(&configuration).expect("nothing is wrong with none"), None);
        lock.write().expect("the directory is ours");

        assert_eq!(Lock::beside(&configuration).expect("it is whole"), Some(lock));
        assert!(directory.path().join("worker.lock").is_file());
    }

    #[test]
    fn a_damaged_file_says_how_to_mend_it() {
        for (text, reason) in [
            ("plugins = 3", "invalid type"),
            ("[plugins.a]\nversion = '1'\nsha256 = 'AB'", "`sha256` of `a` is not 64"),
            ("[plugin.a]\n", "unknown field `plugin`"),
        ] {
            let error = parse(text).expect_err("it is damaged").to_string();

            assert!(error.contains(reason) && error.contains("`storage-worker plugin lock`"), "{error}");
        }
    }
}
