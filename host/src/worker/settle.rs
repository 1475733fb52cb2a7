//! Turns the answers of a backend into what happens to each delivery: persist, then confirm, then acknowledge.
//!
//! Only what was persisted gets here. `confirm.rs` publishes the text that is written here, and acknowledges.

use std::sync::Arc;

use storage_plugin_api::{Durability, Outcome, Status, format_time, json};

use super::confirm::Chunk;
use super::taken::Taken;
use crate::source::now;

/// What a confirmation says of the merge, beside the event's own ids.
#[derive(Clone, Debug)]
pub(super) struct Receipt {
    pub(super) result: MergeResult,
    /// The record's status after the merge; the event's where that is not known.
    pub(super) status: Status,
    pub(super) durability: Durability,
    /// The instance that took it; none stands for the root of the tree.
    pub(super) taken_by: Option<Arc<str>>,
}

/// What a merge did, as confirmations call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeResult {
    Created,
    Updated,
    Repeated,
    Accepted,
}

/// How many events had each result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByResult([usize; MergeResult::ALL.len()]);

impl ByResult {
    pub(super) fn add(&mut self, result: MergeResult) {
        self.0[result as usize] += 1;
    }

    /// In the order of [`MergeResult::ALL`].
    pub(super) fn each(&self) -> [usize; MergeResult::ALL.len()] {
        self.0
    }

    pub(super) fn all(&self) -> usize {
        self.0.iter().sum()
    }
}

impl MergeResult {
    /// Each, in the order in which they are declared.
    pub(super) const ALL: [Self; 4] = [Self::Created, Self::Updated, Self::Repeated, Self::Accepted];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Repeated => "repeated",
            Self::Accepted => "accepted",
        }
    }

    /// The result for one event of an item; none if the item was not taken.
    ///
    /// Of the events that were joined into a new item the first created it and the others updated it; one that told
    /// nothing that those before it had not is a repeat.
    pub(super) fn of(outcome: &Outcome, is_first: bool, told_something_new: bool) -> Option<Self> {
        Some(match outcome {
            Outcome::Accepted => Self::Accepted,
            Outcome::Unchanged => Self::Repeated,
            Outcome::Created | Outcome::Updated if !told_something_new => Self::Repeated,
            Outcome::Created if is_first => Self::Created,
            Outcome::Created | Outcome::Updated => Self::Updated,
            Outcome::Rejected(_) => return None,
        })
    }
}

/// Writes the confirmations of one merge.
#[derive(Debug)]
pub(super) struct Confirmations {
    chunk: Chunk,
    backend: Arc<str>,
    generation: u64,
    /// Written once for the whole merge: that is when it was persisted.
    timestamp: String,
}

impl Confirmations {
    pub(super) fn new(backend: &Arc<str>, generation: u64, capacity: usize) -> Self {
        let mut chunk = Chunk::default();
        chunk.text.reserve(capacity * 256);
        Self { chunk, backend: Arc::clone(backend), generation, timestamp: format_time(now()) }
    }

    /// Writes the confirmation of a persisted event.
    pub(super) fn add(&mut self, taken: &Taken, receipt: &Receipt) {
        let backend = receipt.taken_by.as_ref().unwrap_or(&self.backend);
        let text = &mut self.chunk.text;
        text.push_str("{\"eval_id\":");
        json::push_string(text, &taken.event.evaluation_id);
        text.push_str(",\"event_id\":");
        json::push_string(text, &taken.event.event_id);
        text.push_str(",\"status\":\"");
        text.push_str(receipt.status.as_str());
        text.push_str("\",\"result\":\"");
        text.push_str(receipt.result.as_str());
        text.push_str("\",\"durability\":\"");
        text.push_str(receipt.durability.as_str());
        text.push_str("\",\"backend\":");
        json::push_string(text, backend);
        text.push_str(",\"generation\":");
        push_number(text, self.generation);
        text.push_str(",\"timestamp\":\"");
        text.push_str(&self.timestamp);
        text.push_str("\"}");
        let token = taken.origin.token.map(|token| (taken.origin.source, token));
        self.chunk.finish_entry(&taken.confirm, [taken.origin.received_at, taken.event.time], token);
    }

    pub(super) fn into_chunk(self) -> Chunk {
        self.chunk
    }
}

fn push_number(out: &mut String, number: u64) {
    use std::fmt::Write;
    write!(out, "{number}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::test_kit::taken;

    #[test]
    fn a_confirmation_has_the_keys_of_the_contract() {
        let mut confirmations = Confirmations::new(&"main".into(), 7, 1);
        let receipt = Receipt {
            result: MergeResult::Created,
            status: Status::Completed,
            durability: Durability::Durable,
            taken_by: Some("disk".into()),
        };

        confirmations.add(&taken("a", "e \"1\"", 1), &receipt);

        let chunk = confirmations.into_chunk();
        let value: serde_json::Value = serde_json::from_str(&chunk.text).expect("a confirmation is JSON");
        let timestamp = value["timestamp"].as_str().expect("there is a timestamp");
        assert_eq!((timestamp.len(), &timestamp[10..11], &timestamp[26..]), (32, "T", "+00:00"));
        let expected = serde_json::json!({
            "eval_id": "a",
            "event_id": "e \"1\"",
            "status": "completed",
            "result": "created",
            "durability": "durable",
            "backend": "disk",
            "generation": 7,
            "timestamp": timestamp,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn of_joined_events_the_first_creates_and_repeats_are_known() {
        let results = |outcome: Outcome| {
            [(true, true), (false, true), (false, false)].map(|(first, new)| MergeResult::of(&outcome, first, new))
        };

        use MergeResult::{Accepted, Created, Repeated, Updated};
        assert_eq!(results(Outcome::Created), [Some(Created), Some(Updated), Some(Repeated)]);
        assert_eq!(results(Outcome::Updated), [Some(Updated), Some(Updated), Some(Repeated)]);
        assert_eq!(results(Outcome::Unchanged), [Some(Repeated); 3]);
        assert_eq!(results(Outcome::Accepted), [Some(Accepted); 3]);
    }
}
