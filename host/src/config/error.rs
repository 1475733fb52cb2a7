//! What can be wrong with a configuration, each with its place and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::tree::Origin;
use crate::error_chain::with_causes;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`; name an existing file with `--config`", path.display())]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was read is wrong; at least one problem, in the order of the file.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
}

impl ConfigError {
    /// Every problem by itself; one without a place for a file that cannot be read.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Problems(problems) => problems.clone(),
            Self::Read { .. } => vec![Problem::new(&Origin::Default, "", with_causes(self))],
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the wrong value came from; [`Origin::Default`] where it has no place, say because it is missing.
    pub origin: Origin,
    /// The key, say `worker.lanes`; empty where none is at fault.
    pub key: String,
    /// What is wrong and what to do. It names the key where that is needed.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(origin: &Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin: origin.clone(), key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => formatter.write_str(&self.message),
            Origin::File { .. } | Origin::Environment(_) | Origin::CommandLine(_) => {
                write!(formatter, "{}: {}", self.origin, self.message)
            }
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
