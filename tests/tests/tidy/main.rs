//! The tidy test: the rules of `docs/style.md` and `docs/architecture.md` that no other tool checks.
//!
//! Each rule is a function from text to findings, with unit tests that show that it can fail; the test beside it applies
//! it to the repository. Needs nothing built and nothing running: `cargo test -p storage-worker-tests --test tidy`.

mod arrows;
mod code;
mod documents;
mod layout;
mod repository;
mod words;

use std::fmt;

/// What breaks a rule: where, what is wrong, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// Counted from 1; 0 stands for the whole file.
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(formatter, "{}: {}", self.path, self.message),
            line => write!(formatter, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Fails with every finding of a rule, one a line.
#[track_caller]
pub(crate) fn assert_tidy(rule: &str, findings: Vec<Finding>) {
    let list: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(list.is_empty(), "{rule}\n  {}\n", list.join("\n  "));
}
