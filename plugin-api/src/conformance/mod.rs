//! The conformance kit: what a backend must do, one named function for each behavior.
//!
//! `storage-worker plugin test ./libstorage_backend_mine.so` runs them all over the real boundary and prints a scorecard;
//! that is the way to use it. A [`Subject`] of your own runs them against a `dyn Backend` inside `cargo test`: those that
//! need processes are then answered [`Verdict::NotRun`].
//!
//! - What is expected comes from [`State::merge`](crate::State::merge): the kit tests the backend, not the model.
//! - Every id begins with a prefix of the run and ids without it are ignored, so a place may hold other records.
//! - Everything random comes from the seed, so a failure can be had again.
//!
//! `trial.rs` is what a behavior works with, `events.rs` makes the states, the other files are the families.
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use storage_plugin_api::conformance::{Place, Subject, Verdict, behaviors};
//! use storage_plugin_api::{Backend, Description, Result};
//!
//! struct Mine;
//!
//! impl Subject for Mine {
//!     fn description(&self) -> Description {
//!         Description::default() // What your `check` answers.
//!     }
//!     fn place(&self) -> Result<Box<dyn Place>> {
//!         Ok(Box::new(Mine))
//!     }
//! }
//!
//! impl Place for Mine {
//!     fn open(&self) -> Result<Arc<dyn Backend>> {
//!         Err(storage_plugin_api::Error::unavailable("open yours here"))
//!     }
//! }
//!
//! let first = behaviors().next().expect("there are behaviors");
//! assert!(matches!(first.run(&Mine, 1).verdict, Verdict::Failed { .. }));
//! ```

mod blobs;
mod concurrency;
mod delete;
mod durability;
mod events;
mod life_cycle;
mod list;
mod merge;
mod odd;
mod read;
mod resilience;
mod totals;
mod trial;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::Backend;
use crate::capabilities::{Capabilities, Description};
use crate::error::Result;
use crate::plugin_host::panic_message;

pub use events::{Flood, Step};
pub use trial::{Trial, Unmet};

/// How many times each of several processes goes through all ids, unless somebody has more time.
pub const DEFAULT_ROUNDS: u64 = 3;

/// Something a backend must do.
pub struct Behavior {
    /// Its name, `<family>.<what>`.
    pub name: &'static str,
    /// What is asked of the backend, in a sentence.
    pub asks: &'static str,
    /// The level that it belongs to.
    pub level: Level,
    /// What a backend must claim, so that it is asked.
    pub needs: Need,
    run: fn(&Trial<'_>) -> Result<(), Unmet>,
}

/// What a backend has when it does all that a level asks, and all that the levels before it ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Merges, reads, lists, opens and closes right.
    Basic,
    /// What is answered survives a crash.
    Durable,
    /// Both orders of lists, counts, prune, deletes by digest.
    Complete,
    /// Works for several processes at once; a badge beside the levels.
    Shared,
}

/// What a backend must claim to be asked for a behavior.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing but [`Capabilities::states`], as all but the next ones do.
    Nothing,
    /// Nothing, so that stores of blobs alone are asked too.
    NotEvenStates,
    /// [`Capabilities::durable`].
    Durable,
    /// [`Capabilities::durable`] and [`Capabilities::exclusive`], and no [`Description::roles`]: a layer opens no place by
    /// itself, and one that is exclusive for a child that keeps nothing outside its process has nothing to refuse.
    DurableExclusive,
    /// [`Capabilities::list_by_id`].
    ListById,
    /// [`Capabilities::list_by_created`].
    ListByCreated,
    /// [`Capabilities::counts`].
    Counts,
    /// [`Capabilities::prune`].
    Prune,
    /// [`Capabilities::blobs`]; no level asks for it.
    Blobs,
    /// Two [`Capabilities::parallel_calls`]; no level asks for it.
    Parallel,
    /// Not [`Capabilities::exclusive`].
    Shared,
    /// A directory for each place; no level asks for it.
    Directory,
    /// Somebody said how its far side is away; no level asks for it.
    FarSide,
}

/// What became of a behavior.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The backend does it.
    Passed,
    /// It does not.
    Failed {
        /// What was expected.
        expected: String,
        /// What was seen instead.
        seen: String,
    },
    /// The backend does not claim what it needs.
    NotClaimed {
        /// What that is.
        needs: String,
    },
    /// It could not be found out here. Never counts as passed.
    NotRun {
        /// Why not.
        reason: String,
    },
}

/// A verdict, and what else a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What the behavior could not see, say because it went to a server.
    pub notes: Vec<String>,
}

/// The backend under test.
pub trait Subject: Send + Sync {
    /// What its `check` answers.
    fn description(&self) -> Description;

    /// A new place to store in: a fresh directory where the backend keeps files. A backend of a far side has only one.
    ///
    /// # Errors
    /// When there is no room for it.
    fn place(&self) -> Result<Box<dyn Place>>;

    /// The same backend in a new place with its far side away, if somebody said how.
    fn away(&self) -> Option<Result<Box<dyn Place>>> {
        None
    }

    /// Whether every place is a directory of its own.
    fn has_directory(&self) -> bool {
        false
    }

    /// Whether a place may hold what others have stored.
    fn has_others(&self) -> bool {
        false
    }

    /// How many times each of several processes goes through all ids.
    fn rounds(&self) -> u64 {
        DEFAULT_ROUNDS
    }
}

/// Where instances store.
pub trait Place: Send + Sync {
    /// Opens an instance.
    ///
    /// # Errors
    /// What the backend says.
    fn open(&self) -> Result<Arc<dyn Backend>>;

    /// What `check` says of other options than those that it is opened with; none if that cannot be asked.
    fn check(&self, change: &dyn Fn(&mut Value)) -> Option<Result<Description>> {
        let _ = change;
        None
    }

    /// The directory of the place, empty at first; none if it has none.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Processes of their own that open this place; none inside `cargo test`.
    fn processes(&self) -> Option<&dyn Processes> {
        None
    }
}

/// What only other processes can find out.
pub trait Processes {
    /// Runs each flood in a process, all at once. With `kill_after` they are killed so long after the first answer. Gives
    /// the numbers of the merges that each one answered.
    ///
    /// # Errors
    /// When they cannot be run, or end by themselves with an error.
    fn run(&self, floods: &[Flood], kill_after: Option<Duration>) -> Result<Vec<Vec<u64>>, Unmet>;

    /// Runs a flood while its system calls are watched. Gives what was seen of each merge.
    ///
    /// # Errors
    /// When they cannot be watched.
    fn watch(&self, flood: &Flood) -> Result<Vec<Synced>, Unmet>;
}

/// What the system calls of a merge say of its durability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Synced {
    /// A file that it was written to was synced before it was answered.
    Itself(String),
    /// What was written could not be recognised, but something was synced between call and answer.
    Something,
    /// It was sent to another process, which has to sync it.
    Sent,
    /// The same, but what was sent could not be read: it is encrypted, perhaps.
    SentSomething,
    /// It was answered before it was synced; the text says what happened.
    Never(String),
}

/// Every behavior, in the order of the scorecard.
pub fn behaviors() -> impl Iterator<Item = &'static Behavior> {
    let families: [&'static [Behavior]; 11] = [
        merge::BEHAVIORS,
        read::BEHAVIORS,
        list::BEHAVIORS,
        delete::BEHAVIORS,
        life_cycle::BEHAVIORS,
        concurrency::BEHAVIORS,
        resilience::BEHAVIORS,
        odd::BEHAVIORS,
        durability::BEHAVIORS,
        totals::BEHAVIORS,
        blobs::BEHAVIORS,
    ];
    families.into_iter().flatten()
}

impl Behavior {
    /// The part of the name before the dot.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }

    /// Whether a backend can have the level without it, if it does not claim what is needed.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        matches!(self.needs, Need::Blobs | Need::Parallel | Need::Directory | Need::FarSide | Need::DurableExclusive)
    }

    /// Finds out whether the backend does it. A panic of the behavior itself fails it.
    #[must_use]
    pub fn run(&self, subject: &dyn Subject, seed: u64) -> Report {
        let description = subject.description();
        if let Some(needs) = self.needs.lacks(&description.capabilities, subject) {
            return Report { verdict: Verdict::NotClaimed { needs }, notes: Vec::new() };
        }
        let trial = Trial::new(subject, description.capabilities, self.name, seed);
        let verdict = match catch_unwind(AssertUnwindSafe(|| (self.run)(&trial))) {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(Unmet::Failed { expected, seen })) => Verdict::Failed { expected, seen },
            Ok(Err(Unmet::NotRun(reason))) => Verdict::NotRun { reason },
            Err(payload) => Verdict::Failed {
                expected: "an answer that can be judged".to_owned(),
                seen: format!("a panic: {}", panic_message(&*payload)),
            },
        };
        Report { verdict, notes: trial.into_notes() }
    }
}

impl fmt::Debug for Behavior {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Behavior").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Need {
    /// What is not claimed of it; none if all is.
    fn lacks(self, capabilities: &Capabilities, subject: &dyn Subject) -> Option<String> {
        let is_met = self.is_met(capabilities, subject);
        let is_for_all = matches!(self, Self::NotEvenStates | Self::Blobs | Self::Directory | Self::FarSide);
        match capabilities.states || is_for_all {
            true => (!is_met).then(|| self.to_string()),
            false => Some("`states`".to_owned()),
        }
    }

    fn is_met(self, capabilities: &Capabilities, subject: &dyn Subject) -> bool {
        match self {
            Self::Nothing | Self::NotEvenStates => true,
            Self::Durable => capabilities.durable,
            Self::DurableExclusive => {
                capabilities.durable && capabilities.exclusive && subject.description().roles.is_empty()
            }
            Self::ListById => capabilities.list_by_id,
            Self::ListByCreated => capabilities.list_by_created,
            Self::Counts => capabilities.counts,
            Self::Prune => capabilities.prune,
            Self::Blobs => capabilities.blobs,
            Self::Parallel => capabilities.parallel_calls > 1,
            Self::Shared => !capabilities.exclusive,
            Self::Directory => subject.has_directory(),
            Self::FarSide => subject.away().is_some(),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nothing | Self::NotEvenStates => "nothing",
            Self::Durable => "`durable`",
            Self::DurableExclusive => "`durable` and `exclusive`, and no children",
            Self::ListById => "`list_by_id`",
            Self::ListByCreated => "`list_by_created`",
            Self::Counts => "`counts`",
            Self::Prune => "`prune`",
            Self::Blobs => "`blobs`",
            Self::Parallel => "`parallel_calls` of at least 2",
            Self::Shared => "not `exclusive`",
            Self::Directory => "a directory (`{dir}` in its options)",
            Self::FarSide => "options whose far side is away",
        })
    }
}

impl Level {
    /// Those that build on each other.
    pub const LADDER: [Self; 3] = [Self::Basic, Self::Durable, Self::Complete];

    /// The name on the scorecard.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Durable => "durable",
            Self::Complete => "complete",
            Self::Shared => "shared",
        }
    }
}
