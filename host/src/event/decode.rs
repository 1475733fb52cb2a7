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
    let size = |(key, value): &(Cow<'_, str>, String)| json::canonical_string(key).len() + 1 + value.len() + 1;
    if entries.iter().map(size).sum::<usize>() + 1 > MAX_METADATA_BYTES {
        return Err(Reject::MetadataTooLarge { limit: MAX_METADATA_BYTES });
    }
    for (key, value) in entries {
        state.set_metadata(stamp, &key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVAL: Arrival<'_> = Arrival { received_at: 1_000, entry_time: None, event_id: None };

    fn row(status: Status, require: &[&str]) -> EventRow {
        EventRow::for_test(status, require)
    }

    fn decode_as(status: Status, require: &[&str], payload: &str) -> Result<Event, Reject> {
        decode("channel", &row(status, require), payload.as_bytes(), ARRIVAL, &Limits::default())
    }

    /// The registers of an event but those that every event has: names and values, and the time if one was sent.
    fn said(status: Status, fields: &str) -> String {
        let event =
            decode_as(status, &[], &format!(r#"{{"eval_id":"a","event_id":"e",{fields}}}"#)).expect("it is valid");
        let has_own = |name: &str| {
            name.starts_with("metadata/")
                || (!name.starts_with("history/") && !name.starts_with("end/") && !name.ends_with("_at"))
        };
        let registers =
            event.state.registers().iter().filter(|register| has_own(&register.name) && register.name != "open");
        let mut said: Vec<String> = registers
            .map(|register| match (register.value.as_json(), register.value.as_body()) {
                (Some(value), _) => format!("{}={value}", register.name),
                (None, body) => {
                    format!("{}:{}", register.name, body.and_then(|body| body.as_text()).unwrap_or_default())
                }
            })
            .collect();
        if event.time != ARRIVAL.received_at {
            said.push(format!("@{}", event.time));
        }
        said.join(" ")
    }

    #[test]
    fn fields_become_registers() {
        use Status::{Cancelled, Completed, Failed, Queued, Running, Submitted};
        for (status, fields, expected) in [
            (
                Queued,
                r#""code":"x","language":"python","engine":"docker""#,
                r#"code:x engine="docker" language="python""#,
            ),
            (
                Running,
                r#""executor_id":"j","container_id":"c","timeout":30"#,
                r#"container_id="c" executor_id="j" metadata/timeout=30"#,
            ),
            (
                Completed,
                r#""output":"o","exit_code":0,"metadata":{"b":[],"a":1.50}"#,
                r"completed/exit_code=0 completed/output:o metadata/a=1.50 metadata/b=[]",
            ),
            (
                Failed,
                r#""error":"e","runtime_ms":5,"memory_used_mb":7"#,
                r"failed/error:e failed/memory_used_mb=7 failed/runtime_ms=5",
            ),
            // Empty says nothing; an empty list is a value.
            (
                Completed,
                r#""output":"","error":null,"language":"","metadata":null,"x":{ },"y":"","z":[]"#,
                "metadata/z=[]",
            ),
            (
                Queued,
                r#""metadata":{"a":null,"b":"","c":{},"d":false,"e":0,"f":" "}"#,
                r#"metadata/d=false metadata/e=0 metadata/f=" ""#,
            ),
            // Outcome fields on an event that is no outcome are kept under metadata, as is all that is unknown.
            (Running, r#""output":"o","exit_code":1"#, r#"metadata/exit_code=1 metadata/output="o""#),
            (Queued, r#""x":{"b":1,"a":2},"channel":"c""#, r#"metadata/channel="c" metadata/x={"a":2,"b":1}"#),
            (Queued, r#""x":1,"metadata":{"x":2}"#, "metadata/x=2"),
            (Queued, r#""x":1,"metadata":{"x":null}"#, "metadata/x=1"),
            // The status is the row's, but for failures on a terminal row.
            (Queued, r#""status":"failed""#, ""),
            (Completed, r#""status":"completed","output":"o""#, "completed/output:o"),
            (Completed, r#""status":"failed","output":"o""#, "failed/output:o"),
            (Failed, r#""status":"timeout","error":"e""#, r#"failed/error:e metadata/reason="timeout""#),
            (Failed, r#""status":"timeout","metadata":{"reason":"r"}"#, r#"metadata/reason="r""#),
            (Completed, r#""status":["failed"]"#, ""),
            // The reason of a cancelled event is its error.
            (
                Cancelled,
                r#""reason":"Job deleted","job_name":"j""#,
                r#"cancelled/error:Job deleted metadata/job_name="j""#,
            ),
            (Cancelled, r#""reason":"r","error":"e""#, r#"cancelled/error:e metadata/reason="r""#),
            (Cancelled, r#""reason":null,"manual_update":true"#, "metadata/manual_update=true"),
            (Failed, r#""reason":"r""#, r#"metadata/reason="r""#),
            // Optional fields of a wrong type or beyond their limit are kept under metadata.
            (
                Completed,
                r#""output":5,"exit_code":"-1","runtime_ms":"x","memory_used_mb":2147483648"#,
                r#"completed/exit_code=-1 metadata/memory_used_mb=2147483648 metadata/output=5 metadata/runtime_ms="x""#,
            ),
            (Completed, r#""exit_code":1.5,"runtime_ms":true"#, "metadata/exit_code=1.5 metadata/runtime_ms=true"),
            (Queued, r#""code":["x"],"metadata":[1]"#, r#"metadata/code=["x"] metadata/metadata=[1]"#),
            // Times that are not the event's are kept, and what is no time is none.
            (Running, r#""started_at":"1970-01-01T00:00:01Z""#, "@1000000"),
            (
                Running,
                r#""timestamp":"1970-01-01T00:00:02","started_at":"1970-01-01T00:00:01Z""#,
                r#"metadata/started_at="1970-01-01T00:00:01Z" @2000000"#,
            ),
            (
                Queued,
                r#""metadata":{"submitted_at":"1970-01-01T00:00:03Z"}"#,
                r#"metadata/submitted_at="1970-01-01T00:00:03Z" @3000000"#,
            ),
            (
                Submitted,
                r#""metadata":{"timestamp":"1970-01-01T00:00:03Z"}"#,
                r#"metadata/timestamp="1970-01-01T00:00:03Z""#,
            ),
            (
                Failed,
                r#""failed_at":"submission","metadata":{"failed_at":"1970-01-01T00:00:04Z"}"#,
                r#"metadata/failed_at="1970-01-01T00:00:04Z" @4000000"#,
            ),
            (
                Failed,
                r#""failed_at":"submission","timestamp":"1970-01-01""#,
                r#"metadata/failed_at="submission" metadata/timestamp="1970-01-01""#,
            ),
            (Failed, r#""timestamp":1700000000"#, "metadata/timestamp=1700000000"),
            // Of duplicate keys the last counts; NUL and any Unicode are text.
            (Completed, r#""output":"a","output":"b\u0000\ud83d\ude00","\u006futput":"c""#, "completed/output:c"),
            (Completed, r#""output":"\u0000é""#, "completed/output:\0é"),
        ] {
            assert_eq!(said(status, fields), expected, "{status} {fields}");
        }
    }

    #[test]
    fn limits_are_counted_in_characters() {
        let text = |length: usize| format!(r#""language":"{}""#, "é".repeat(length));

        assert!(said(Status::Queued, &text(50)).starts_with("language="));
        assert!(said(Status::Queued, &text(51)).starts_with("metadata/language="));
    }

    #[test]
    fn what_is_no_event_is_rejected_with_its_class() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let long_id = format!(r#"{{"eval_id":"{}"}}"#, "a".repeat(65));
        let deep = |field: &str, depth| format!(r#"{{"eval_id":"a","{field}":{}}}"#, nested(depth));
        let deep_duplicate = format!(r#"{{"eval_id":"a","x":{},"x":1,"event_id":"e"}}"#, nested(128));
        let large = format!(r#"{{"eval_id":"a","metadata":{{"x":"{}"}}}}"#, "x".repeat(1 << 20));
        for (payload, class) in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            (r#"{"eval_id":"a"} x"#, "invalid_json"),
            (r#"{"eval_id":"a",}"#, "invalid_json"),
            (r#"{"eval_id":"a","x":01}"#, "invalid_json"),
            (r#"{"eval_id":"a","x":NaN}"#, "invalid_json"),
            ("{\"eval_id\":\"a\",\"x\":\"\n\"}", "invalid_json"),
            (r#"{"eval_id":"a","x":"\ud800"}"#, "invalid_json"),
            (r#"{"eval_id":"a","x":"\ud800","x":1}"#, "invalid_json"),
            (r#"{"eval_id":"a","status":"\ud800"}"#, "invalid_json"),
            (r#"{"eval_id":"a","timestamp":"\ud800","event_id":"e"}"#, "invalid_json"),
            (r#"{"eval_id":"a","metadata":{"\udc00":1}}"#, "invalid_json"),
            ("\u{feff}{}", "invalid_json"),
            ("[]", "not_an_object"),
            (" null ", "not_an_object"),
            (r#""{}""#, "not_an_object"),
            (&nested(10_000), "not_an_object"),
            ("{}", "missing_field"),
            (r#"{"eval_id":null}"#, "missing_field"),
            (r#"{"eval_id":""}"#, "missing_field"),
            (r#"{"eval_id":7}"#, "wrong_type"),
            (r#"{"eval_id":"../escape"}"#, "invalid_id"),
            (r#"{"eval_id":"a\u0000"}"#, "invalid_id"),
            (&long_id, "invalid_id"),
            (&deep("x", 128), "too_deep"),
            (&deep("x", 10_000), "too_deep"),
            (&deep("status", 10_000), "too_deep"),
            (&deep("metadata", 10_000), "too_deep"),
            (&deep_duplicate, "too_deep"),
            (&large, "metadata_too_large"),
        ] {
            let class = (class, Reject::CLASSES.contains(&class));
            let reject = decode_as(Status::Completed, &[], payload).map_err(|reject| (reject.class(), true));
            assert_eq!(reject.map(|event| event.state.to_canonical_json()), Err(class), "{payload:.80}");
        }
        assert!(decode_as(Status::Completed, &[], &deep("x", 127)).is_ok());
    }

    #[test]
    fn bytes_that_are_no_text_and_payloads_too_large_are_rejected() {
        let limits = Limits { max_payload_bytes: 4 };
        let decode = |payload: &[u8]| decode("c", &row(Status::Queued, &[]), payload, ARRIVAL, &limits);

        assert_eq!(decode(b"{\"\xff\"}").expect_err("it is too large").class(), "too_large");
        assert_eq!(decode(b"{\"\xff").expect_err("it is not UTF-8"), Reject::InvalidUtf8 { offset: 2 });
    }

    #[test]
    fn an_event_without_a_time_has_that_of_its_entry_or_of_its_arrival() {
        let from_stream = Arrival { received_at: 1, entry_time: Some(2), event_id: None };
        let time = |arrival| {
            let event = decode("c", &row(Status::Queued, &[]), br#"{"eval_id":"a"}"#, arrival, &Limits::default());
            event.expect("it is valid").time
        };

        assert_eq!((time(ARRIVAL), time(from_stream)), (1_000, 2));
    }

    #[test]
    fn a_row_may_name_the_field_of_its_time() {
        let row = EventRow { time: Some("done".to_owned()), ..row(Status::Completed, &[]) };
        let payload = br#"{"eval_id":"a","done":"1970-01-01T00:00:01Z","completed_at":"1970-01-01T00:00:02Z"}"#;
        let event = decode("c", &row, payload, ARRIVAL, &Limits::default()).expect("it is valid");

        assert_eq!(event.time, 1_000_000);
        assert!(event.state.get("metadata/done").is_none());
        assert!(event.state.get("metadata/completed_at").is_some());
    }

    #[test]
    fn an_event_id_that_is_none_is_kept_and_replaced_by_a_hash() {
        let long = "e".repeat(201);
        let event =
            decode_as(Status::Queued, &[], &format!(r#"{{"eval_id":"a","event_id":"{long}"}}"#)).expect("valid");

        assert_eq!(event.event_id.len(), 32);
        assert!(event.state.get("metadata/event_id").is_some());
    }

    #[test]
    fn an_event_leaves_a_line_in_the_history() {
        let line = |status| {
            let event = decode_as(status, &[], r#"{"eval_id":"a","event_id":"e"}"#).expect("it is valid");
            event.state.get("history/e").and_then(|register| register.value.as_json().map(str::to_owned))
        };

        let submitted = r#"{"message":"Evaluation submitted","status":"submitted","type":"submitted"}"#;
        let queued = r#"{"message":"Status changed to queued","status":"queued","type":"status_changed"}"#;
        assert_eq!(
            (line(Status::Submitted).as_deref(), line(Status::Queued).as_deref()),
            (Some(submitted), Some(queued))
        );
    }
}
