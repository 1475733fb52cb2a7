//! Guesses that all evaluations of a batch are new, so that it is inserted without looking first whether they are there.
//!
//! A wrong guess does no harm: the insert leaves the row of another alone, and that evaluation is merged in a second
//! transaction. That costs more than looking, and may meet others who hold the row, so a wrong guess is followed by a
//! while without any, the longer the more there were in a row: where two kinds of events carry the code, or events are
//! replayed, hardly any batch is guessed about.

use std::sync::atomic::{AtomicU32, Ordering};

use storage_plugin_api::names;

use crate::joined::Group;

/// So many batches that could be guessed about are looked up after a guess that did not go well, and twice as many after
/// each further one, up to the longest pause.
const PAUSE: u32 = 64;
const LONGEST_PAUSE: u32 = 4096;

/// What is known of the last guesses.
#[derive(Debug)]
pub(crate) struct Guess {
    /// Batches that are still to be looked up.
    pause: AtomicU32,
    next_pause: AtomicU32,
}

impl Default for Guess {
    fn default() -> Self {
        Self { pause: AtomicU32::new(0), next_pause: AtomicU32::new(PAUSE) }
    }
}

impl Guess {
    /// True if everything in a batch is taken to be new.
    pub(crate) fn all_new(&self, groups: &[Group<'_>]) -> bool {
        let is_paused = || {
            let one_less = |left: u32| left.checked_sub(1);
            self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
        };
        !groups.is_empty() && groups.iter().all(seems_new) && !is_paused()
    }

    /// Learns what became of a guess. Where something was there already, or somebody in the way, or not all could be stored,
    /// to look is better for a while.
    pub(crate) fn learn(&self, went_well: bool) {
        if went_well {
            // One that was made before another went wrong says nothing of what comes after.
            if self.pause.load(Ordering::Relaxed) == 0 {
                self.next_pause.store(PAUSE, Ordering::Relaxed);
            }
            return;
        }
        let pause = self.next_pause.load(Ordering::Relaxed);
        // Of several that were made at once the first one counts.
        if self.pause.compare_exchange(0, pause, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.next_pause.store((pause * 2).min(LONGEST_PAUSE), Ordering::Relaxed);
        }
    }
}

/// The code comes at the beginning of an evaluation.
fn seems_new(group: &Group<'_>) -> bool {
    group.items.iter().any(|(_, item)| item.registers().iter().any(|register| register.name() == names::CODE))
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::{EventStamp, State, with_items};

    use super::*;
    use crate::joined::groups;

    #[test]
    fn batches_of_code_alone_seem_new_until_that_was_wrong() {
        let stamp = EventStamp::new(1, "e");
        let (mut queued, mut running) = (State::new(), State::new());
        queued.set_text(&stamp, names::CODE, "x");
        running.set_created(&stamp);

        with_items(&[("a", &queued), ("b", &queued), ("c", &running)], |items| {
            let groups = groups(items);
            let guess = Guess::default();
            assert!(guess.all_new(&groups[..2]));
            assert!(!guess.all_new(&groups));

            assert!(!guess.all_new(&[]));

            let looked_up = |guess: &Guess| (0..).take_while(|_| !guess.all_new(&groups[..2])).count();
            let wrong_again = || {
                guess.learn(false);
                guess.learn(false);
                looked_up(&guess)
            };
            assert_eq!([wrong_again(), wrong_again()], [64, 128]);
            guess.learn(true);
            assert_eq!(wrong_again(), 64);
            let pauses: Vec<usize> = (0..8).map(|_| wrong_again()).collect();
            assert_eq!(pauses, [128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        });
    }
}
