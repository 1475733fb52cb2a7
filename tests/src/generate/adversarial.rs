//! Sets of events that nobody should send, and every one of which is valid: few event ids, few times, few values,
//! statuses that contradict, fields of the wrong type, numbers as text. Where the order of arrival could show, it will.

use serde_json::{Map, Value, json};

use super::NOON;
use crate::second_model::{Sent, time_text};

const CHANNELS: [&str; 6] = [
    "evaluation:submitted",
    "evaluation:queued",
    "evaluation:running",
    "evaluation:completed",
    "evaluation:failed",
    "evaluation:cancelled",
];

/// Of most fields three values and one of a wrong type, and an empty one.
fn choices(name: &str) -> Vec<Value> {
    let values = match name {
        "code" => json!(["a", "b\n", "c\r\nd", "", 5]),
        "output" | "error" => json!(["x", "y\u{0}\u{1f}", "größe 🦀\n", "", null, ["no text"]]),
        "language" | "engine" => json!(["python", "rust", "", null, 7, "l".repeat(51)]),
        "executor_id" | "container_id" => json!(["one", "two", null, {"no": "text"}, "l".repeat(101)]),
        "exit_code" | "runtime_ms" | "memory_used_mb" => {
            json!([0, 1, -1, "2", "no number", 1.5, 2_147_483_647_i64, 2_147_483_648_i64, null, ""])
        }
        "status" => json!(["failed", "timeout", "completed", "cancelled", "bogus", null, 3]),
        "reason" => json!(["because", "timeout", null, "", ["several"]]),
        "completed_at" | "failed_at" => json!(["submission", time_text(NOON), time_text(NOON + 1), null]),
        _ => json!(["v1", "v2", [], {}, {"b": 1, "a": [null, "\u{7f}"]}, null, true]),
    };
    values.as_array().cloned().unwrap_or_default()
}

const FIELDS: [&str; 15] = [
    "code",
    "output",
    "error",
    "language",
    "engine",
    "executor_id",
    "container_id",
    "exit_code",
    "runtime_ms",
    "memory_used_mb",
    "status",
    "completed_at",
    "failed_at",
    "reason",
    "unknown",
];

/// Up to a dozen events of one evaluation.
pub(super) fn set(id: &str, random: &mut fastrand::Rng) -> Vec<Sent> {
    (0..random.usize(2..=12)).map(|_| event(id, random)).collect()
}

fn event(id: &str, random: &mut fastrand::Rng) -> Sent {
    let channel = CHANNELS[random.usize(..CHANNELS.len())];
    let mut payload = Map::new();
    payload.insert("eval_id".to_owned(), id.into());
    for field in FIELDS {
        if random.u8(..3) == 0 {
            payload.insert(field.to_owned(), pick(&choices(field), random));
        }
    }
    if payload.get("code").is_none_or(|code| code.as_str().is_none_or(str::is_empty)) && needs_code(channel) {
        payload.insert("code".to_owned(), "needed".into());
    }
    // Without an id of its own an event is known by its content, so equal ones are one event.
    if random.u8(..4) > 0 {
        payload.insert("event_id".to_owned(), pick(&[json!("e1"), json!("e2"), json!("ä\u{2028}")], random));
    }
    payload.insert("timestamp".to_owned(), time(random).into());
    if random.bool() {
        payload.insert("metadata".to_owned(), metadata(random));
    }
    in_any_order(channel, payload, random)
}

fn needs_code(channel: &str) -> bool {
    matches!(channel, "evaluation:submitted" | "evaluation:queued")
}

/// One of three times, each written in one of four ways.
fn time(random: &mut fastrand::Rng) -> String {
    let time = NOON + random.i64(0..3);
    let utc = time_text(time);
    let clock = utc.trim_end_matches("+00:00");
    match random.u8(..4) {
        0 => utc,
        1 => clock.to_owned(),
        2 => format!("{clock}999Z"),
        _ => time_text(time + 5_400_000_000).replace("+00:00", "+01:30"),
    }
}

/// Keys that may meet those of unknown fields; never one that is null, empty and an unknown field at once.
fn metadata(random: &mut fastrand::Rng) -> Value {
    let mut metadata = Map::new();
    for key in ["one", "two/three", "größe", ""] {
        if random.bool() {
            metadata.insert(key.to_owned(), pick(&choices("metadata"), random));
        }
    }
    if random.u8(..4) == 0 {
        metadata.insert("unknown".to_owned(), pick(&[json!("explicit"), json!(1)], random));
    }
    if random.u8(..16) == 0 { "no object".into() } else { Value::Object(metadata) }
}

/// A payload is an object, whose keys may come in any order.
fn in_any_order(channel: &str, payload: Map<String, Value>, random: &mut fastrand::Rng) -> Sent {
    let mut entries: Vec<String> =
        payload.into_iter().map(|(key, value)| format!("{}: {value}", Value::String(key))).collect();
    random.shuffle(&mut entries);
    Sent { channel: channel.to_owned(), payload: format!("{{{}}}", entries.join(", ")).into_bytes() }
}

fn pick(choices: &[Value], random: &mut fastrand::Rng) -> Value {
    choices[random.usize(..choices.len())].clone()
}
