//! The place where everybody finds the storage tree: empty while it is being opened, and after it was closed.

use std::sync::{Arc, PoisonError, RwLock};

use super::tree::Tree;

/// The tree that is in use, or why there is none.
#[derive(Debug)]
pub struct Current(RwLock<Standing>);

#[derive(Debug)]
enum Standing {
    Absent(String),
    Open(Arc<Tree>),
}

impl Current {
    /// No tree yet.
    #[must_use]
    pub fn opening() -> Self {
        Self(RwLock::new(Standing::Absent("storage is being opened".to_owned())))
    }

    /// The tree; an `Err` says why there is none.
    ///
    /// # Errors
    /// While it is not open.
    pub fn tree(&self) -> Result<Arc<Tree>, String> {
        match &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            Standing::Open(tree) => Ok(Arc::clone(tree)),
            Standing::Absent(reason) => Err(reason.clone()),
        }
    }

    /// From now on this is the tree. The one before, for the caller to close.
    pub fn put(&self, tree: Arc<Tree>) -> Option<Arc<Tree>> {
        self.replace(Standing::Open(tree))
    }

    /// From now on there is none, and this is why. The one before, for the caller to close.
    pub fn clear(&self, reason: impl Into<String>) -> Option<Arc<Tree>> {
        self.replace(Standing::Absent(reason.into()))
    }

    fn replace(&self, standing: Standing) -> Option<Arc<Tree>> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *current, standing) {
            Standing::Open(tree) => Some(tree),
            Standing::Absent(_) => None,
        }
    }
}
