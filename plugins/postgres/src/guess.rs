//! Guesses that all evaluations of a batch are new, so that it is inserted without looking first whether they are there.
//!
//! A wrong guess does no harm: the insert leaves the row of another alone, and that evaluation is merged in a second
//! transaction. That costs more than looking, so a wrong guess is followed by a while without any: where two kinds of
//! events carry the code, or events are replayed, hardly any batch is guessed about.

use std::sync::atomic::{AtomicU32, Ordering};

use storage_plugin_api::names;

use crate::joined::Group;

/// So many batches that could be guessed about are looked up after a guess that did not go well.
const PAUSE: u32 = 64;

/// What is known of the last guesses.
#[derive(Debug, Default)]
pub(crate) struct Guess {
    pause: AtomicU32,
}

impl Guess {
    /// True if everything in a batch is taken to be new.
    pub(crate) fn all_new(&self, groups: &[Group<'_>]) -> bool {
        let is_paused = || {
            let one_less = |left: u32| left.checked_sub(1);
            self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
        };
        groups.iter().all(seems_new) && !is_paused()
    }

    /// Learns that something was there already, or that the transaction failed: to look is safer for a while.
    pub(crate) fn did_not_go_well(&self) {
        self.pause.store(PAUSE, Ordering::Relaxed);
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

            guess.did_not_go_well();
            for _ in 0..PAUSE {
                assert!(!guess.all_new(&groups[..2]));
            }
            assert!(guess.all_new(&groups[..2]));
        });
    }
}
