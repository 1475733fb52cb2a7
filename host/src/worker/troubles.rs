//! Since when something keeps the worker from its work: what readiness says beside the reason.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What the watch saw; each is none while all is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Nothing can arrive, or confirmations cannot be published.
    pub redis: Option<Instant>,
    /// The journal takes nothing.
    pub journal: Option<Instant>,
    /// Events wait for a backend that does not take them, and none was stored.
    pub storage: Option<Instant>,
}

/// What is wrong at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) redis_is_away: bool,
    pub(super) journal_is_blocked: bool,
    /// A lane waits for a backend that does not take events.
    pub(super) storage_is_away: bool,
    /// Events that were stored so far.
    pub(super) stored: u64,
}

/// Keeps what was seen.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    since: Since,
    stored: u64,
}

impl Troubles {
    /// Takes note of how things are. A trouble that goes on keeps its beginning.
    pub(super) fn note(&self, now: Instant, seen: Seen) {
        let mut kept = self.lock();
        let next = |held: Option<Instant>, is_there: bool| is_there.then(|| held.unwrap_or(now));
        // A single event that waits while others are stored is no outage.
        let is_stalled = seen.storage_is_away && seen.stored == kept.stored;
        kept.stored = seen.stored;
        kept.since = Since {
            redis: next(kept.since.redis, seen.redis_is_away),
            journal: next(kept.since.journal, seen.journal_is_blocked),
            storage: next(kept.since.storage, is_stalled),
        };
    }

    pub(super) fn since(&self) -> Since {
        self.lock().since
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_trouble_keeps_its_beginning_until_it_is_over() {
        let (troubles, start) = (Troubles::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let away = Seen { redis_is_away: true, ..Seen::default() };

        troubles.note(at(1), away);
        troubles.note(at(5), Seen { journal_is_blocked: true, ..away });
        assert_eq!(troubles.since(), Since { redis: Some(at(1)), journal: Some(at(5)), storage: None });
        troubles.note(at(6), Seen::default());
        assert_eq!(troubles.since(), Since::default());
        troubles.note(at(7), away);
        assert_eq!(troubles.since().redis, Some(at(7)));
    }

    #[test]
    fn storage_is_no_trouble_while_events_are_stored() {
        let (troubles, now) = (Troubles::default(), Instant::now());
        let seen = |stored| Seen { storage_is_away: true, stored, ..Seen::default() };

        for stored in 1..5 {
            troubles.note(now, seen(stored));
            assert_eq!(troubles.since().storage, None);
        }
        troubles.note(now, seen(4));

        assert_eq!(troubles.since().storage, Some(now));
    }
}
