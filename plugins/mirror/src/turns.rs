//! Merges and deletes take turns: any number of merges at once, or one delete alone.
//!
//! Otherwise a child could see a merge before a delete and another one behind it, and they would differ. A delete that
//! waits is next, so that merges that follow each other closely do not keep it out.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::lock;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    standing: Mutex<Standing>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Standing {
    together: usize,
    is_alone: bool,
    /// Those who want to be alone.
    waiting: usize,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    is_alone: bool,
}

impl Turns {
    /// With others who merge. None if the deadline comes first.
    pub(crate) fn together(&self, deadline: Instant) -> Option<Turn<'_>> {
        let mut standing = self.wait(lock(&self.standing), deadline, |now| now.is_alone || now.waiting > 0)?;
        standing.together += 1;
        Some(Turn { turns: self, is_alone: false })
    }

    /// With nobody else. None if the deadline comes first.
    pub(crate) fn alone(&self, deadline: Instant) -> Option<Turn<'_>> {
        let mut standing = lock(&self.standing);
        standing.waiting += 1;
        let waited = self.wait(standing, deadline, |now| now.is_alone || now.together > 0);
        let is_mine = waited.is_some();
        let mut standing = waited.unwrap_or_else(|| lock(&self.standing));
        standing.waiting -= 1;
        standing.is_alone |= is_mine;
        drop(standing);
        if !is_mine {
            self.freed.notify_all();
        }
        is_mine.then_some(Turn { turns: self, is_alone: true })
    }

    fn wait<'s>(
        &self,
        standing: MutexGuard<'s, Standing>,
        deadline: Instant,
        is_taken: impl Fn(&Standing) -> bool,
    ) -> Option<MutexGuard<'s, Standing>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.freed.wait_timeout_while(standing, left, |standing| is_taken(standing));
        let (standing, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!is_taken(&standing)).then_some(standing)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut standing = lock(&self.turns.standing);
        match self.is_alone {
            true => standing.is_alone = false,
            false => standing.together -= 1,
        }
        drop(standing);
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn merges_are_together_and_a_delete_is_alone() {
        let turns = Turns::default();
        let (one, other) = (turns.together(Instant::now()), turns.together(Instant::now()));

        assert!(one.is_some() && other.is_some());
        assert!(turns.alone(Instant::now()).is_none());
        drop((one, other));
        let alone = turns.alone(Instant::now()).expect("nobody else is there");
        assert!(turns.together(Instant::now()).is_none() && turns.alone(Instant::now()).is_none());
        drop(alone);
        assert!(turns.together(Instant::now()).is_some(), "one that gave up keeps nobody out");
    }

    #[test]
    fn a_delete_that_waits_is_next() {
        let turns = Turns::default();
        let merging = turns.together(soon()).expect("free");

        std::thread::scope(|scope| {
            let deleting = scope.spawn(|| turns.alone(soon()).is_some());
            while lock(&turns.standing).waiting == 0 {
                std::thread::yield_now();
            }
            assert!(turns.together(Instant::now()).is_none(), "a merge that comes later waits");
            drop(merging);
            assert!(deleting.join().expect("it does not panic"));
        });
        assert!(turns.together(soon()).is_some());
    }
}
