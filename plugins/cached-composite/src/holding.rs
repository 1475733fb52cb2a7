//! Whether the fallback holds anything, and how much: known without asking it, so that reads need not.
//!
//! It is known to be empty if a look at it found nothing that began when no merge to it was under way, and no merge to
//! it has begun since. Everything else counts as "may hold something".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use crate::claims::Claims;
use crate::meanwhile::Meanwhile;
use crate::shared::ByName;

/// Never the number of merges that have begun.
const NEVER: u64 = u64::MAX;

static TRAFFIC: ByName<Traffic> = ByName::new();

/// What instances over one fallback share.
#[derive(Debug, Default)]
struct Traffic {
    /// Merges to the fallback that have begun.
    begun: AtomicU64,
    under_way: AtomicUsize,
    /// How many instances have begun, and so the number of the last one, which alone catches up.
    instances: AtomicU64,
    /// Somebody catches up.
    is_owned: AtomicBool,
    /// Ids that are moved to the primary or deleted.
    moves: Claims,
    /// What the primary took since the fallback was empty.
    meanwhile: Meanwhile,
}

/// What one instance knows of its fallback.
#[derive(Debug)]
pub(crate) struct Holding {
    traffic: Arc<Traffic>,
    /// The number of this instance among those that have begun; 0 before.
    number: AtomicU64,
    /// How many merges had begun when it was last seen empty.
    empty_at: AtomicU64,
    /// About how many evaluations it holds.
    held: AtomicI64,
}

/// A merge to the fallback, until it is dropped.
#[derive(Debug)]
pub(crate) struct MergeUnderWay<'a>(&'a Traffic);

/// A look at the fallback that may find it empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    begun: u64,
}

/// The right to catch up, until it is dropped.
#[derive(Debug)]
pub(crate) struct Owner<'a>(&'a Traffic);

impl Holding {
    pub(crate) fn of(fallback: &str) -> Self {
        Self {
            traffic: TRAFFIC.get(fallback),
            number: AtomicU64::new(0),
            empty_at: AtomicU64::new(NEVER),
            held: AtomicI64::new(0),
        }
    }

    /// From now on this instance may catch up, and none that began before it.
    pub(crate) fn begin(&self) {
        self.number.store(self.traffic.instances.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }

    /// True while no other instance has begun after this one.
    pub(crate) fn may_move(&self) -> bool {
        self.number.load(Ordering::SeqCst) == self.traffic.instances.load(Ordering::SeqCst)
    }

    /// True if everything that was accepted before this is asked has left the fallback.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty_at.load(Ordering::SeqCst) == self.traffic.begun.load(Ordering::SeqCst)
    }

    /// Says that a merge to the fallback begins; must stand before it.
    pub(crate) fn begin_merge(&self) -> MergeUnderWay<'_> {
        // In this order: who sees the one that has begun sees it under way, too.
        self.traffic.under_way.fetch_add(1, Ordering::SeqCst);
        self.traffic.begun.fetch_add(1, Ordering::SeqCst);
        MergeUnderWay(&self.traffic)
    }

    /// Begins a look; none if a merge is under way, which the look might miss.
    pub(crate) fn look(&self) -> Option<Look> {
        let begun = self.traffic.begun.load(Ordering::SeqCst);
        (self.traffic.under_way.load(Ordering::SeqCst) == 0).then_some(Look { begun })
    }

    /// The look found nothing.
    pub(crate) fn found_empty(&self, look: Look) {
        self.empty_at.store(look.begun, Ordering::SeqCst);
        if self.is_empty() {
            self.held.store(0, Ordering::Relaxed);
            self.traffic.meanwhile.clear();
        }
    }

    /// The right to catch up; none if it is another instance's, or one before has a batch under way.
    pub(crate) fn own(&self) -> Option<Owner<'_>> {
        if !self.may_move() {
            return None;
        }
        let was_owned = self.traffic.is_owned.swap(true, Ordering::AcqRel);
        (!was_owned).then(|| Owner(&self.traffic))
    }

    /// The ids that are being moved or deleted.
    pub(crate) fn moves(&self) -> &Claims {
        &self.traffic.moves
    }

    /// What the primary took since the fallback was empty.
    pub(crate) fn meanwhile(&self) -> &Meanwhile {
        &self.traffic.meanwhile
    }

    /// So many more evaluations are held, or fewer.
    pub(crate) fn count(&self, difference: i64) {
        self.held.fetch_add(difference, Ordering::Relaxed);
    }

    /// About how many evaluations are held.
    pub(crate) fn held(&self) -> u64 {
        u64::try_from(self.held.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

impl Drop for MergeUnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        self.0.is_owned.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_empty(holding: &Holding) {
        holding.found_empty(holding.look().expect("nothing is under way"));
    }

    #[test]
    fn it_is_not_taken_to_be_empty_before_it_was_looked_at() {
        let holding = Holding::of("never looked at");

        assert!(!holding.is_empty());
        looked_empty(&holding);
        assert!(holding.is_empty());
    }

    #[test]
    fn a_merge_that_begins_during_a_look_is_not_overlooked() {
        let holding = Holding::of("merged to during a look");
        let look = holding.look().expect("nothing is under way");

        let merge = holding.begin_merge();
        holding.found_empty(look);

        assert!(!holding.is_empty());
        assert!(holding.look().is_none(), "what is under way may arrive behind the look");
        drop(merge);
        looked_empty(&holding);
        assert!(holding.is_empty());
    }

    #[test]
    fn another_instance_over_the_same_fallback_is_seen() {
        let (old, new) = (Holding::of("of two"), Holding::of("of two"));
        looked_empty(&new);

        drop(old.begin_merge());

        assert!(!new.is_empty());
    }

    #[test]
    fn the_last_instance_that_has_begun_catches_up_once_the_one_before_has_stopped() {
        let (old, new) = (Holding::of("of three"), Holding::of("of three"));
        old.begin();
        let owner = old.own().expect("nobody else has it");
        assert!(new.own().is_none(), "it has not begun");

        new.begin();

        assert!(!old.may_move() && new.may_move());
        assert!(new.own().is_none(), "the old one is still at it");
        drop(owner);
        assert!(old.own().is_none());
        assert!(new.own().is_some());
    }
}
