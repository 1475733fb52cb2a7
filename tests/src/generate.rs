//! Makes the events of evaluations: as real producers send them, and as nobody should.
//!
//! Everything follows from a seed, so a failure can be repeated. Every event carries its own time, because else its
//! arrival counts and no model can foretell it. `lifecycles.rs` holds what real producers send.

mod adversarial;
pub mod lifecycles;

use serde_json::Value;

use crate::second_model::{Sent, time_text};

/// Noon of the first day of 2025, in microseconds.
pub const NOON: i64 = 1_735_732_800_000_000;

/// A seeded source of event sets.
#[derive(Debug)]
pub struct Generator {
    random: fastrand::Rng,
    evaluations: u64,
}

impl Generator {
    /// A generator that always makes the same events of the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), evaluations: 0 }
    }

    /// The events of one more evaluation: in two of three cases a life as producers tell it, else an adversarial set.
    pub fn any_set(&mut self) -> Vec<Sent> {
        if self.random.u8(..3) == 0 { self.adversarial_set() } else { self.lifecycle() }
    }

    /// The life of one more evaluation, in order and without repetitions.
    pub fn lifecycle(&mut self) -> Vec<Sent> {
        let id = self.next_id();
        let mut life = lifecycles::Life::new(&id, NOON + self.random.i64(0..86_400_000_000));
        let mut events = Vec::with_capacity(4);
        for (sent_at, (channel, mut payload)) in life.tell(&mut self.random) {
            give_time(&mut payload, channel, sent_at);
            events.push(Sent::new(channel, &payload));
        }
        events
    }

    /// A set of one more evaluation with few event ids, times and values, so that ties, reused event ids and losing
    /// outcomes are common.
    pub fn adversarial_set(&mut self) -> Vec<Sent> {
        let id = self.next_id();
        adversarial::set(&id, &mut self.random)
    }

    /// The events in another order, some of them twice or three times.
    #[must_use]
    pub fn shuffle_and_repeat(&mut self, events: &[Sent]) -> Vec<Sent> {
        let mut mixed = Vec::with_capacity(events.len() * 3 / 2);
        for event in events {
            let times = if self.random.u8(..3) == 0 { self.random.usize(2..=3) } else { 1 };
            mixed.extend(std::iter::repeat_n(event.clone(), times));
        }
        self.random.shuffle(&mut mixed);
        mixed
    }

    /// An id as the API makes them.
    pub fn next_id(&mut self) -> String {
        self.evaluations += 1;
        let second = self.evaluations % 60;
        format!("20250101_1200{second:02}_{:08x}", self.evaluations.wrapping_mul(0x9e37_79b1) as u32)
    }
}

/// Adds a `timestamp` where the producer sends no time that counts.
fn give_time(payload: &mut Value, channel: &str, sent_at: i64) {
    let has_time =
        crate::second_model::read(channel, payload.to_string().as_bytes(), -1).is_ok_and(|told| told.time >= 0);
    if !has_time {
        payload["timestamp"] = time_text(sent_at).into();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::second_model::{Told, expect_one, read};

    fn told(events: &[Sent]) -> Vec<Told> {
        let read = |event: &Sent| read(&event.channel, &event.payload, -1).expect("generated events are valid");
        events.iter().map(read).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_events() {
        let make = || {
            let mut generator = Generator::new(7);
            (0..50).flat_map(|_| generator.any_set()).collect::<Vec<_>>()
        };

        assert_eq!(make(), make());
    }

    #[test]
    fn every_event_is_valid_and_carries_its_time() {
        let mut generator = Generator::new(1);

        for _ in 0..2000 {
            for event in told(&generator.any_set()) {
                assert!(event.time > 0, "{event:?}");
            }
        }
    }

    #[test]
    fn ids_are_not_repeated() {
        let mut generator = Generator::new(1);

        let ids: BTreeSet<String> = (0..10_000).map(|_| generator.next_id()).collect();

        assert_eq!(ids.len(), 10_000);
    }

    #[test]
    fn ties_reused_event_ids_and_losing_outcomes_are_common_in_adversarial_sets() {
        let mut generator = Generator::new(3);
        let (mut ties, mut reused, mut losing) = (0, 0, 0);
        for _ in 0..1000 {
            let events = told(&generator.adversarial_set());
            let pairs = || events.iter().enumerate().flat_map(|(at, a)| events[at + 1..].iter().map(move |b| (a, b)));
            ties += i32::from(pairs().any(|(a, b)| a.time == b.time && a.event_id == b.event_id && a != b));
            reused += i32::from(pairs().any(|(a, b)| a.time != b.time && a.event_id == b.event_id));
            let ends: BTreeSet<&str> = events
                .iter()
                .filter(|event| ["completed", "failed", "cancelled"].contains(&event.status.as_str()))
                .map(|event| event.status.as_str())
                .collect();
            losing += i32::from(ends.len() > 1);
        }

        assert!(ties > 300 && reused > 300 && losing > 300, "ties {ties}, reused {reused}, losing {losing} of 1000");
    }

    #[test]
    fn shuffling_and_repeating_changes_nothing_in_the_second_model() {
        let mut generator = Generator::new(5);
        for _ in 0..300 {
            let events = generator.any_set();
            let mixed = generator.shuffle_and_repeat(&events);

            assert_eq!(expect_one("e", told(&events)), expect_one("e", told(&mixed)));
        }
    }
}
