//! One shadow: the child, what it does not have yet, and what is known of its troubles.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde_json::{Value, json};
use storage_plugin_api::{Child, Error};
use tracing::{info, warn};

use crate::queue::{Figures, Queue};
use crate::{Options, lock};

/// Most ids of refused evaluations that are named.
const NAMED: usize = 20;

/// A child that is to have what the primary has.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) child: Child,
    pub(crate) queue: Queue,
    troubles: Mutex<Troubles>,
}

/// How far a shadow has what the primary has; the worst is the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// All of it, but for what is on its way.
    Mirrored,
    /// It will.
    Behind,
    /// Not without a repair.
    Diverged,
}

impl Standing {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mirrored => "mirrored",
            Self::Behind => "behind",
            Self::Diverged => "diverged",
        }
    }
}

#[derive(Debug, Default)]
struct Troubles {
    is_away: bool,
    last_error: Option<String>,
    refused: u64,
    /// The first of them.
    refused_ids: BTreeSet<Box<str>>,
    panics: u64,
}

impl Shadow {
    pub(crate) fn new(child: Child, options: &Options) -> Self {
        Self { child, queue: Queue::new(options), troubles: Mutex::default() }
    }

    /// A call of it failed, and is made again.
    pub(crate) fn is_away(&self, error: &Error) {
        let mut troubles = lock(&self.troubles);
        troubles.last_error = Some(error.message.clone());
        if !std::mem::replace(&mut troubles.is_away, true) {
            let behind = self.queue.figures().changes;
            warn!(shadow = self.child.name, %error, behind, "shadow does not follow, tried again");
        }
    }

    /// A call of it did not fail.
    pub(crate) fn is_there(&self) {
        let mut troubles = lock(&self.troubles);
        if std::mem::take(&mut troubles.is_away) {
            let Figures { changes, owed, lost, .. } = self.queue.figures();
            info!(shadow = self.child.name, changes, owed, lost, "shadow follows again");
        }
    }

    /// It will never take the state that the primary has of this one.
    pub(crate) fn refuses(&self, id: &str, error: &Error) {
        let mut troubles = lock(&self.troubles);
        troubles.refused += 1;
        troubles.last_error = Some(error.message.clone());
        if troubles.refused_ids.len() < NAMED && troubles.refused_ids.insert(id.into()) {
            warn!(shadow = self.child.name, id, %error, "shadow refuses what the primary has, and differs from it");
        }
    }

    /// The thread that follows has a defect.
    pub(crate) fn panicked(&self) {
        lock(&self.troubles).panics += 1;
    }

    /// What the operator should know; empty while all is well.
    pub(crate) fn trouble(&self) -> Option<String> {
        let (Figures { changes, owed, lost, .. }, troubles) = (self.queue.figures(), lock(&self.troubles));
        let name = &self.child.name;
        let error = troubles.last_error.as_deref().unwrap_or("no reason given");
        if lost > 0 || troubles.refused > 0 || troubles.panics > 0 {
            let (refused, panics) = (troubles.refused, troubles.panics);
            return Some(format!(
                "`{name}` differs: {lost} changes are lost to it, {refused} it refused, {panics} times the thread that brings them panicked (last error: {error}); see `storage-worker diff --repair`"
            ));
        }
        if troubles.is_away {
            return Some(format!("`{name}` is {} behind ({error})", changes + owed));
        }
        (owed > 0).then(|| format!("`{name}` catches up with {owed} evaluations"))
    }

    /// How far it has what the primary has.
    pub(crate) fn standing(&self) -> Standing {
        let (figures, troubles) = (self.queue.figures(), lock(&self.troubles));
        match () {
            () if figures.lost > 0 || troubles.refused > 0 || troubles.panics > 0 => Standing::Diverged,
            () if troubles.is_away || figures.owed > 0 => Standing::Behind,
            () => Standing::Mirrored,
        }
    }

    /// What health tells of it.
    pub(crate) fn details(&self) -> Value {
        let figures = self.queue.figures();
        let troubles = lock(&self.troubles);
        json!({
            "queued": figures.changes, "queued_bytes": figures.bytes, "owed": figures.owed,
            "overflowed": figures.overflowed, "lost": figures.lost,
            "refused": troubles.refused, "refused_ids": troubles.refused_ids, "last_error": troubles.last_error,
        })
    }
}
