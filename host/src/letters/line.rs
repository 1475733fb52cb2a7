//! The form of a line: a letter, or what was done with one. Any other line is skipped and counted.
//!
//! ```text
//! {"channel":"evaluation:queued","id":"5f0c…","event_id":"9a1b…","time":"2025-…","payload":"{…","reason":"invalid_json",
//!  "error":"…","attempts":0,"first_at":"2025-01-01T00:00:00.123456+00:00","last_at":"…","generation":1}
//! {"action":"edit","id":"5f0c…","edited":"{…}"}
//! {"action":"park","id":"5f0c…","attempts":1,"reason":"missing_field","error":"…","last_at":"…"}
//! {"action":"remove","id":"5f0c…"}
//! ```
//! `payload_base64` stands in the place of `payload` where that is no UTF-8. A letter of a stream has `stream` and
//! `entry_id`, one that was edited or parked and written anew `edited` and `state`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storage_plugin_api::format_time;

use super::{Letter, LetterState};

/// Every key that a line may have.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<LetterState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

/// What was done with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// It has another payload for the next try, and is parked no longer.
    Edit { id: String, edited: String },
    /// It was tried again, and failed again.
    Park { id: String, attempts: u32, reason: String, error: String, last_at: i64 },
    /// It is stored, or dropped.
    Remove { id: String },
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Letter(Box<Letter>),
    Action(Action),
}

/// Reads a line; none if it is neither.
pub(crate) fn read(line: &[u8]) -> Option<Said> {
    let mut line: Line = serde_json::from_slice(line).ok()?;
    if line.id.is_empty() {
        return None;
    }
    match line.action.take() {
        None => letter(line).map(Box::new).map(Said::Letter),
        Some(name) => action(&name, line).map(Said::Action),
    }
}

/// Reads a letter as a worker answers it.
pub(crate) fn letter_of(value: serde_json::Value) -> Option<Letter> {
    letter(serde_json::from_value(value).ok()?)
}

/// A letter as one JSON object.
pub(crate) fn letter_text(letter: &Letter) -> String {
    let (payload, payload_base64) = match std::str::from_utf8(&letter.payload) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(&letter.payload))),
    };
    let (stream, entry_id) = letter.entry.clone().unzip();
    text(&Line {
        action: None,
        channel: Some(letter.channel.clone()),
        id: letter.id.clone(),
        stream,
        entry_id,
        event_id: letter.event_id.clone(),
        eval_id: letter.evaluation_id.clone(),
        time: Some(format_time(letter.time)),
        state: Some(letter.state).filter(|state| *state != LetterState::Dead),
        payload,
        payload_base64,
        edited: letter.edited.clone(),
        reason: Some(letter.reason.clone()),
        error: Some(letter.error.clone()),
        attempts: Some(letter.attempts),
        first_at: Some(format_time(letter.first_at)),
        last_at: Some(format_time(letter.last_at)),
        generation: Some(letter.generation),
    })
}

/// An action as one JSON object.
pub(crate) fn action_text(action: &Action) -> String {
    let line = match action.clone() {
        Action::Edit { id, edited } => {
            Line { action: Some("edit".to_owned()), id, edited: Some(edited), ..Line::default() }
        }
        Action::Park { id, attempts, reason, error, last_at } => Line {
            action: Some("park".to_owned()),
            id,
            attempts: Some(attempts),
            reason: Some(reason),
            error: Some(error),
            last_at: Some(format_time(last_at)),
            ..Line::default()
        },
        Action::Remove { id } => Line { action: Some("remove".to_owned()), id, ..Line::default() },
    };
    text(&line)
}

fn text(line: &Line) -> String {
    serde_json::to_string(line).expect("a line has only text keys")
}

fn letter(line: Line) -> Option<Letter> {
    let payload = match (line.payload, line.payload_base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(text)) => BASE64_STANDARD.decode(text).ok()?,
        (None, None) => return None,
    };
    let first_at = time(line.first_at.as_deref())?;
    Some(Letter {
        id: line.id,
        channel: line.channel?,
        entry: line.stream.zip(line.entry_id),
        payload,
        edited: line.edited,
        event_id: line.event_id,
        evaluation_id: line.eval_id,
        time: time(line.time.as_deref()).unwrap_or(first_at),
        reason: line.reason.unwrap_or_default(),
        error: line.error.unwrap_or_default(),
        attempts: line.attempts.unwrap_or_default(),
        first_at,
        last_at: time(line.last_at.as_deref()).unwrap_or(first_at),
        generation: line.generation.unwrap_or_default(),
        state: line.state.unwrap_or_default(),
    })
}

fn action(name: &str, line: Line) -> Option<Action> {
    let id = line.id;
    Some(match name {
        "edit" => Action::Edit { id, edited: line.edited? },
        "park" => Action::Park {
            id,
            attempts: line.attempts?,
            reason: line.reason?,
            error: line.error?,
            last_at: time(line.last_at.as_deref())?,
        },
        "remove" => Action::Remove { id },
        _ => return None,
    })
}

fn time(text: Option<&str>) -> Option<i64> {
    Some(text?.parse::<Timestamp>().ok()?.as_microsecond())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::letters::id_of;

    pub(crate) fn letter(payload: &[u8]) -> Letter {
        Letter {
            id: id_of("evaluation:queued", payload, None),
            channel: "evaluation:queued".to_owned(),
            entry: None,
            payload: payload.to_vec(),
            edited: None,
            event_id: Some("e".to_owned()),
            evaluation_id: None,
            time: 7,
            reason: "invalid_json".to_owned(),
            error: "expected `:`\nat 1".to_owned(),
            attempts: 2,
            first_at: 0,
            last_at: 1_000_001,
            generation: 3,
            state: LetterState::Dead,
        }
    }

    #[test]
    fn a_line_has_the_keys_of_the_format() {
        let letter = letter(b"{\"a\"\n1}");

        let text = letter_text(&letter);

        assert!(!text.contains('\n'), "{text}");
        let expected = serde_json::json!({
            "channel": "evaluation:queued",
            "id": letter.id,
            "event_id": "e",
            "time": "1970-01-01T00:00:00.000007+00:00",
            "payload": "{\"a\"\n1}",
            "reason": "invalid_json",
            "error": "expected `:`\nat 1",
            "attempts": 2,
            "first_at": "1970-01-01T00:00:00.000000+00:00",
            "last_at": "1970-01-01T00:00:01.000001+00:00",
            "generation": 3,
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), expected);
        assert_eq!(letter.id.len(), 24);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let parked = Letter {
            entry: Some(("stream".to_owned(), "1-2".to_owned())),
            edited: Some("{}".to_owned()),
            evaluation_id: Some("a".to_owned()),
            state: LetterState::Parked,
            ..letter(b"\xff\x00bytes")
        };
        for letter in [letter(b"text"), letter(b""), parked] {
            assert_eq!(read(letter_text(&letter).as_bytes()), Some(Said::Letter(Box::new(letter))));
        }
        let id = || "x".to_owned();
        for action in [
            Action::Edit { id: id(), edited: "{\n}".to_owned() },
            Action::Park { id: id(), attempts: 3, reason: "r".to_owned(), error: "e".to_owned(), last_at: 5 },
            Action::Remove { id: id() },
        ] {
            assert_eq!(read(action_text(&action).as_bytes()), Some(Said::Action(action)));
        }
    }

    #[test]
    fn what_is_neither_is_none() {
        for line in [
            "",
            "{",
            "{}",
            "[]",
            r#"{"id":"a"}"#,
            r#"{"id":"a","channel":"c","payload":"p"}"#,
            r#"{"id":"a","action":"x"}"#,
        ] {
            assert_eq!(read(line.as_bytes()), None, "{line}");
        }
    }
}
