//! Ids that somebody works on alone: whoever has claimed an id is the only one until the claim is dropped.
//!
//! All ids of a batch are claimed at once or none, so that two batches never wait for each other.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::lock;

/// The ids that are claimed.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    claimed: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// Ids that are the holder's until this is dropped.
#[derive(Debug)]
pub(crate) struct Claimed<'a> {
    claims: &'a Claims,
    ids: HashSet<String>,
}

impl Claims {
    /// Waits until none of the ids is claimed by another, and claims them. None if the deadline comes first.
    pub(crate) fn claim<'i>(
        &self,
        ids: impl Iterator<Item = &'i str> + Clone,
        deadline: Instant,
    ) -> Option<Claimed<'_>> {
        let mut claimed = lock(&self.claimed);
        while ids.clone().any(|id| claimed.contains(id)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            claimed = self.freed.wait_timeout(claimed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        // An id that stands twice in a batch is claimed once.
        let ids = ids.filter(|id| claimed.insert((*id).to_owned())).map(str::to_owned).collect();
        Some(Claimed { claims: self, ids })
    }

    /// Claims those of the ids that nobody has claimed, without waiting.
    pub(crate) fn claim_free<'i>(&self, ids: impl Iterator<Item = &'i str>) -> Claimed<'_> {
        let mut claimed = lock(&self.claimed);
        let ids = ids.filter(|id| claimed.insert((*id).to_owned())).map(str::to_owned).collect();
        Claimed { claims: self, ids }
    }
}

impl Claimed<'_> {
    /// True if the id is among those that were claimed.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut claimed = lock(&self.claims.claimed);
        for id in &self.ids {
            claimed.remove(id);
        }
        drop(claimed);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn an_id_is_claimed_once_at_a_time() {
        let claims = Claims::default();
        let first = claims.claim(["a", "b", "a"].into_iter(), now()).expect("all are free");

        assert!(claims.claim(["c", "b"].into_iter(), now()).is_none());
        let free = claims.claim_free(["b", "c"].into_iter());
        assert!(free.has("c") && !free.has("b"));

        drop((first, free));
        assert!(claims.claim(["a", "b", "c"].into_iter(), now()).is_some());
    }

    #[test]
    fn who_waits_is_let_in() {
        let claims = Claims::default();
        let first = claims.claim(["a"].into_iter(), now()).expect("it is free");

        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| claims.claim(["a"].into_iter(), now() + Duration::from_secs(30)).is_some());
            drop(first);
            assert!(waiting.join().expect("it does not panic"));
        });
    }
}
