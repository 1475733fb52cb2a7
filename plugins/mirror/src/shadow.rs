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
    /// Nobody follows for it yet, since the instance before does not end.
    is_waited_for: bool,
    last_error: Option<String>,
    /// But for what is lost, which the queue knows.
    differs: Differs,
}

/// In what a shadow differs from the primary, until it is repaired.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Differs {
    /// Changes that it will never hear of.
    pub(crate) lost: u64,
    pub(crate) refused: u64,
    /// The first of them.
    pub(crate) refused_ids: BTreeSet<Box<str>>,
    /// How often the thread that follows panicked.
    pub(crate) panics: u64,
}

impl Differs {
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.refused += other.refused;
        self.panics += other.panics;
        let room = NAMED.saturating_sub(self.refused_ids.len());
        self.refused_ids.extend(other.refused_ids.into_iter().take(room));
    }

    fn is_nothing(&self) -> bool {
        self.lost == 0 && self.refused == 0 && self.panics == 0
    }
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

    /// The instance before, whose turn it still is, does not come back from a call.
    pub(crate) fn waits(&self, is_so: bool) {
        if !std::mem::replace(&mut lock(&self.troubles).is_waited_for, is_so) && is_so {
            let (shadow, behind) = (&self.child.name, self.queue.figures().changes);
            warn!(shadow, behind, "shadow does not follow yet: the instance before has not come back from a call");
        }
    }

    /// It will never take the state that the primary has of this one.
    pub(crate) fn refuses(&self, id: &str, error: &Error) {
        let mut troubles = lock(&self.troubles);
        troubles.last_error = Some(error.message.clone());
        let differs = &mut troubles.differs;
        differs.refused += 1;
        if differs.refused_ids.len() < NAMED && differs.refused_ids.insert(id.into()) {
            warn!(shadow = self.child.name, id, %error, "shadow refuses what the primary has, and differs from it");
        }
    }

    /// It fails for some evaluations, which are set aside.
    pub(crate) fn fails_for_some(&self, error: &Error) {
        lock(&self.troubles).last_error = Some(error.message.clone());
    }

    /// It will never do this prune; the next one comes by itself.
    pub(crate) fn does_not_prune(&self, error: &Error) {
        lock(&self.troubles).last_error = Some(error.message.clone());
        warn!(shadow = self.child.name, %error, "shadow does not prune as the primary did, and differs from it");
    }

    /// The thread that follows has a defect.
    pub(crate) fn panicked(&self) {
        lock(&self.troubles).differs.panics += 1;
    }

    /// In what it differs, those before this instance included.
    pub(crate) fn differs(&self) -> Differs {
        let mut differs = Differs { lost: self.queue.figures().lost, ..Differs::default() };
        let troubles = lock(&self.troubles);
        let Differs { lost: _, refused, refused_ids, panics } = &troubles.differs;
        differs.add(Differs { lost: 0, refused: *refused, refused_ids: refused_ids.clone(), panics: *panics });
        differs
    }

    /// It differs in this already.
    pub(crate) fn take_over(&self, differs: Differs) {
        self.queue.lose(differs.lost);
        lock(&self.troubles).differs.add(Differs { lost: 0, ..differs });
    }

    /// What the operator should know; empty while all is well.
    pub(crate) fn trouble(&self) -> Option<String> {
        let Figures { changes, owed, failing, .. } = self.queue.figures();
        let differs = self.differs();
        let troubles = lock(&self.troubles);
        let name = &self.child.name;
        let error = troubles.last_error.as_deref().unwrap_or("no reason given");
        if !differs.is_nothing() {
            let Differs { lost, refused, panics, .. } = differs;
            return Some(format!(
                "`{name}` differs: {lost} changes are lost to it, {refused} it refused, {panics} times the thread that brings them panicked (last error: {error}); see `storage-worker diff --repair`"
            ));
        }
        if troubles.is_away {
            return Some(format!("`{name}` is {} behind ({error})", changes + owed));
        }
        if troubles.is_waited_for {
            return Some(format!(
                "`{name}` is {} behind: the instance that this one took the place of has not come back from a call; restart the worker if that lasts",
                changes + owed
            ));
        }
        if failing > 0 {
            return Some(format!("`{name}` does not take {failing} evaluations now, but others ({error})"));
        }
        (owed > 0).then(|| format!("`{name}` catches up with {owed} evaluations"))
    }

    /// How far it has what the primary has.
    pub(crate) fn standing(&self) -> Standing {
        let differs = !self.differs().is_nothing();
        let (figures, troubles) = (self.queue.figures(), lock(&self.troubles));
        match () {
            () if differs => Standing::Diverged,
            () if troubles.is_away || troubles.is_waited_for || figures.owed > 0 => Standing::Behind,
            () => Standing::Mirrored,
        }
    }

    /// What health tells of it.
    pub(crate) fn details(&self) -> Value {
        let figures = self.queue.figures();
        let troubles = lock(&self.troubles);
        json!({
            "queued": figures.changes, "queued_bytes": figures.bytes, "owed": figures.owed,
            "failing": figures.failing,
            "overflowed": figures.overflowed, "lost": figures.lost,
            "refused": troubles.differs.refused, "refused_ids": troubles.differs.refused_ids,
            "last_error": troubles.last_error,
        })
    }
}
