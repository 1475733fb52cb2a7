//! Guesses which evaluations of a batch are new, so that nobody looks first whether they are there.
//!
//! A wrong guess does no harm: the insert leaves the row of another alone, and that evaluation is merged in a second
//! transaction. This is what a replay would pay for each of its batches, so guesses that were wrong are followed by none.

use std::sync::atomic::{AtomicU32, Ordering};

use storage_plugin_api::names;

use crate::joined::Group;

/// So many batches are merged without a guess after one that was wrong.
const PAUSE: u32 = 64;

/// What is known of the last guesses.
#[derive(Debug, Default)]
pub(crate) struct Guess {
    pause: AtomicU32,
}

impl Guess {
    /// The groups that are to be looked up, in their order: all but those that seem to be new.
    pub(crate) fn to_look_up<'g, 'a>(&self, groups: &[&'g Group<'a>]) -> Vec<&'g Group<'a>> {
        let pauses = self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        groups.iter().copied().filter(|group| pauses || !seems_new(group)).collect()
    }

    /// Learns how many of the guessed evaluations were there already.
    pub(crate) fn learn(&self, guessed: usize, wrong: usize) {
        if wrong * 8 > guessed {
            self.pause.store(PAUSE, Ordering::Relaxed);
        }
    }
}

/// The code comes with the first event of an evaluation, and with no other that producers send.
fn seems_new(group: &Group<'_>) -> bool {
    group.items.iter().any(|(_, item)| item.registers().iter().any(|register| register.name() == names::CODE))
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::{EventStamp, State, with_items};

    use super::*;
    use crate::joined::groups;

    #[test]
    fn what_carries_code_seems_new_until_that_was_wrong() {
        let stamp = EventStamp::new(1, "e");
        let (mut queued, mut running) = (State::new(), State::new());
        queued.set_text(&stamp, names::CODE, "x");
        running.set_created(&stamp);

        with_items(&[("a", &running), ("b", &queued)], |items| {
            let groups = groups(items);
            let groups: Vec<&Group<'_>> = groups.iter().collect();
            let guess = Guess::default();
            let to_look_up = || guess.to_look_up(&groups).iter().map(|group| group.id).collect::<Vec<_>>();
            assert_eq!(to_look_up(), ["a"]);

            guess.learn(100, 12);
            assert_eq!(to_look_up(), ["a"]);

            guess.learn(1, 1);
            for _ in 0..PAUSE {
                assert_eq!(to_look_up(), ["a", "b"]);
            }
            assert_eq!(to_look_up(), ["a"]);
        });
    }
}
