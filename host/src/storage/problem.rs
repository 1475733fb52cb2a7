//! What is wrong with a configured tree: every problem at once, each with its place and what to do.

use std::error::Error;
use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The keys that lead to its place in the configuration, say `backends`, `main`, `children`, `cache`.
    pub path: Vec<String>,
    /// What is wrong and what to do. It names the place as well.
    pub message: String,
}

/// Everything that is wrong with a configured tree; never empty as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds a problem with the backend of that name, at a key of its section.
    pub(crate) fn add(&mut self, backend: &str, key: &[&str], message: impl Into<String>) {
        let path = ["backends", backend].iter().chain(key).map(|key| (*key).to_owned()).collect();
        self.0.push(Problem { path, message: message.into() });
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl Error for Problems {}
