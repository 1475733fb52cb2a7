//! What a change of storage while the worker runs answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_plugin_api::Error as BackendError;
use thiserror::Error;

use super::open::OpenError;

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation of the configuration that is in force now; the one before if nothing changed.
    pub generation: u64,
    /// The backends that were opened.
    pub opened: Vec<String>,
    /// The backends that were flushed and closed.
    pub closed: Vec<String>,
    /// Sections of the configuration that are different and take effect only after a restart.
    pub restart: Vec<String>,
    /// What the operator should know of the way from the one tree to the other.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The configuration cannot be used: everything that is wrong with it.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// A backend of it cannot be opened now.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A fallback would go that holds what is stored nowhere else.
    #[error(
        "the fallback `{0}` still holds evaluations that are stored nowhere else, and the new tree has no fallback of that name and these options; wait until it is empty, or force the change"
    )]
    Fallback(String),
    /// A store in memory would go, and what it holds with it.
    #[error(
        "`{0}` holds evaluations in memory alone, and the change closes it, so they would be gone; copy them to another backend (`storage-worker copy`), or force the change"
    )]
    InMemory(String),
    /// It could not be found out whether one that goes is empty.
    #[error("`{0}`, which the change leaves behind, cannot say whether it is empty: {1}; mend it, or force the change")]
    Unknown(String, BackendError),
    /// A call may still put something into one that goes.
    #[error(
        "a call has not come back within {1:?}, so `{0}`, which the change leaves behind, may still get something; wait until it is back, or force the change"
    )]
    Busy(String, Duration),
    /// A backend had to be closed first and could not be.
    #[error("backend `{0}` could not be closed to be opened anew: {1}; the tree before is opened again")]
    NotClosed(String, String),
    /// Too many changes wait already.
    #[error("several reloads are waiting already; ask again when they are through")]
    TooMany,
    /// There will be no more changes.
    #[error("the worker is ending")]
    Ending,
}
