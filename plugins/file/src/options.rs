//! The options of the backend `file`, and what an instance of them promises.

use std::path::PathBuf;

use serde::Deserialize;
use storage_plugin_api::{Capabilities, Description};

/// What can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The directory that everything is stored in; it is made if it is missing. Default `"./data"`.
    pub path: PathBuf,
    /// When a merge counts as stored. Default `"batch"`.
    pub sync: Sync,
}

/// What a merge waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// Until the disk has it: one sync for all that is merged at the same time.
    #[default]
    Batch,
    /// For nothing: a crash of the machine loses what was merged last, so the backend is volatile.
    None,
}

impl Default for Options {
    fn default() -> Self {
        Self { path: "./data".into(), sync: Sync::Batch }
    }
}

impl Options {
    pub(crate) fn describe(&self) -> Description {
        let capabilities = Capabilities {
            durable: self.sync == Sync::Batch,
            evicting: false,
            exclusive: true,
            list_by_id: true,
            list_by_created: true,
            counts: true,
            blobs: true,
            states: true,
            prune: true,
            // While one call waits for the disk, others prepare the next sync.
            parallel_calls: 8,
        };
        let path = self.path.display();
        let mut problems = Vec::new();
        if self.path.as_os_str().is_empty() {
            problems.push("`path` is empty; give a directory".to_owned());
        } else if self.path.exists() && !self.path.is_dir() {
            problems.push(format!("`path` is `{path}`, which is no directory; give another one or move it away"));
        }
        let mut notes = vec![format!("stores in the directory `{path}`")];
        if self.sync == Sync::None {
            notes.push("syncs nothing (`sync = \"none\"`)".to_owned());
        }
        Description { capabilities, problems, notes, ..Description::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused() {
        let error = serde_json::from_str::<Options>(r#"{"paht":"x"}"#).expect_err("unknown");

        assert!(error.to_string().contains("paht"));
    }

    #[test]
    fn without_syncs_it_is_volatile() {
        let options: Options = serde_json::from_str(r#"{"sync":"none"}"#).expect("options");

        assert!(!options.describe().capabilities.durable);
        assert!(Options::default().describe().capabilities.durable);
    }
}
