//! Bytes to [`Event`]: what each field of a payload says, and which register it becomes.
//!
//! A field that is not made use of is kept under metadata, so nothing that a producer sends is lost: unknown fields,
//! outcome fields of an event that is no outcome, times that are not the event's, optional fields of a wrong type or
//! beyond their limit. An explicit key of the metadata wins over such a field.

use std::borrow::Cow;
use std::sync::Arc;

use storage_plugin_api::{EventStamp, State, Status, json, names};

use super::identity::{sent_time, time_field};
use super::payload::{Fields, kind_of, string};
use super::reader::{Reader, has_at_most, wrong_type};
use super::reject::Reject;
use super::row::EventRow;
use super::{Event, id};

/// Most characters of `language` and `engine`.
const MAX_KIND_CHARACTERS: usize = 50;

/// Most characters of `executor_id` and `container_id`.
const MAX_PLACE_CHARACTERS: usize = 100;

/// Most bytes of the metadata as canonical JSON, with the fields that are kept there.
const MAX_METADATA_BYTES: usize = 1 << 20;

/// What is known of a delivery beside its payload, for an event that says less itself. Times are in microseconds since
/// 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// When it was received.
    pub received_at: i64,
    /// The time that travelled with it, or that of its entry in a stream, if it came from one.
    pub entry_time: Option<i64>,
    /// The event id that travelled with it.
    pub event_id: Option<&'a str>,
}

impl Arrival<'_> {
    /// The time of an event that tells none.
    pub(super) fn time(&self) -> i64 {
        self.entry_time.unwrap_or(self.received_at)
    }
}

/// The limits that are configured; all others are fixed, so that every backend can keep what is accepted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest payload accepted, in bytes. Default 16 MiB.
    ///
    /// Far below Redis's own limit (`proto-max-bulk-len`, 512 MB), so that our memory is bounded first.
    pub max_payload_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_payload_bytes: 16 << 20 }
    }
}

/// Decodes a delivery of a channel.
///
/// # Errors
/// When the payload is no event: see [`Reject`].
pub fn decode(
    channel: &str,
    row: &EventRow,
    payload: &[u8],
    arrival: Arrival<'_>,
    limits: &Limits,
) -> Result<Event, Reject> {
    if payload.len() > limits.max_payload_bytes {
        return Err(Reject::TooLarge { bytes: payload.len(), limit: limits.max_payload_bytes });
    }
    let mut reader = Reader::new(channel, row, payload)?;
    let evaluation_id = reader.evaluation_id()?;
    let event_id = reader.event_id(arrival.event_id)?;
    let metadata = reader.metadata()?;
    let time = reader.time(&metadata, arrival);
    let (status, is_timeout) = reader.status()?;

    let stamp = EventStamp { time, event_id: Arc::clone(&event_id) };
    let mut state = State::with_capacity(16);
    reader.set_description(&mut state, &stamp)?;
    if status.is_terminal() {
        reader.set_outcome(&mut state, &stamp, status)?;
    }
    set_life_cycle(&mut state, &stamp, status);
    set_metadata(&mut state, &stamp, metadata, is_timeout, reader.fields)?;
    Ok(Event { evaluation_id, event_id, time, status, state })
}

impl<'a> Reader<'a> {
    fn evaluation_id(&mut self) -> Result<Arc<str>, Reject> {
        let value = self.fields.get("eval_id");
        let text = value.map_or(Ok(None), |value| string("eval_id", value))?;
        let Some(text) = text else {
            let found = value.map_or("missing", kind_of);
            return Err(Reject::WrongType { field: "eval_id", found, expected: "a string" });
        };
        if !id::is_evaluation_id(&text) {
            return Err(Reject::InvalidId { shown: id::shown(&text) });
        }
        self.fields.take("eval_id");
        Ok(text.into())
    }

    fn event_id(&mut self, carried: Option<&str>) -> Result<Arc<str>, Reject> {
        let limit = "200 characters, none of them a control character";
        match (self.text_if("event_id", id::is_event_id, limit)?, carried) {
            (Some(sent), _) => Ok(sent.into()),
            (None, Some(carried)) if id::is_event_id(carried) => Ok(carried.into()),
            (None, _) => Ok(id::of_content(self.channel, &self.fields.to_canonical_json()?)),
        }
    }

    /// The metadata that the producer sent as such.
    fn metadata(&mut self) -> Result<Fields<'a>, Reject> {
        let Some(value) = self.fields.get("metadata") else { return Ok(Fields::none()) };
        if value.get().starts_with('{') {
            self.fields.take("metadata");
            return self.fields.fields_of(value);
        }
        self.keep_unless_required("metadata", || wrong_type("metadata", value, "an object"))?;
        Ok(Fields::none())
    }

    /// The event's time: as sent, else that of its arrival.
    fn time(&mut self, metadata: &Fields<'a>, arrival: Arrival<'_>) -> i64 {
        match sent_time(&self.fields, metadata, time_field(self.row)) {
            Some((time, field)) => {
                field.into_iter().for_each(|field| self.fields.take(field));
                time
            }
            None => arrival.time(),
        }
    }

    /// The status that the event tells, and whether it is that of a timeout.
    fn status(&mut self) -> Result<(Status, bool), Reject> {
        self.fields.check("status")?;
        let sent = self.text_if("status", |_| true, "")?;
        self.fields.take("status");
        Ok(match sent.as_deref() {
            Some("failed") if self.row.status.is_terminal() => (Status::Failed, false),
            Some("timeout") if self.row.status.is_terminal() => (Status::Failed, true),
            _ => (self.row.status, false),
        })
    }

    /// Sets what any event may say of an evaluation.
    fn set_description(&mut self, state: &mut State, stamp: &EventStamp) -> Result<(), Reject> {
        if let Some(code) = self.text(names::CODE)? {
            state.set_text(stamp, names::CODE, code);
        }
        for (name, most) in [
            (names::LANGUAGE, MAX_KIND_CHARACTERS),
            (names::ENGINE, MAX_KIND_CHARACTERS),
            (names::EXECUTOR_ID, MAX_PLACE_CHARACTERS),
            (names::CONTAINER_ID, MAX_PLACE_CHARACTERS),
        ] {
            let limit = if most == MAX_KIND_CHARACTERS { "50 characters" } else { "100 characters" };
            if let Some(text) = self.text_if(name, |text| has_at_most(text, most), limit)? {
                state.set_string(stamp, name, &text);
            }
        }
        Ok(())
    }

    /// Sets what only an event that ends an evaluation may say.
    fn set_outcome(&mut self, state: &mut State, stamp: &EventStamp, status: Status) -> Result<(), Reject> {
        if let Some(output) = self.text("output")? {
            state.set_text(stamp, &names::outcome(status, "output"), output);
        }
        let error = match self.text("error")? {
            None if self.row.status == Status::Cancelled => self.text("reason")?,
            error => error,
        };
        if let Some(error) = error {
            state.set_text(stamp, &names::outcome(status, "error"), error);
        }
        for part in ["exit_code", "runtime_ms", "memory_used_mb"] {
            if let Some(number) = self.integer(part)? {
                state.set_number(stamp, &names::outcome(status, part), number.into());
            }
        }
        Ok(())
    }
}

fn set_life_cycle(state: &mut State, stamp: &EventStamp, status: Status) {
    state.set_created(stamp);
    if status.is_terminal() {
        state.set_end(stamp, status);
    } else {
        state.set_open(stamp, status);
        state.set_stage_at(stamp, status);
    }
    let (kind, message) = match status {
        Status::Submitted => ("submitted", "Evaluation submitted"),
        Status::Queued => ("status_changed", "Status changed to queued"),
        Status::Provisioning => ("status_changed", "Status changed to provisioning"),
        Status::Running => ("status_changed", "Status changed to running"),
        Status::Completed => ("status_changed", "Status changed to completed"),
        Status::Failed => ("status_changed", "Status changed to failed"),
        Status::Cancelled => ("status_changed", "Status changed to cancelled"),
    };
    state.set_history(stamp, kind, status, message);
}

/// Sets the metadata: what was sent as such, then that it timed out, then the fields that were left.
fn set_metadata(
    state: &mut State,
    stamp: &EventStamp,
    sent: Fields<'_>,
    is_timeout: bool,
    left: Fields<'_>,
) -> Result<(), Reject> {
    let reason = is_timeout.then(|| Ok((Cow::Borrowed("reason"), json::canonical_string("timeout"))));
    let mut entries = sent.left().chain(reason).chain(left.left()).collect::<Result<Vec<_>, Reject>>()?;
    // Sorted, because that is how a state takes many registers at little cost; the sort is stable, the first one wins.
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries.dedup_by(|(later, _), (earlier, _)| later == earlier);
    // At most six bytes for one of a key: only who comes near the limit is measured.
    let most = |(key, value): &(Cow<'_, str>, String)| 6 * key.len() + 4 + value.len();
    let size = |(key, value): &(Cow<'_, str>, String)| json::canonical_string(key).len() + 1 + value.len() + 1;
    if entries.iter().map(most).sum::<usize>() + 1 > MAX_METADATA_BYTES
        && entries.iter().map(size).sum::<usize>() + 1 > MAX_METADATA_BYTES
    {
        return Err(Reject::MetadataTooLarge { limit: MAX_METADATA_BYTES });
    }
    for (key, value) in entries {
        state.set_metadata(stamp, &key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
