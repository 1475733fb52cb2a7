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

/// Merges for a process of its own: one event after the other, spread over some evaluations.
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
        format!("{}{}", self.prefix, number % self.evaluations.max(1))
    }

    /// The id of an event, which nothing else contains.
    #[must_use]
    pub fn event_id(&self, number: u64) -> String {
        format!("{}w{}n{number}e", self.prefix, self.writer)
    }

    /// An event.
    #[must_use]
    pub fn state(&self, number: u64) -> State {
        let time = i64::try_from(number).unwrap_or(0) * 16 + i64::try_from(self.writer % 16).unwrap_or(0);
        note_of(time, &self.event_id(number), "flooded")
    }

    /// Merges the events, and tells each step before it goes on.
    ///
    /// # Errors
    /// When one is not taken.
    pub fn run(&self, backend: &dyn Backend, mut tell: impl FnMut(Step)) -> Result<()> {
        for number in 0..self.events {
            let (id, state) = (self.id(number), self.state(number));
            tell(Step::Merging(number));
            let call = Call::with_budget(CALL_BUDGET);
            let answers = with_items(&[(&id, &state)], |batch| backend.merge(&call, batch))?;
            match answers.into_iter().next().map(|answer| answer.outcome) {
                Some(Outcome::Rejected(error)) => return Err(error),
                Some(Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::Accepted) => {}
                None => return Err(Error::internal("no answer for an item")),
            }
            tell(Step::Answered(number));
        }
        Ok(())
    }
}
