//! Between the types that cross the boundary and those that authors see; used by both of its sides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use abi_stable::std_types::{RResult, RSlice, RStr, RString, RVec};

use crate::abi::{Answered, CallContext, DeleteItem, Failure, FoundState, ItemAnswer, MAY_PASS, MergeAnswers};
use crate::backend::{Answer, Call, Delete, Deleted, Durability, Found, Outcome};
use crate::document_store::PutAnswer;
use crate::error::{Error, ErrorKind, Result};
use crate::model::state::State;
use crate::model::status::Status;
use crate::query::Fields;

pub(crate) const NOBODY_ELSE: u32 = u32::MAX;

pub(crate) fn to_failure(error: Error) -> Failure {
    Failure {
        kind: error.kind.code(),
        flags: if error.kind.may_pass() { MAY_PASS } else { 0 },
        retry_after_us: error.retry_after.map_or(0, to_micros),
        message: error.message.into(),
        reserved: [0; 2],
    }
}

/// An error of a kind that only a newer version knows is an outage if it may pass, else a defect.
pub(crate) fn from_failure(failure: &Failure) -> Error {
    let kind = match ErrorKind::from_code(failure.kind) {
        Some(kind) => kind,
        None if failure.flags & MAY_PASS != 0 => ErrorKind::Unavailable,
        None => ErrorKind::Internal,
    };
    let error = Error::new(kind, &failure.message);
    match failure.retry_after_us {
        0 => error,
        delay => error.with_retry_after(Duration::from_micros(delay)),
    }
}

pub(crate) fn to_answered<T>(result: Result<T>) -> Answered<T> {
    match result {
        Ok(value) => RResult::ROk(value),
        Err(error) => RResult::RErr(to_failure(error)),
    }
}

pub(crate) fn from_answered<T>(answered: Answered<T>) -> Result<T> {
    answered.into_result().map_err(|failure| from_failure(&failure))
}

fn to_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

pub(crate) fn to_context(call: &Call) -> CallContext {
    CallContext { budget_us: to_micros(call.remaining()), attempt: call.attempt, flags: 0, reserved: [0; 4] }
}

pub(crate) fn from_context(context: &CallContext) -> Call {
    Call { deadline: Instant::now() + budget(context.budget_us), attempt: context.attempt }
}

/// Capped at a day, so that a deadline never overflows.
pub(crate) fn budget(microseconds: u64) -> Duration {
    Duration::from_micros(microseconds.min(86_400_000_000))
}

/// Builds the flat answers of a batch.
#[derive(Default)]
pub(crate) struct Answers {
    answers: Vec<ItemAnswer>,
    failures: Vec<Failure>,
    names: Vec<Arc<str>>,
}

impl Answers {
    pub(crate) fn of_merge(answers: Vec<Answer>) -> MergeAnswers {
        let mut flat = Self { answers: Vec::with_capacity(answers.len()), ..Self::default() };
        for answer in answers {
            let status = answer.status.map_or(0, Status::code);
            let durable = u8::from(answer.durability == Durability::Durable);
            let taken_by = answer.taken_by.map_or(NOBODY_ELSE, |name| flat.name(name));
            let (outcome, failure) = match answer.outcome {
                Outcome::Created => (0, 0),
                Outcome::Updated => (1, 0),
                Outcome::Unchanged => (2, 0),
                Outcome::Accepted => (3, 0),
                Outcome::Rejected(error) => (4, flat.failure(error)),
            };
            flat.answers.push(ItemAnswer { outcome, status, durable, flags: 0, failure, taken_by, reserved: 0 });
        }
        flat.finish()
    }

    pub(crate) fn of_delete(answers: Vec<Deleted>) -> MergeAnswers {
        let mut flat = Self::default();
        for answer in answers {
            let (outcome, failure) = match answer {
                Deleted::Deleted => (0, 0),
                Deleted::Absent => (1, 0),
                Deleted::Differs => (2, 0),
                Deleted::Failed(error) => (4, flat.failure(error)),
            };
            flat.plain(outcome, failure);
        }
        flat.finish()
    }

    pub(crate) fn of_put(answers: Vec<PutAnswer>) -> MergeAnswers {
        let mut flat = Self::default();
        for answer in answers {
            let (outcome, failure) = match answer {
                PutAnswer::Done => (0, 0),
                PutAnswer::Conflict => (2, 0),
                PutAnswer::Failed(error) => (4, flat.failure(error)),
            };
            flat.plain(outcome, failure);
        }
        flat.finish()
    }

    fn plain(&mut self, outcome: u8, failure: u32) {
        let answer =
            ItemAnswer { outcome, status: 0, durable: 0, flags: 0, failure, taken_by: NOBODY_ELSE, reserved: 0 };
        self.answers.push(answer);
    }

    fn failure(&mut self, error: Error) -> u32 {
        self.failures.push(to_failure(error));
        index(self.failures.len() - 1)
    }

    /// A batch is nearly always taken by one instance, so the last name is looked at first.
    fn name(&mut self, name: Arc<str>) -> u32 {
        let place = self.names.iter().rposition(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        index(place)
    }

    fn finish(self) -> MergeAnswers {
        MergeAnswers {
            answers: self.answers.into(),
            failures: self.failures.into(),
            names: self.names.iter().map(|name| RString::from(&**name)).collect(),
            reserved: [0; 2],
        }
    }
}

fn index(place: usize) -> u32 {
    u32::try_from(place).expect("a batch has fewer than 2^32 items")
}

fn failure_of(answers: &MergeAnswers, answer: &ItemAnswer) -> Error {
    let failure = answers.failures.get(answer.failure as usize);
    failure.map_or_else(|| Error::internal("the plugin rejected an item without a reason"), from_failure)
}

pub(crate) fn merge_answers(answers: &MergeAnswers, expected: usize) -> Result<Vec<Answer>> {
    check_count(answers.answers.len(), expected)?;
    let names: Vec<Arc<str>> = answers.names.iter().map(|name| name.as_str().into()).collect();
    let read = |answer: &ItemAnswer| Answer {
        outcome: match answer.outcome {
            0 => Outcome::Created,
            1 => Outcome::Updated,
            2 => Outcome::Unchanged,
            3 => Outcome::Accepted,
            4 => Outcome::Rejected(failure_of(answers, answer)),
            other => Outcome::Rejected(Error::internal(format_args!("the plugin gave the unknown outcome {other}"))),
        },
        status: Status::from_code(answer.status),
        durability: if answer.durable == 1 { Durability::Durable } else { Durability::Volatile },
        taken_by: names.get(answer.taken_by as usize).cloned(),
    };
    Ok(answers.answers.iter().map(read).collect())
}

pub(crate) fn deleted_answers(answers: &MergeAnswers, expected: usize) -> Result<Vec<Deleted>> {
    check_count(answers.answers.len(), expected)?;
    let read = |answer: &ItemAnswer| match answer.outcome {
        0 => Deleted::Deleted,
        1 => Deleted::Absent,
        2 => Deleted::Differs,
        _ => Deleted::Failed(failure_of(answers, answer)),
    };
    Ok(answers.answers.iter().map(read).collect())
}

pub(crate) fn put_answers(answers: &MergeAnswers, expected: usize) -> Result<Vec<PutAnswer>> {
    check_count(answers.answers.len(), expected)?;
    let read = |answer: &ItemAnswer| match answer.outcome {
        0 => PutAnswer::Done,
        2 => PutAnswer::Conflict,
        _ => PutAnswer::Failed(failure_of(answers, answer)),
    };
    Ok(answers.answers.iter().map(read).collect())
}

pub(crate) fn check_count(found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::internal(format_args!("the plugin gave {found} answers for {expected} items")))
}

pub(crate) fn to_found(id: &str, found: Option<&Found>) -> FoundState {
    FoundState {
        id: id.into(),
        state: found.map(|found| found.state.to_canonical_json().into()).unwrap_or_default(),
        incomplete: u8::from(found.is_some_and(|found| found.incomplete)),
        flags: 0,
        reserved: [0; 14],
    }
}

pub(crate) fn from_found(found: &FoundState) -> Result<Option<Found>> {
    if found.state.is_empty() {
        return Ok(None);
    }
    let state = State::from_json(&found.state).map_err(Error::internal)?;
    Ok(Some(Found { state, incomplete: found.incomplete != 0 }))
}

pub(crate) fn fields_code(fields: Fields) -> u32 {
    match fields {
        Fields::Whole => 0,
        Fields::WithoutBodies => 1,
    }
}

pub(crate) fn fields_from_code(code: u32) -> Fields {
    if code == 1 { Fields::WithoutBodies } else { Fields::Whole }
}

pub(crate) fn to_ids<'a>(ids: &'a [&'a str]) -> Vec<RStr<'a>> {
    ids.iter().map(|id| RStr::from_str(id)).collect()
}

pub(crate) fn from_ids<'a>(ids: RSlice<'a, RStr<'a>>) -> Vec<&'a str> {
    ids.as_slice().iter().map(|id| id.as_str()).collect()
}

pub(crate) fn to_delete<'a>(item: &Delete<'a>) -> DeleteItem<'a> {
    let digest = item.digest.map_or(RSlice::EMPTY, |digest| RSlice::from_slice(digest));
    DeleteItem { id: RStr::from_str(item.id), digest, version: 0, reserved: 0 }
}

pub(crate) fn from_delete<'a>(item: &'a DeleteItem<'a>) -> Delete<'a> {
    Delete { id: item.id.as_str(), digest: item.digest.as_slice().try_into().ok() }
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("types of the contract have only text keys")
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::configuration(format_args!("{what}: {error}")))
}

pub(crate) fn to_bytes(bytes: RVec<u8>) -> Vec<u8> {
    bytes.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_crosses_and_one_that_is_not_known_is_tried_again_only_if_it_may_pass() {
        for kind in ErrorKind::ALL {
            assert_eq!(from_failure(&to_failure(Error::new(kind, "x"))).kind, kind);
        }

        let unknown = |flags| from_failure(&Failure { kind: 99, flags, ..to_failure(Error::internal("x")) }).kind;

        assert_eq!(unknown(MAY_PASS), ErrorKind::Unavailable);
        assert_eq!(unknown(0), ErrorKind::Internal);
    }
}
