//! What makes an event the same event wherever it comes from: its own id and its time.
//!
//! Both are as [`decode`](super::decode::decode) finds them, and both are known of what is no event, too: they travel with
//! a payload through a bridge and a dead letter, so that what is stored in the end does not depend on the way.

use std::sync::Arc;

use serde_json::value::RawValue;
use storage_plugin_api::Status;

use super::decode::Arrival;
use super::id;
use super::payload::{Fields, string};
use super::row::EventRow;
use super::time;

/// Which event a payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The evaluation, as far as the payload names one that could be.
    pub evaluation_id: Option<String>,
    /// The event's own id.
    pub event_id: Arc<str>,
    /// Its time, in microseconds since 1970.
    pub time: i64,
}

/// Says which event a payload of a channel is; `row` is the channel's, if it has one.
#[must_use]
pub fn identify(channel: &str, row: Option<&EventRow>, payload: &[u8], arrival: Arrival<'_>) -> Identity {
    let carried = arrival.event_id.filter(|carried| id::is_event_id(carried));
    let Ok(fields) = Fields::read(payload) else {
        let event_id = carried.map_or_else(|| id::of_bytes(channel, payload), Arc::from);
        return Identity { evaluation_id: None, event_id, time: arrival.time() };
    };
    let text = |field: &str| string(field, fields.get(field)?).ok().flatten();
    let event_id = match (text("event_id").filter(|sent| id::is_event_id(sent)), carried) {
        (Some(sent), _) => sent.into(),
        (None, Some(carried)) => carried.into(),
        (None, None) => match fields.to_canonical_json() {
            Ok(content) => id::of_content(channel, &content),
            Err(_) => id::of_bytes(channel, payload),
        },
    };
    let metadata = fields.get("metadata").and_then(|value| fields.fields_of(value).ok());
    let sent = sent_time(&fields, &metadata.unwrap_or_else(Fields::none), row.map_or("timestamp", time_field));
    Identity {
        evaluation_id: text("eval_id").filter(|sent| id::is_evaluation_id(sent)).map(Into::into),
        event_id,
        time: sent.map_or_else(|| arrival.time(), |(time, _)| time),
    }
}

/// The time that a payload tells, and the top-level field that it stands in, if it stands in one.
pub(super) fn sent_time<'f>(
    fields: &Fields<'_>,
    metadata: &Fields<'_>,
    own: &'f str,
) -> Option<(i64, Option<&'f str>)> {
    for field in ["timestamp", own] {
        if let Some(time) = fields.get(field).and_then(time_of) {
            return Some((time, Some(field)));
        }
    }
    metadata.get(own).and_then(time_of).map(|time| (time, None))
}

/// The field that holds the time of a row's events.
pub(super) fn time_field(row: &EventRow) -> &str {
    row.time.as_deref().unwrap_or(match row.status {
        Status::Submitted | Status::Queued => "submitted_at",
        Status::Provisioning => "provisioning_at",
        Status::Running => "started_at",
        Status::Completed => "completed_at",
        Status::Failed => "failed_at",
        Status::Cancelled => "cancelled_at",
    })
}

/// The time that a value tells; a text that no time can be read from is refused elsewhere, if at all.
fn time_of(value: &RawValue) -> Option<i64> {
    time::parse(&string("", value).ok()??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::decode::{Limits, decode};

    #[test]
    fn the_identity_is_the_one_that_decoding_gives() {
        let plain = Arrival { received_at: 1_000, entry_time: None, event_id: None };
        let carried = Arrival { received_at: 1_000, entry_time: Some(7), event_id: Some("carried") };
        let long = "e".repeat(201);
        for payload in [
            r#"{"eval_id":"a"}"#,
            r#"{"eval_id":"a","event_id":"e","timestamp":"1970-01-01T00:00:01Z"}"#,
            r#"{"eval_id":"a","metadata":{"submitted_at":"1970-01-01T00:00:02Z"}}"#,
            r#"{"eval_id":"a","timestamp":"soon","submitted_at":"1970-01-01T00:00:03Z","event_id":7}"#,
            &format!(r#"{{"eval_id":"a","event_id":"{long}","metadata":[1]}}"#),
        ] {
            for arrival in [plain, carried] {
                let row = EventRow::for_test(Status::Queued, &[]);

                let event = decode("c", &row, payload.as_bytes(), arrival, &Limits::default()).expect("it is valid");

                let expected =
                    Identity { evaluation_id: Some("a".to_owned()), event_id: event.event_id, time: event.time };
                assert_eq!(identify("c", Some(&row), payload.as_bytes(), arrival), expected, "{payload}");
            }
        }
    }

    #[test]
    fn what_is_no_event_has_an_identity_too() {
        let identify =
            |payload: &[u8]| identify("c", None, payload, Arrival { received_at: 5, entry_time: None, event_id: None });

        assert_eq!(identify(b"{").event_id, identify(b"{").event_id);
        assert_ne!(identify(b"{").event_id, identify(b"\xff").event_id);
        assert_eq!((identify(b"{").time, identify(b"{").evaluation_id), (5, None));
        let timed = identify(br#"{"eval_id":"../x","timestamp":"1970-01-01T00:00:01Z"}"#);
        assert_eq!((timed.time, timed.evaluation_id), (1_000_000, None));
    }
}
