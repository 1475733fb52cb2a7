//! Evaluations that are owed and fail while others do not: they are tried by themselves, so that they hold up none.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Pauses between two attempts of which none succeeds; they double.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The ids.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    ids: BTreeSet<Box<str>>,
    /// The last one that was tried; those behind it come next.
    last: Box<str>,
    /// When to try again; at once if there is none.
    at: Option<Instant>,
    pause: Duration,
}

impl Aside {
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Sets some more aside.
    pub(crate) fn add(&mut self, ids: impl IntoIterator<Item = Box<str>>, now: Instant) {
        let was_empty = self.is_empty();
        self.ids.extend(ids);
        if was_empty {
            self.at = Some(now + PAUSE);
            self.pause = PAUSE * 2;
        }
    }

    /// How long until some are to be tried; none if there are none.
    pub(crate) fn due_in(&self, now: Instant) -> Option<Duration> {
        (!self.is_empty()).then(|| self.at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)))
    }

    /// Takes some to try, others than the last time.
    pub(crate) fn take(&mut self, most: usize) -> Vec<Box<str>> {
        let behind = (Bound::Excluded(&*self.last), Bound::Unbounded);
        let mut taken: Vec<Box<str>> = self.ids.range::<str, _>(behind).take(most).cloned().collect();
        if taken.is_empty() {
            taken = self.ids.iter().take(most).cloned().collect();
        }
        for id in &taken {
            self.ids.remove(id);
        }
        if let Some(last) = taken.last() {
            self.last.clone_from(last);
        }
        taken
    }

    /// These of what was taken failed again. The pause begins anew once some of it did not.
    pub(crate) fn put_back(&mut self, failed: Vec<Box<str>>, taken: usize, now: Instant) {
        if failed.len() < taken {
            self.at = None;
            self.pause = PAUSE;
        } else {
            self.at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.ids.extend(failed);
    }

    /// Some are to be tried at once.
    pub(crate) fn hurry(&mut self) {
        self.at = None;
    }

    pub(crate) fn take_all(&mut self) -> BTreeSet<Box<str>> {
        std::mem::take(&mut self.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn_and_a_pause_that_grows_while_none_succeeds() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        aside.add(["a", "b", "c"].map(Box::from), now);
        assert_eq!(aside.due_in(now), Some(PAUSE));

        let taken = aside.take(2);
        assert_eq!(*taken, ["a", "b"].map(Box::from));
        aside.put_back(taken, 2, now);
        assert_eq!(aside.due_in(now), Some(PAUSE * 2));
        let taken = aside.take(2);
        assert_eq!(*taken, ["c"].map(Box::from));
        aside.put_back(taken, 1, now);
        assert_eq!(aside.due_in(now), Some(PAUSE * 4));
        let taken = aside.take(2);
        aside.put_back(vec!["a".into()], taken.len(), now);

        assert_eq!(aside.due_in(now), Some(Duration::ZERO), "one of them did succeed");
        assert_eq!(aside.take_all(), ["a", "c"].map(Box::from).into());
        assert_eq!(aside.due_in(now), None);
    }
}
