//! Reads one message: what it tells, or why it is to be rejected. `second_model.rs` puts the events together.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What one event tells of its evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The evaluation it is about.
    pub evaluation_id: String,
    /// Its own id, as sent or worked out.
    pub event_id: String,
    /// Its time in microseconds.
    pub time: i64,
    /// The status that it tells: that of its channel, or `failed` where the payload says so.
    pub status: String,
    /// Code, language, engine, executor and container.
    pub fields: BTreeMap<String, Value>,
    /// Output, error, exit code, runtime and memory; empty unless the event ends the evaluation.
    pub outcome: BTreeMap<String, Value>,
    /// The metadata, with everything that has no place of its own.
    pub metadata: BTreeMap<String, Value>,
}

/// Why a message is to be rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Nobody listens to this channel.
    UnknownChannel,
    /// It is no JSON, or nested too deeply.
    NoJson,
    /// It is JSON, but not an object.
    NoObject,
    /// Its evaluation id is missing or outside of the grammar.
    BadId,
    /// Something that the channel requires is missing, empty, or of a wrong type.
    Required,
    /// Its metadata is larger than a mebibyte.
    LargeMetadata,
}

/// A channel with what it requires beside the id, and the field that tells the time.
fn row(channel: &str) -> Option<(&'static str, bool, &'static str)> {
    Some(match channel {
        "evaluation:submitted" => ("submitted", true, "submitted_at"),
        "evaluation:queued" => ("queued", true, "submitted_at"),
        "evaluation:running" => ("running", false, "started_at"),
        "evaluation:completed" => ("completed", false, "completed_at"),
        "evaluation:failed" => ("failed", false, "failed_at"),
        "evaluation:cancelled" => ("cancelled", false, "cancelled_at"),
        _ => return None,
    })
}

/// What a message tells.
///
/// # Errors
/// When it is to be rejected.
pub fn read(channel: &str, payload: &[u8], arrival: i64) -> Result<Told, Rejected> {
    let (row_status, code_required, time_field) = row(channel).ok_or(Rejected::UnknownChannel)?;
    let value: Value = serde_json::from_slice(payload).map_err(|_| Rejected::NoJson)?;
    let Value::Object(mut payload) = value else { return Err(Rejected::NoObject) };
    let worked_out_id = event_id_of(channel, &payload);

    let evaluation_id = evaluation_id(payload.remove("eval_id").as_ref()).ok_or(Rejected::BadId)?;
    if code_required && !matches!(payload.get("code"), Some(Value::String(code)) if !code.is_empty()) {
        return Err(Rejected::Required);
    }

    let explicit = match payload.remove("metadata") {
        Some(Value::Object(explicit)) => explicit,
        // Of a wrong type: a field like any other that cannot be used, so it is kept under its own name.
        Some(other) => Map::from_iter([("metadata".to_owned(), other)]),
        None => Map::new(),
    };
    let time = take_time(&mut payload, &explicit, time_field);

    let event_id = match payload.get("event_id") {
        Some(Value::String(id)) if !id.is_empty() && id.chars().count() <= 200 && !id.chars().any(char::is_control) => {
            let id = id.clone();
            payload.remove("event_id");
            id
        }
        _ => worked_out_id,
    };
    let told_status = payload.remove("status");
    let terminal = matches!(row_status, "completed" | "failed" | "cancelled");
    let told_status = told_status.as_ref().and_then(Value::as_str).filter(|_| terminal).unwrap_or_default();
    let status = if matches!(told_status, "failed" | "timeout") { "failed" } else { row_status };

    let mut told = Told {
        evaluation_id,
        event_id,
        time: time.unwrap_or(arrival),
        status: status.to_owned(),
        fields: BTreeMap::new(),
        outcome: BTreeMap::new(),
        metadata: BTreeMap::new(),
    };
    take_fields(&mut told, &mut payload);
    if terminal {
        take_outcome(&mut told, &mut payload, row_status);
    }
    if told_status == "timeout" {
        payload.insert("reason".to_owned(), "timeout".into());
    }
    told.metadata.extend(payload);
    told.metadata.extend(explicit);
    told.metadata.retain(|_, value| !is_empty(value));
    let size: usize = told.metadata.iter().map(|(key, value)| key.len() + canonical(value).len()).sum();
    if size > 1 << 20 {
        return Err(Rejected::LargeMetadata);
    }
    Ok(told)
}

/// Takes what may be said at any stage of life; what cannot be used stays behind.
fn take_fields(told: &mut Told, payload: &mut Map<String, Value>) {
    for (name, limit) in
        [("code", usize::MAX), ("language", 50), ("engine", 50), ("executor_id", 100), ("container_id", 100)]
    {
        if let Some(text) = take_text(payload, name, limit) {
            told.fields.insert(name.to_owned(), text);
        }
    }
}

/// Takes how the evaluation ended; what cannot be used stays behind.
fn take_outcome(told: &mut Told, payload: &mut Map<String, Value>, row_status: &str) {
    for name in ["output", "error"] {
        if let Some(text) = take_text(payload, name, usize::MAX) {
            told.outcome.insert(name.to_owned(), text);
        }
    }
    if row_status == "cancelled"
        && !told.outcome.contains_key("error")
        && let Some(reason) = take_text(payload, "reason", usize::MAX)
    {
        told.outcome.insert("error".to_owned(), reason);
    }
    for name in ["exit_code", "runtime_ms", "memory_used_mb"] {
        let number: Option<i32> = match payload.get(name) {
            Some(Value::Number(number)) => number.to_string().parse().ok(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        if let Some(number) = number {
            payload.remove(name);
            told.outcome.insert(name.to_owned(), number.into());
        }
    }
}

fn take_text(payload: &mut Map<String, Value>, name: &str, limit: usize) -> Option<Value> {
    let usable = payload.get(name)?.as_str().is_some_and(|text| !text.is_empty() && text.chars().count() <= limit);
    if usable { payload.remove(name) } else { None }
}

/// The time that an event carries. At top level the field that told it is used up by that.
fn take_time(payload: &mut Map<String, Value>, explicit: &Map<String, Value>, field: &str) -> Option<i64> {
    for name in ["timestamp", field] {
        if let Some(time) = payload.get(name).and_then(read_time) {
            payload.remove(name);
            return Some(time);
        }
    }
    explicit.get(field).and_then(read_time)
}

/// The id of an evaluation, if this is one.
#[must_use]
pub fn evaluation_id(value: Option<&Value>) -> Option<String> {
    let id = value?.as_str()?;
    let (first, rest) = id.as_bytes().split_first()?;
    let fits = first.is_ascii_alphanumeric()
        && rest.len() <= 63
        && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._:@~+-".contains(byte));
    fits.then(|| id.to_owned())
}

fn event_id_of(channel: &str, payload: &Map<String, Value>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(channel);
    hasher.update([0]);
    hasher.update(canonical(&Value::Object(payload.clone())));
    hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => false,
    }
}

/// Keys sorted, no white space, digits as they came.
#[must_use]
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let entries = sorted.into_iter().map(|(key, value)| {
                let key = Value::String(key.clone());
                format!("{key}:{}", canonical(value))
            });
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

fn read_time(value: &Value) -> Option<i64> {
    parse_time(value.as_str()?)
}

/// The microseconds of an RFC 3339 text with or without a zone; none for anything else.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    let (date, clock) = text.split_at_checked(10)?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let clock = clock.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = clock.split_at_checked(8)?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let (fraction, zone) = read_fraction(rest)?;
    let days =
        (1970..year).map(days_of_year).sum::<i64>() + (1..month).map(|month| days_of_month(year, month)).sum::<i64>();
    let seconds = ((days + day - 1) * 24 + hour) * 3600 + minute * 60 + second - read_zone(zone)?;
    let microseconds = seconds * 1_000_000 + fraction;
    (0..=253_402_300_799_999_999).contains(&microseconds).then_some(microseconds)
}

fn numbers(text: &str, separator: char, widths: [usize; 3]) -> Option<[i64; 3]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let mut found = [0; 3];
    if parts.len() != 3 {
        return None;
    }
    for ((part, width), number) in parts.iter().zip(widths).zip(&mut found) {
        if part.len() != width || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    Some(found)
}

/// Microseconds of a fraction, of which further digits are cut off, and what follows it.
fn read_fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(digits) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, zone) = digits.split_at(length);
    let six: String = digits.chars().chain("000000".chars()).take(6).collect();
    if digits.is_empty() { None } else { Some((six.parse().ok()?, zone)) }
}

/// Seconds east of UTC.
fn read_zone(zone: &str) -> Option<i64> {
    if matches!(zone, "" | "Z" | "z") {
        return Some(0);
    }
    let (sign, offset) = match zone.split_at_checked(1)? {
        ("+", offset) => (1, offset),
        ("-", offset) => (-1, offset),
        _ => return None,
    };
    let [hours, minutes, _] = numbers(&format!("{offset}:00"), ':', [2, 2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

pub(super) fn days_of_year(year: i64) -> i64 {
    if days_of_month(year, 2) == 29 { 366 } else { 365 }
}

pub(super) fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_time("1970-01-01T01:00:00.0000019+01:00"), Some(1));
        assert_eq!(parse_time("2000-02-29T00:00:00"), Some(951_782_400_000_000));
        for no_time in ["submission", "2025-01-01", "2025-02-30T00:00:00Z", "1969-12-31T23:59:59Z", "", "2025-01-01T"] {
            assert_eq!(parse_time(no_time), None, "{no_time}");
        }
    }

    #[test]
    fn ids_follow_the_grammar() {
        let id = |text: &str| evaluation_id(Some(&Value::from(text)));

        assert!(id("20250101_000000_0123abcd").is_some());
        assert!(id(&"a".repeat(64)).is_some());
        for bad in ["", "../escape", "-a", &"a".repeat(65), "a b", "a\n", "ä"] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}
