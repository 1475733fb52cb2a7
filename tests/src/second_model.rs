//! The second model: what the records of some events must be, worked out a second time and in another way.
//!
//! Written from the design text alone; shares no code with `storage-plugin-api` or the host. Where they join states
//! register by register as events come, this one holds all events of an evaluation in its hands, and asks for each key
//! of the record which event decides it. Slow and plain, so that a reader can check it against the text.
//! `reading.rs` reads one event; `generate.rs` makes sets of events to compare on.

mod reading;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub use reading::{Rejected, Told, canonical, evaluation_id, parse_time, read};

/// One message as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The channel.
    pub channel: String,
    /// The payload, JSON or not.
    pub payload: Vec<u8>,
}

impl Sent {
    /// A message whose payload is a JSON value.
    #[must_use]
    pub fn new(channel: &str, payload: &Value) -> Self {
        Self { channel: channel.to_owned(), payload: payload.to_string().into_bytes() }
    }
}

/// What must be stored of one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The answer of `GET /evaluations/{id}`.
    pub record: Value,
    /// The history, oldest first.
    pub history: Vec<Value>,
}

const OPEN: [&str; 4] = ["submitted", "queued", "provisioning", "running"];
const TERMINAL: [&str; 3] = ["completed", "failed", "cancelled"];
const MAX_HISTORY: usize = 10_000;

/// What must be stored after these messages, by evaluation; messages that are to be rejected are left out.
///
/// `arrival` is the time, in microseconds, of messages that carry none.
#[must_use]
pub fn expected(messages: &[Sent], arrival: i64) -> BTreeMap<String, Expected> {
    let mut by_id: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for message in messages {
        if let Ok(told) = read(&message.channel, &message.payload, arrival) {
            by_id.entry(told.evaluation_id.clone()).or_default().push(told);
        }
    }
    by_id.into_iter().map(|(id, told)| (id.clone(), expect_one(&id, told))).collect()
}

/// What must be stored of one evaluation after these events, given in any order and any number of times.
#[must_use]
pub fn expect_one(id: &str, mut events: Vec<Told>) -> Expected {
    events.sort_by(|a, b| (a.time, &a.event_id).cmp(&(b.time, &b.event_id)));
    let end = winning_end(&events);
    let status = end.map_or_else(|| last_open(&events), |(status, _)| Some(status));
    let completed_at = end.map(|(_, time)| time);
    let started_at = reached(&events, "running");
    let code = text(&first(&events, |event| event.fields.get("code"), Hashed::Text));
    let outcome = |name: &str, hashed| match end {
        Some((status, _)) => first(&events, |event| event.outcome.get(name).filter(|_| event.status == status), hashed),
        None => Value::Null,
    };
    let output = text(&outcome("output", Hashed::Text));
    let error = text(&outcome("error", Hashed::Text));
    let field = |name: &str| first(&events, |event| event.fields.get(name), Hashed::Json);
    let runtime_ms = match outcome("runtime_ms", Hashed::Json) {
        Value::Null => derived_runtime(started_at, completed_at),
        sent => sent,
    };
    let record = json!({
        "id": id,
        "status": status,
        "code": code,
        "code_hash": code.as_ref().map(|code| hex(&Sha256::digest(code))),
        "code_lines": code.as_deref().map(lines),
        "code_size": code.as_deref().map(characters),
        "language": field("language"),
        "engine": field("engine"),
        "executor_id": field("executor_id"),
        "container_id": field("container_id"),
        "created_at": events.iter().map(|event| event.time).min().map(time_text),
        "submitted_at": reached(&events, "submitted").map(time_text),
        "queued_at": reached(&events, "queued").map(time_text),
        "provisioning_at": reached(&events, "provisioning").map(time_text),
        "started_at": started_at.map(time_text),
        "completed_at": completed_at.map(time_text),
        "output": output,
        "output_size": output.as_deref().map(characters),
        "output_truncated": false,
        "error": error,
        "error_size": error.as_deref().map(characters),
        "error_truncated": false,
        "exit_code": outcome("exit_code", Hashed::Json),
        "runtime_ms": runtime_ms,
        "memory_used_mb": outcome("memory_used_mb", Hashed::Json),
        "success": end.map(|(status, _)| status == "completed"),
        "metadata": metadata(&events),
    });
    Expected { record, history: history(&events) }
}

/// The earliest end counts, whatever came after it: first by time, then by event id, then by the status' own hash.
fn winning_end(events: &[Told]) -> Option<(&'static str, i64)> {
    let ends = events.iter().filter_map(|event| {
        let status = TERMINAL.into_iter().find(|status| *status == event.status)?;
        Some((event.time, &event.event_id, hash(&json!(status), Hashed::Json), status))
    });
    ends.min().map(|(time, _, _, status)| (status, time))
}

/// The status of an evaluation that has not ended: the latest, and of one time the one further on in life.
fn last_open(events: &[Told]) -> Option<&'static str> {
    let stages = events.iter().filter_map(|event| {
        let stage = OPEN.into_iter().position(|status| status == event.status)?;
        Some((event.time, stage))
    });
    stages.max().map(|(_, stage)| OPEN[stage])
}

fn reached(events: &[Told], status: &str) -> Option<i64> {
    events.iter().filter(|event| event.status == status).map(|event| event.time).min()
}

#[derive(Clone, Copy)]
enum Hashed {
    /// A body: its text is hashed.
    Text,
    /// Anything else: its canonical JSON is hashed.
    Json,
}

fn hash(value: &Value, hashed: Hashed) -> [u8; 32] {
    match (hashed, value) {
        (Hashed::Text, Value::String(text)) => Sha256::digest(text).into(),
        _ => Sha256::digest(canonical(value)).into(),
    }
}

/// The value of the first event, by rank, that has one; null where none has.
fn first<'a>(events: &'a [Told], value: impl Fn(&'a Told) -> Option<&'a Value>, hashed: Hashed) -> Value {
    let ranked = events.iter().filter_map(|event| {
        let value = value(event)?;
        Some(((event.time, &event.event_id, hash(value, hashed)), value))
    });
    ranked.min_by(|a, b| a.0.cmp(&b.0)).map_or(Value::Null, |(_, value)| value.clone())
}

/// Of each key the last value by rank.
fn metadata(events: &[Told]) -> Value {
    let mut keys: Vec<&String> = events.iter().flat_map(|event| event.metadata.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut all = Map::new();
    for key in keys {
        let ranked = events.iter().filter_map(|event| {
            let value = event.metadata.get(key)?;
            Some(((event.time, &event.event_id, hash(value, Hashed::Json)), value))
        });
        if let Some((_, value)) = ranked.max_by(|a, b| a.0.cmp(&b.0)) {
            all.insert(key.clone(), value.clone());
        }
    }
    Value::Object(all)
}

/// One line for each event id, that of its first rank; the ten thousand first of them, oldest first.
fn history(events: &[Told]) -> Vec<Value> {
    let mut by_event_id: BTreeMap<&str, (i64, [u8; 32], &str)> = BTreeMap::new();
    for event in events {
        let (kind, message) = describe(&event.status);
        let stored = json!({ "message": message, "status": event.status, "type": kind });
        let line = (event.time, hash(&stored, Hashed::Json), event.status.as_str());
        let held = by_event_id.entry(&event.event_id).or_insert(line);
        *held = line.min(*held);
    }
    let mut lines: Vec<_> = by_event_id.into_iter().map(|(id, (time, _, status))| (time, id, status)).collect();
    lines.sort_unstable();
    lines.truncate(MAX_HISTORY);
    let entry = |(time, event_id, status): (i64, &str, &str)| {
        let (kind, message) = describe(status);
        json!({ "type": kind, "timestamp": time_text(time), "message": message, "status": status, "event_id": event_id })
    };
    lines.into_iter().map(entry).collect()
}

fn describe(status: &str) -> (&'static str, String) {
    match status {
        "submitted" => ("submitted", "Evaluation submitted".to_owned()),
        other => ("status_changed", format!("Status changed to {other}")),
    }
}

fn derived_runtime(started_at: Option<i64>, completed_at: Option<i64>) -> Value {
    let (Some(started_at), Some(completed_at)) = (started_at, completed_at) else { return Value::Null };
    if completed_at < started_at {
        return Value::Null;
    }
    let runtime = (completed_at - started_at) / 1000;
    if runtime <= i64::from(i32::MAX) { json!(runtime) } else { Value::Null }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn characters(text: &str) -> usize {
    text.chars().count()
}

fn lines(text: &str) -> usize {
    let ended = text.bytes().filter(|byte| *byte == b'\n').count();
    if text.is_empty() || text.ends_with('\n') { ended } else { ended + 1 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time as `2025-01-01T00:00:00.123456+00:00`, by counting the years and months from 1970 on.
#[must_use]
pub fn time_text(microseconds: i64) -> String {
    let (seconds, fraction) = (microseconds.div_euclid(1_000_000), microseconds.rem_euclid(1_000_000));
    let (mut days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (mut year, mut month) = (1970, 1);
    while days >= reading::days_of_year(year) {
        days -= reading::days_of_year(year);
        year += 1;
    }
    while days >= reading::days_of_month(year, month) {
        days -= reading::days_of_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}+00:00", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(messages: &[(&str, Value)]) -> Expected {
        let sent: Vec<Sent> = messages.iter().map(|(channel, payload)| Sent::new(channel, payload)).collect();
        expected(&sent, 0).remove("e").expect("the messages are about `e`")
    }

    #[test]
    fn the_earliest_end_wins_and_a_repetition_fills_in_what_it_lacked() {
        let found = record(&[
            ("evaluation:failed", json!({"eval_id": "e", "timestamp": "2025-01-01T00:00:09Z", "error": "late"})),
            ("evaluation:completed", json!({"eval_id": "e", "timestamp": "2025-01-01T00:00:05Z"})),
            ("evaluation:running", json!({"eval_id": "e", "started_at": "2025-01-01T00:00:03.5"})),
            ("evaluation:completed", json!({"eval_id": "e", "timestamp": "2025-01-01T00:00:07Z", "output": "42\n"})),
        ]);

        assert_eq!(found.record["status"], "completed");
        assert_eq!(found.record["output"], "42\n");
        assert_eq!(found.record["error"], Value::Null);
        assert_eq!(found.record["runtime_ms"], 1500);
        assert_eq!(found.record["completed_at"], "2025-01-01T00:00:05.000000+00:00");
        assert_eq!(found.history.len(), 4);
    }

    #[test]
    fn of_one_time_the_later_stage_is_the_status() {
        let at = "2025-01-01T00:00:00Z";
        let found = record(&[
            ("evaluation:running", json!({"eval_id": "e", "timestamp": at, "event_id": "a"})),
            ("evaluation:queued", json!({"eval_id": "e", "timestamp": at, "event_id": "b", "code": "x"})),
        ]);

        assert_eq!(found.record["status"], "running");
        assert_eq!(found.record["success"], Value::Null);
    }

    #[test]
    fn what_has_no_place_of_its_own_goes_under_metadata() {
        let found = record(&[
            (
                "evaluation:failed",
                json!({"eval_id": "e", "failed_at": "submission", "status": "timeout", "empty": [], "none": null,
                       "exit_code": "-1", "language": 5, "metadata": {"job_name": "j", "gone": ""}}),
            ),
            ("evaluation:cancelled", json!({"eval_id": "e", "timestamp": "2025-01-01T00:00:00Z", "reason": "stop"})),
        ]);

        assert_eq!(
            found.record["metadata"],
            json!({"failed_at": "submission", "reason": "timeout", "empty": [], "language": 5, "job_name": "j"})
        );
        assert_eq!(found.record["exit_code"], -1);
        assert_eq!(found.record["status"], "failed");
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(time_text(951_782_400_000_001), "2000-02-29T00:00:00.000001+00:00");
        assert_eq!(time_text(253_402_300_799_999_999), "9999-12-31T23:59:59.999999+00:00");
    }
}
