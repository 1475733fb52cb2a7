//! A line of what is replayed: what was published, a dead letter, or what an archive keeps.
//!
//! ```text
//! {"channel":"evaluation:queued","payload":{"eval_id":"a","code":"x"}}
//! {"channel":"evaluation:queued","payload":"{\"eval_id\": \"a\"}","event_id":"e-1","time":"2025-01-01T00:00:00Z"}
//! {"channel":"evaluation:queued","payload_base64":"e30="}
//! ```
//! A payload is an object, or its bytes as text or in base64. `event_id` and `time` are those of an event that says none
//! itself. Of a dead letter `edited` takes the place of the payload; further keys are not looked at.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use storage_plugin_api::format_time;

/// An event to replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its channel.
    pub channel: String,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// The id that travels with it.
    pub event_id: Option<String>,
    /// The time that travels with it, in microseconds since 1970.
    pub time: Option<i64>,
}

#[derive(Deserialize)]
struct Read<'a> {
    channel: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    payload_base64: Option<String>,
    edited: Option<String>,
    event_id: Option<String>,
    time: Option<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl Record {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let read: Read<'_> =
            serde_json::from_slice(line).map_err(|error| format!("it is no JSON object of a replay: {error}"))?;
        let Some(channel) = read.channel else { return Err("it names no `channel`".to_owned()) };
        let time = match read.time {
            Some(text) => match text.parse::<Timestamp>() {
                Ok(time) if time.as_microsecond() >= 0 => Some(time.as_microsecond()),
                _ => return Err(format!("its `time` is `{text}`, give one like 2025-01-31T12:00:00Z")),
            },
            None => None,
        };
        let payload = match (read.edited, read.payload, read.payload_base64) {
            (Some(edited), _, _) => edited.into_bytes(),
            (None, Some(payload), _) => match payload.get().starts_with('"') {
                true => serde_json::from_str::<String>(payload.get()).map_err(|error| error.to_string())?.into_bytes(),
                false => payload.get().as_bytes().to_vec(),
            },
            (None, None, Some(text)) => {
                BASE64_STANDARD.decode(text).map_err(|error| format!("its `payload_base64` is none: {error}"))?
            }
            (None, None, None) => return Err("it has neither `payload` nor `payload_base64`".to_owned()),
        };
        Ok(Self { channel, payload, event_id: read.event_id, time })
    }

    /// Writes it as a line, without its end.
    #[must_use]
    pub fn to_line(&self) -> String {
        let text = std::str::from_utf8(&self.payload).ok();
        let written = Written {
            channel: &self.channel,
            payload: text,
            payload_base64: text.is_none().then(|| BASE64_STANDARD.encode(&self.payload)),
            event_id: self.event_id.as_deref(),
            time: self.time.map(format_time),
        };
        serde_json::to_string(&written).expect("a line has only text keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_an_object_a_text_or_bytes() {
        let parse = |line: &str| Record::parse(line.as_bytes());
        let record =
            |payload: &[u8]| Record { channel: "c".to_owned(), payload: payload.to_vec(), event_id: None, time: None };

        assert_eq!(parse(r#"{"channel":"c","payload":{"a": 1.50}}"#), Ok(record(br#"{"a": 1.50}"#)));
        assert_eq!(parse(r#"{"channel":"c","payload":"{\"a\"","reason":"x"}"#), Ok(record(br#"{"a""#)));
        assert_eq!(parse(r#"{"channel":"c","payload_base64":"/w=="}"#), Ok(record(b"\xff")));
        assert_eq!(parse(r#"{"channel":"c","payload":"{","edited":"{}"}"#), Ok(record(b"{}")));
        for line in
            ["", "{", "[]", r#"{"payload":{}}"#, r#"{"channel":"c"}"#, r#"{"channel":"c","payload":{},"time":"soon"}"#]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for payload in [&b"{\"a\"\n}"[..], b"\xff\x00"] {
            let record = Record {
                channel: "c".to_owned(),
                payload: payload.to_vec(),
                event_id: Some("e".to_owned()),
                time: Some(1_700_000_000_123_456),
            };

            assert_eq!(Record::parse(record.to_line().as_bytes()), Ok(record));
        }
    }
}
