//! What a shadow does not have yet: changes in order, and beyond their bounds the ids that are owed.
//!
//! While anything is owed, everything new is owed, too. So whatever waits as a change is older than whatever is owed,
//! and who applies the changes first and then looks at the primary never brings back what was.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_plugin_api::{Item, Prune, State};

use crate::aside::Aside;
use crate::{Options, lock};

/// Most evaluations that are settled in one call.
pub(crate) const BATCH: usize = 256;
/// About how much memory of states is settled in one call.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Something that the primary did, and the shadow is to do.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Merge a state.
    Merge(Merge),
    /// Look what the primary has, and do as it did.
    Look(Box<str>),
    /// Remove what is old.
    Prune(Prune),
}

/// A state to merge. All shadows share it.
#[derive(Clone, Debug)]
pub(crate) struct Merge {
    pub(crate) id: Arc<str>,
    pub(crate) state: Arc<State>,
    bytes: usize,
}

/// What is to be done next.
#[derive(Debug)]
pub(crate) enum Work {
    Merge(Vec<Merge>),
    Look(Vec<Box<str>>),
    Prune(Prune),
    /// The same as a look, of ids that are owed.
    Owed(Vec<Box<str>>),
    /// The same, of ids that were set aside.
    Aside(Vec<Box<str>>),
}

/// The changes that wait for one shadow.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    most_changes: usize,
    most_bytes: usize,
    most_owed: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Change>,
    owed: BTreeSet<Box<str>>,
    /// Owed as well.
    aside: Aside,
    /// It is the turn of those when there are others, too.
    is_asides_turn: bool,
    /// Memory of the changes, those in hand included.
    bytes: usize,
    hand: Hand,
    /// How many changes were ever added, and how many of them are done.
    added: u64,
    done: u64,
    overflowed: u64,
    lost: u64,
    ends_at: Option<Instant>,
    is_worked_at: bool,
}

/// What somebody works at.
#[derive(Debug, Default)]
struct Hand {
    changes: usize,
    bytes: usize,
    owed: usize,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
    pub(crate) owed: usize,
    /// How many of those that are owed failed while others did not.
    pub(crate) failing: usize,
    /// Changes that did not fit, and were owed instead.
    pub(crate) overflowed: u64,
    /// Changes that the shadow will never hear of.
    pub(crate) lost: u64,
}

impl Merge {
    pub(crate) fn of(item: &Item<'_>) -> Self {
        let state = item.to_state();
        let bytes = state.memory_bytes() + item.id().len() + size_of::<Change>();
        Self { id: item.id().into(), state: Arc::new(state), bytes }
    }
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Self::Merge(merge) => merge.bytes,
            Self::Look(id) => id.len() + size_of::<Self>(),
            Self::Prune(_) => size_of::<Self>(),
        }
    }

    fn id(&self) -> Option<&str> {
        match self {
            Self::Merge(merge) => Some(&merge.id),
            Self::Look(id) => Some(id),
            Self::Prune(_) => None,
        }
    }
}

impl Queue {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            most_changes: options.queue_changes,
            most_bytes: options.queue_bytes,
            most_owed: options.owed_evaluations,
        }
    }

    /// Adds what the primary did; never waits.
    pub(crate) fn add(&self, changes: impl Iterator<Item = Change>) {
        let mut waiting = lock(&self.waiting);
        for change in changes {
            let (bytes, held) = (change.bytes(), waiting.changes.len() + waiting.hand.changes);
            let fits = held < self.most_changes && waiting.bytes.saturating_add(bytes) <= self.most_bytes;
            if fits && waiting.owes_nothing() {
                waiting.bytes += bytes;
                waiting.added += 1;
                waiting.changes.push_back(change);
                continue;
            }
            waiting.overflowed += 1;
            match change.id() {
                Some(id) => waiting.owe(id.into(), self.most_owed),
                // The next one comes by itself.
                None => waiting.lost += 1,
            }
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// The shadow is to be brought to what the primary has of these.
    pub(crate) fn owe(&self, ids: impl IntoIterator<Item = Box<str>>) {
        let mut waiting = lock(&self.waiting);
        for id in ids {
            waiting.owe(id, self.most_owed);
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// What is to be done next, at most so many of it; waits for it. None when it is to end.
    pub(crate) fn next(&self, most: usize) -> Option<Work> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.ends_at.is_some_and(|end| Instant::now() >= end) {
                return None;
            }
            if let Some(work) = waiting.take(most) {
                return Some(work);
            }
            if waiting.ends_at.is_some() {
                return None;
            }
            waiting = match waiting.aside.due_in(Instant::now()) {
                Some(left) => self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// What was in hand is done, but for the rest, which is done first next time, and those that are set aside.
    pub(crate) fn settled(&self, rest: Option<Work>, aside: Vec<Box<str>>) {
        let mut waiting = lock(&self.waiting);
        let hand = std::mem::take(&mut waiting.hand);
        waiting.bytes -= hand.bytes;
        waiting.done += hand.changes as u64;
        let again: Vec<Change> = match rest {
            None => Vec::new(),
            Some(Work::Owed(ids)) => {
                // They were there before, so there is room.
                waiting.owed.extend(ids);
                Vec::new()
            }
            Some(Work::Merge(merges)) => merges.into_iter().map(Change::Merge).collect(),
            Some(Work::Look(ids)) => ids.into_iter().map(Change::Look).collect(),
            Some(Work::Prune(prune)) => vec![Change::Prune(prune)],
            Some(Work::Aside(failed)) => {
                waiting.aside.put_back(failed, hand.owed, Instant::now());
                Vec::new()
            }
        };
        if !aside.is_empty() {
            waiting.aside.add(aside, Instant::now());
        }
        waiting.done -= again.len() as u64;
        waiting.bytes += again.iter().map(Change::bytes).sum::<usize>();
        for change in again.into_iter().rev() {
            waiting.changes.push_front(change);
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// What was in hand is gone.
    pub(crate) fn dropped(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.lost += (waiting.hand.changes + waiting.hand.owed) as u64;
        drop(waiting);
        self.settled(None, Vec::new());
    }

    /// So many changes are lost.
    pub(crate) fn lose(&self, changes: u64) {
        lock(&self.waiting).lost += changes;
    }

    /// Waits so long, or until it is to end.
    pub(crate) fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        let mut waiting = lock(&self.waiting);
        loop {
            let end = waiting.ends_at.map_or(end, |at| at.min(end));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How long a call may take: so long, or until it is to end.
    pub(crate) fn budget(&self, most: Duration) -> Duration {
        let ends_at = lock(&self.waiting).ends_at;
        ends_at.map_or(most, |at| at.saturating_duration_since(Instant::now()).min(most))
    }

    /// True if it is to end.
    pub(crate) fn is_ending(&self) -> bool {
        lock(&self.waiting).ends_at.is_some()
    }

    /// Nothing is added any more. Who works is to go on until all is done, or until then.
    pub(crate) fn end(&self, deadline: Instant) {
        let mut waiting = lock(&self.waiting);
        let at = waiting.ends_at.map_or(deadline, |at| at.min(deadline));
        waiting.ends_at = Some(at);
        waiting.aside.hurry();
        drop(waiting);
        self.changed.notify_all();
    }

    /// Somebody works from now on.
    pub(crate) fn began(&self) {
        lock(&self.waiting).is_worked_at = true;
    }

    /// Nobody works any more.
    pub(crate) fn ended(&self) {
        lock(&self.waiting).is_worked_at = false;
        self.changed.notify_all();
    }

    /// Waits until nobody works any more; false if the deadline comes first.
    pub(crate) fn wait_for_end(&self, deadline: Instant) -> bool {
        self.wait_until(deadline, |waiting| !waiting.is_worked_at)
    }

    /// Waits until what was added before is done; false if the deadline comes first.
    pub(crate) fn wait_until_done(&self, deadline: Instant) -> bool {
        let target = lock(&self.waiting).added;
        self.wait_until(deadline, |waiting| waiting.done >= target && waiting.owes_nothing())
    }

    pub(crate) fn figures(&self) -> Figures {
        let waiting = lock(&self.waiting);
        Figures {
            changes: waiting.changes.len() + waiting.hand.changes,
            bytes: waiting.bytes,
            owed: waiting.owes(),
            failing: waiting.aside.len(),
            overflowed: waiting.overflowed,
            lost: waiting.lost,
        }
    }

    /// Takes out the ids of everything that is not done. A prune has none, and is lost.
    pub(crate) fn take_rest(&self) -> BTreeSet<Box<str>> {
        let mut waiting = lock(&self.waiting);
        let mut ids = std::mem::take(&mut waiting.owed);
        let changes = std::mem::take(&mut waiting.changes);
        waiting.done += changes.len() as u64;
        waiting.bytes = waiting.hand.bytes;
        waiting.lost += changes.iter().filter(|change| change.id().is_none()).count() as u64;
        ids.extend(waiting.aside.take_all());
        ids.extend(changes.iter().filter_map(Change::id).map(Box::from));
        ids
    }

    fn wait_until(&self, deadline: Instant, is_so: impl Fn(&Waiting) -> bool) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(lock(&self.waiting), left, |waiting| !is_so(waiting));
        let (waiting, _): (MutexGuard<'_, Waiting>, _) = waited.unwrap_or_else(PoisonError::into_inner);
        is_so(&waiting)
    }
}

impl Waiting {
    fn owes_nothing(&self) -> bool {
        self.owes() == 0
    }

    fn owes(&self) -> usize {
        self.owed.len() + self.aside.len() + self.hand.owed
    }

    fn owe(&mut self, id: Box<str>, most: usize) {
        if self.aside.has(&id) {
            return;
        }
        if self.owes() >= most && !self.owed.contains(&id) {
            self.lost += 1;
            return;
        }
        self.owed.insert(id);
    }

    fn take(&mut self, most: usize) -> Option<Work> {
        let work = match self.changes.front() {
            Some(Change::Merge(_)) => Work::Merge(self.take_while(most, |change| match change {
                Change::Merge(merge) => Some(merge.clone()),
                Change::Look(_) | Change::Prune(_) => None,
            })),
            Some(Change::Look(_)) => Work::Look(self.take_while(most, |change| match change {
                Change::Look(id) => Some(id.clone()),
                Change::Merge(_) | Change::Prune(_) => None,
            })),
            Some(Change::Prune(_)) => {
                let prunes = self.take_while(most, |change| match change {
                    Change::Prune(prune) => Some(prune.clone()),
                    Change::Merge(_) | Change::Look(_) => None,
                });
                Work::Prune(prunes.into_iter().next_back()?)
            }
            // Only behind the changes, of which some may be older than what the primary has.
            None => {
                let is_due = self.aside.due_in(Instant::now()) == Some(Duration::ZERO);
                let is_owed = !self.owed.is_empty();
                // One after the other, so that neither holds up the other.
                let is_aside = is_due && (self.is_asides_turn || !is_owed);
                self.is_asides_turn = !is_aside;
                let ids = match (is_aside, is_owed) {
                    (true, _) => self.aside.take(BATCH),
                    (false, true) => std::iter::from_fn(|| self.owed.pop_first()).take(most).collect(),
                    (false, false) => return None,
                };
                self.hand.owed = ids.len();
                if is_aside { Work::Aside(ids) } else { Work::Owed(ids) }
            }
        };
        Some(work)
    }

    /// Takes changes in hand as long as they are of a kind, and not too many.
    fn take_while<T>(&mut self, most: usize, of_kind: impl Fn(&Change) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        while let Some(change) = self.changes.front() {
            let bytes = change.bytes();
            let is_full = taken.len() >= most || !taken.is_empty() && self.hand.bytes + bytes > BATCH_BYTES;
            let Some(one) = of_kind(change).filter(|_| !is_full) else { break };
            taken.push(one);
            self.hand.changes += 1;
            self.hand.bytes += bytes;
            self.changes.pop_front();
        }
        taken
    }
}
