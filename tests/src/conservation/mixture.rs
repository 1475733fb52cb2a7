//! The events of a run: lives and adversarial sets of many evaluations, mixed with each other and repeated, and among
//! them a known share of what is no event.

use std::collections::VecDeque;

use serde_json::json;

use crate::generate::Generator;
use crate::second_model::Sent;

/// Sets whose events are mixed with each other.
const SETS_AT_ONCE: usize = 40;
/// One in so many is no event.
const ONE_BAD_IN: usize = 100;
/// One in so many of those is larger than a mebibyte.
const ONE_LARGE_IN: u8 = 64;

/// An endless sequence of events that follows from a seed.
#[derive(Debug)]
pub struct Mixture {
    generator: Generator,
    random: fastrand::Rng,
    ready: VecDeque<Sent>,
    bad: usize,
}

impl Mixture {
    /// Always the same of the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { generator: Generator::new(seed), random: fastrand::Rng::with_seed(seed), ready: VecDeque::new(), bad: 0 }
    }

    fn refill(&mut self) {
        let events: Vec<Sent> = (0..SETS_AT_ONCE).flat_map(|_| self.generator.any_set()).collect();
        for event in self.generator.shuffle_and_repeat(&events) {
            if self.random.usize(..ONE_BAD_IN) == 0 {
                let bad = self.next_bad();
                self.ready.push_back(bad);
            }
            self.ready.push_back(event);
        }
    }

    fn next_bad(&mut self) -> Sent {
        self.bad += 1;
        if self.random.u8(..ONE_LARGE_IN) == 0 {
            return large_metadata(self.bad);
        }
        KINDS[self.bad % KINDS.len()](self.bad)
    }
}

impl Iterator for Mixture {
    type Item = Sent;

    fn next(&mut self) -> Option<Sent> {
        if self.ready.is_empty() {
            self.refill();
        }
        self.ready.pop_front()
    }
}

/// What is no event, each in another way; the number makes every one of them another message.
const KINDS: [fn(usize) -> Sent; 8] =
    [no_json, no_utf8, no_object, bad_id, no_code, code_of_another_type, unknown_channel, too_deep];

fn message(channel: &str, payload: impl Into<Vec<u8>>) -> Sent {
    Sent { channel: channel.to_owned(), payload: payload.into() }
}

fn no_json(number: usize) -> Sent {
    message("evaluation:failed", format!("{{\"eval_id\": \"bad-{number}\", \"error\": "))
}

fn no_utf8(number: usize) -> Sent {
    let mut payload = format!("{{\"eval_id\": \"bad-{number}\", \"error\": \"").into_bytes();
    payload.extend(b"\xff\xfe\"}");
    message("evaluation:failed", payload)
}

fn no_object(number: usize) -> Sent {
    message("evaluation:completed", format!("[\"bad-{number}\"]"))
}

fn bad_id(number: usize) -> Sent {
    Sent::new("evaluation:completed", &json!({"eval_id": format!("../bad-{number}"), "output": "x"}))
}

fn no_code(number: usize) -> Sent {
    Sent::new("evaluation:queued", &json!({"eval_id": format!("bad-{number}")}))
}

fn code_of_another_type(number: usize) -> Sent {
    Sent::new("evaluation:submitted", &json!({"eval_id": format!("bad-{number}"), "code": number}))
}

fn unknown_channel(number: usize) -> Sent {
    Sent::new("evaluation:unheard-of", &json!({"eval_id": format!("bad-{number}")}))
}

fn too_deep(number: usize) -> Sent {
    let (open, close) = ("[".repeat(200), "]".repeat(200));
    let payload = format!("{{\"eval_id\": \"bad-{number}\", \"metadata\": {{\"deep\": {open}{close}}}}}");
    message("evaluation:running", payload)
}

fn large_metadata(number: usize) -> Sent {
    let note = "x".repeat((1 << 20) + 1);
    Sent::new("evaluation:running", &json!({"eval_id": format!("bad-{number}"), "metadata": {"note": note}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::second_model::{evaluation_id, read};

    #[test]
    fn every_bad_kind_is_rejected_and_no_two_are_the_same_message() {
        let kinds = KINDS.into_iter().chain([large_metadata as fn(usize) -> Sent]);

        for kind in kinds {
            let message = kind(7);

            assert!(read(&message.channel, &message.payload, 0).is_err(), "{message:?}");
            assert_ne!(message, kind(8));
        }
        assert!(evaluation_id(Some(&"bad-7".into())).is_some(), "it is not for their ids that they are bad");
    }

    #[test]
    fn the_same_seed_makes_the_same_events_and_the_share_of_bad_ones_is_known() {
        let make = || Mixture::new(5).take(20_000).collect::<Vec<Sent>>();
        let events = make();

        let bad = events.iter().filter(|event| read(&event.channel, &event.payload, 0).is_err()).count();

        assert_eq!(events, make());
        assert!((100..400).contains(&bad), "{bad} of 20 000");
    }
}
