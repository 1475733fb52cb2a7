//! What lanes have settled, on its way back to the thread that made it, to be freed there.
//!
//! The system's allocator (glibc) keeps an arena for each thread and frees a block under the lock of the arena that it
//! came from. An event is some dozens of blocks, so a lane that freed them would fight with the thread that makes the
//! next ones: that took a quarter of all CPU time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::queue::Held;
use super::taken::Taken;

/// At most so much waits to be freed; more is freed where it was settled. An idle worker keeps it.
const LIMIT: Held = Held { events: 1024, bytes: 4 << 20 };

/// Events that hold nothing of the budget any more.
#[derive(Debug, Default)]
pub(super) struct Spent {
    held: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Taken>,
    bytes: usize,
}

impl Spent {
    /// Leaves settled events to the thread that made them.
    pub(super) fn put(&self, events: &mut Vec<Taken>) {
        let bytes: usize = events.iter().map(|taken| taken.origin.held().bytes).sum();
        let mut waiting = self.lock();
        if waiting.events.len() + events.len() <= LIMIT.events && waiting.bytes + bytes <= LIMIT.bytes {
            waiting.bytes += bytes;
            waiting.events.append(events);
        }
        drop(waiting);
        events.clear();
    }

    /// Frees what has been left here.
    pub(super) fn free(&self) {
        let spent = std::mem::take(&mut *self.lock());
        drop(spent);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::test_kit::taken;

    #[test]
    fn what_waits_to_be_freed_is_bounded() {
        let spent = Spent::default();
        for number in 0..3 {
            let mut events: Vec<Taken> = (0..LIMIT.events / 2).map(|_| taken("a", "1", number)).collect();

            spent.put(&mut events);

            assert!(events.is_empty());
        }
        assert_eq!(spent.lock().events.len(), LIMIT.events);

        spent.free();

        let waiting = spent.lock();
        assert_eq!((waiting.events.len(), waiting.bytes), (0, 0));
    }
}
