//! The states that behaviors merge, and floods of them for other processes.

use serde::{Deserialize, Serialize};

use crate::abi::with_items;
use crate::backend::{Backend, Call, Outcome};
use crate::error::{Error, Result};
use crate::model::register::EventStamp;
use crate::model::state::State;
use crate::model::status::Status;
use crate::names;

use super::trial::CALL_BUDGET;

/// The times of most events are behind this one, 2001-09-09, in microseconds.
pub(super) const EPOCH: i64 = 1_000_000_000_000_000;

/// A stamp at so many microseconds.
pub(super) fn stamp(time: i64, event_id: &str) -> EventStamp {
    EventStamp::new(EPOCH + time, event_id)
}

/// An event that only adds: whatever else is merged before or after it in order of time, nothing of it is lost.
pub(super) fn note(number: i64) -> State {
    note_of(number, &format!("note-{number}"), "noted")
}

pub(super) fn note_of(number: i64, event_id: &str, text: &str) -> State {
    let stamp = stamp(number, event_id);
    let mut state = State::new();
    state.set_open(&stamp, Status::Running);
    state.set_history(&stamp, "status_changed", Status::Running, text);
    state
}

/// The first event of an evaluation, in some status.
pub(super) fn begun(time: i64, status: Status, language: &str) -> State {
    let stamp = stamp(time, &format!("begun-{time}"));
    let mut state = State::new();
    match status.is_terminal() {
        true => state.set_end(&stamp, status),
        false => state.set_open(&stamp, status),
    }
    state.set_created(&stamp);
    state.set_string(&stamp, names::LANGUAGE, language);
    state.set_text(&stamp, names::CODE, format!("print({time})"));
    state
}

/// The events of one evaluation, in order of time; they contradict each other.
pub(super) fn lifecycle() -> Vec<State> {
    let mut states = Vec::new();
    let steps = [
        (Status::Queued, 10),
        (Status::Running, 20),
        (Status::Completed, 30),
        (Status::Failed, 40),
        (Status::Completed, 50),
    ];
    for (status, time) in steps {
        let stamp = stamp(time, &format!("event-{time}"));
        let mut state = State::new();
        state.set_created(&stamp);
        state.set_history(&stamp, "status_changed", status, &format!("Status changed to {status}"));
        state.set_metadata(&stamp, "seen_at", time.to_string());
        if status.is_terminal() {
            state.set_end(&stamp, status);
            state.set_text(&stamp, &names::outcome(status, "output"), format!("output of {time}"));
            state.set_number(&stamp, &names::outcome(status, "exit_code"), time);
        } else {
            state.set_open(&stamp, status);
            state.set_stage_at(&stamp, status);
            state.set_text(&stamp, names::CODE, format!("print({time})"));
            state.set_string(&stamp, names::LANGUAGE, "python");
        }
        states.push(state);
    }
    states
}

/// All of some states, joined.
pub(super) fn joined<'a>(states: impl IntoIterator<Item = &'a State>) -> State {
    let mut all = State::new();
    for state in states {
        all.merge(state);
    }
    all
}

/// Merges for a process of its own: one batch after the other, spread over some evaluations.
///
/// Every second writer goes through the evaluations backwards, so that two meet each other, and none in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flood {
    /// What the ids of the evaluations begin with.
    pub prefix: String,
    /// Which of several processes this is.
    pub writer: u64,
    /// How many evaluations there are.
    pub evaluations: u64,
    /// How many events are merged.
    pub events: u64,
    /// How many events are merged in one call; at most as many as there are evaluations.
    pub batch: u64,
}

/// How far a flood is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An event is about to be merged.
    Merging(u64),
    /// It was answered.
    Answered(u64),
}

impl Flood {
    /// The evaluation of an event.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        let count = self.evaluations.max(1);
        let place = number % count;
        format!("{}{}", self.prefix, if self.writer.is_multiple_of(2) { place } else { count - 1 - place })
    }

    /// The id of an event, which nothing else contains.
    #[must_use]
    pub fn event_id(&self, number: u64) -> String {
        format!("{}w{}n{number}e", self.prefix, self.writer)
    }

    /// An event. Those of one evaluation contradict each other.
    #[must_use]
    pub fn state(&self, number: u64) -> State {
        let mixed = number.wrapping_mul(7919).wrapping_add(self.writer.wrapping_mul(104_729)) % 100_003;
        let event_id = self.event_id(number);
        let time = i64::try_from(mixed).unwrap_or_default();
        let mut state = note_of(time, &event_id, "flooded");
        let stamp = stamp(time, &event_id);
        match mixed % 4 {
            0 => state.set_text(&stamp, names::CODE, event_id.as_str()),
            1 => state.set_metadata(&stamp, "flooded", number.to_string()),
            even_or_odd => {
                let status = if even_or_odd == 2 { Status::Completed } else { Status::Failed };
                state.set_end(&stamp, status);
                state.set_text(&stamp, &names::outcome(status, "output"), event_id.as_str());
            }
        }
        state
    }

    /// Merges the events, and tells each step before it goes on.
    ///
    /// # Errors
    /// When one is not taken.
    pub fn run(&self, backend: &dyn Backend, mut tell: impl FnMut(Step)) -> Result<()> {
        let mut first = 0;
        while first < self.events {
            let numbers = first..self.events.min(first + self.batch.max(1));
            first = numbers.end;
            let items: Vec<(String, State)> =
                numbers.clone().map(|number| (self.id(number), self.state(number))).collect();
            let items: Vec<(&str, &State)> = items.iter().map(|(id, state)| (&**id, state)).collect();
            numbers.clone().for_each(|number| tell(Step::Merging(number)));
            let call = Call::with_budget(CALL_BUDGET);
            let answers = with_items(&items, |batch| backend.merge(&call, batch))?;
            if answers.len() != items.len() {
                return Err(Error::internal("not one answer for each item"));
            }
            for answer in answers {
                match answer.outcome {
                    Outcome::Rejected(error) => return Err(error),
                    Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::Accepted => {}
                }
            }
            numbers.for_each(|number| tell(Step::Answered(number)));
        }
        Ok(())
    }
}
