//! Reads evaluations of a store that knew no states: what a record says becomes one event, `adopted`.
//!
//! Every register carries the time that the record gives for it, so that the record made of the state shows what the
//! store showed. It is a pure function of record and history. What fits no register goes under metadata.
//! Feature `adopt`; for backends that take over what such a store left.

use std::sync::Arc;

use super::body::{Body, Reference, sha256};
use super::register::{EventStamp, Register, Rule, Value};
use super::state::State;
use super::status::Status;
use super::{json, names};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value as Json};

/// The id of the event.
const ADOPTED: &str = "adopted";

/// Keys whose content follows from the rest of the state.
const DERIVED: [&str; 9] =
    ["id", "code_hash", "code_lines", "code_size", "timestamp", "created_at", "output_size", "error_size", "success"];

/// The state of a record that has none, and of its history.
///
/// `record` has the keys that the store of the Python service writes, `events` its history, oldest first.
#[must_use]
pub fn adopt(record: &Map<String, Json>, events: &[Json]) -> State {
    Adoption::new(record, events).run()
}

/// The microseconds of a time as Python writes it; without a zone it is UTC.
fn parse_time(value: &Json) -> Option<i64> {
    let text = value.as_str()?;
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Some(timestamp.as_microsecond());
    }
    // A date alone is no time.
    let date_time = text.contains([':']).then(|| text.parse::<DateTime>().ok())??;
    Some(TimeZone::UTC.to_timestamp(date_time).ok()?.as_microsecond())
}

struct Adoption<'a> {
    record: &'a Map<String, Json>,
    events: &'a [Json],
    event_id: Arc<str>,
    created: i64,
    /// None where the record says no status that we know.
    status: Option<Status>,
    state: State,
}

impl<'a> Adoption<'a> {
    fn new(record: &'a Map<String, Json>, events: &'a [Json]) -> Self {
        let time = |key: &str| record.get(key).and_then(parse_time);
        let created = time("created_at").or_else(|| time("timestamp")).or_else(|| time("submitted_at")).unwrap_or(0);
        let status = match record.get("status").and_then(Json::as_str) {
            // There was no such status; it is a way to fail.
            Some("timeout") => Some(Status::Failed),
            Some(name) => Status::parse(name),
            None => None,
        };
        Self { record, events, event_id: ADOPTED.into(), created, status, state: State::new() }
    }

    fn run(mut self) -> State {
        let created = self.stamp(self.created);
        self.state.set_created(&created);
        match self.status {
            Some(status) if status.is_terminal() => self.state.set_end(&self.stamp(self.ended()), status),
            Some(status) => self.state.set_open(&created, status),
            None => {}
        }
        for (key, value) in self.record {
            if !is_empty(value) && !self.take(key, value) {
                self.metadata(key, value);
            }
        }
        // Last, as a key of the metadata is more telling than a key of the record that found no place.
        if let Some(Json::Object(metadata)) = self.record.get("metadata") {
            for (key, value) in metadata.iter().filter(|(_, value)| !is_empty(value)) {
                self.state.set_metadata(&self.metadata_stamp(), key, json::canonical(value));
            }
        }
        self.history();
        self.state
    }

    /// Puts a key into the register it belongs to. False if it has none.
    fn take(&mut self, key: &str, value: &Json) -> bool {
        let stamp = self.stamp(self.created);
        match key {
            "status" => return value.as_str().is_some_and(|name| Status::parse(name).is_some()),
            "metadata" => return value.is_object(),
            "output_truncated" | "error_truncated" => {
                return value == &Json::Bool(false) || self.cut_off(&key.replace("_truncated", "")).is_some();
            }
            // Where nothing is left of a text, how much there was is all that is known of it.
            "output_size" | "error_size" => {
                let text_key = key.replace("_size", "");
                return !self.is_truncated(&text_key) || self.cut_off(&text_key).is_some();
            }
            "completed_at" => return self.status.is_some_and(Status::is_terminal) && parse_time(value).is_some(),
            "started_at" => return self.stage(Status::Running, value),
            "submitted_at" => return self.stage(Status::Submitted, value),
            "queued_at" => return self.stage(Status::Queued, value),
            "provisioning_at" => return self.stage(Status::Provisioning, value),
            "output" | "error" | "exit_code" | "runtime_ms" | "memory_used_mb" => return self.outcome(key, value),
            _ if DERIVED.contains(&key) => return true,
            _ => {}
        }
        let Some(text) = value.as_str() else { return false };
        match key {
            names::CODE => self.state.set_text(&stamp, names::CODE, text),
            names::LANGUAGE | names::ENGINE | names::EXECUTOR_ID | names::CONTAINER_ID => {
                self.state.set_string(&stamp, key, text);
            }
            _ => return false,
        }
        true
    }

    fn stage(&mut self, stage: Status, value: &Json) -> bool {
        let Some(time) = parse_time(value) else { return false };
        self.state.set_stage_at(&self.stamp(time), stage);
        true
    }

    fn outcome(&mut self, key: &str, value: &Json) -> bool {
        let Some(status) = self.status.filter(|status| status.is_terminal()) else { return false };
        let (stamp, name) = (self.stamp(self.ended()), names::outcome(status, key));
        if let Some(body) = self.cut_off(key) {
            let value = Value::Body(Body::reference(body));
            self.state.set(Register { name: names::intern(&name), rule: Rule::First, stage: 0, stamp, value });
            return true;
        }
        match (key, value.as_str(), value.as_i64()) {
            ("output" | "error", Some(text), _) => self.state.set_text(&stamp, &name, text),
            ("output" | "error", _, _) | (_, _, None) => return false,
            (_, _, Some(number)) => self.state.set_number(&stamp, &name, number),
        }
        true
    }

    /// A key that found no place, unless the metadata have one of that name.
    fn metadata(&mut self, key: &str, value: &Json) {
        let key = match (key, value) {
            ("status", Json::String(name)) if name == "timeout" => "reason",
            (key, _) => key,
        };
        let explicit = self.record.get("metadata").and_then(|metadata| metadata.get(key));
        if explicit.is_none_or(is_empty) {
            self.state.set_metadata(&self.metadata_stamp(), key, json::canonical(value));
        }
    }

    fn history(&mut self) {
        for (index, event) in self.events.iter().enumerate() {
            let Json::Object(event) = event else { continue };
            let text = |key: &str| event.get(key).and_then(Json::as_str);
            let event_id = text("event_id").map_or_else(|| format!("{ADOPTED}-{index}"), str::to_owned);
            let time = event.get("timestamp").and_then(parse_time).unwrap_or(self.created);
            let kind = text("type").or_else(|| text("event_type")).unwrap_or(ADOPTED);
            let status = text("new_status").or_else(|| text("status")).unwrap_or(kind);
            // Whatever else the entry says is kept beside what we know of.
            let mut entry = event.clone();
            entry.retain(|key, value| !["timestamp", "event_id"].contains(&key.as_str()) && !value.is_null());
            entry.insert("type".to_owned(), kind.into());
            entry.insert("status".to_owned(), status.into());
            entry.insert("message".to_owned(), text("message").unwrap_or_default().into());
            self.state.set(Register {
                name: format!("{}{event_id}", names::HISTORY_PREFIX).into(),
                rule: Rule::First,
                stage: 0,
                stamp: EventStamp::new(time, event_id),
                value: Value::Json(json::canonical(&Json::Object(entry)).into()),
            });
        }
        if self.events.is_empty() {
            let status = self.status.unwrap_or(Status::Submitted);
            self.state.set_history(
                &self.stamp(self.created),
                ADOPTED,
                status,
                "Adopted from a record without a history",
            );
        }
    }

    /// When the evaluation ended. Of a cancelled one only the history may tell.
    fn ended(&self) -> i64 {
        let completed_at = self.record.get("completed_at").and_then(parse_time);
        let told = || {
            let is_end = |event: &&Json| event.get("new_status") == self.record.get("status");
            self.events.iter().rev().find(is_end).and_then(|event| parse_time(event.get("timestamp")?))
        };
        let started_at = || self.record.get("started_at").and_then(parse_time);
        completed_at.or_else(told).or_else(started_at).unwrap_or(self.created)
    }

    fn is_truncated(&self, key: &str) -> bool {
        self.record.get(&format!("{key}_truncated")) == Some(&Json::Bool(true))
    }

    /// What is left of an output or error that was cut off, as a reference to nowhere that has the beginning.
    ///
    /// The rest is gone, so the hash and the lines can only be those of the beginning.
    fn cut_off(&self, key: &str) -> Option<Reference> {
        if !self.is_truncated(key) || !self.status.is_some_and(Status::is_terminal) {
            return None;
        }
        let preview = self.record.get(key)?.as_str().filter(|text| !text.is_empty())?;
        let size = self.record.get(&format!("{key}_size")).and_then(Json::as_u64).unwrap_or(0);
        let body = Body::text(preview);
        Some(Reference {
            characters: size.max(body.characters()),
            lines: body.lines(),
            location: None,
            preview: preview.to_owned(),
            sha256: sha256(preview.as_bytes()),
        })
    }

    fn metadata_stamp(&self) -> EventStamp {
        self.stamp(self.created)
    }

    fn stamp(&self, time: i64) -> EventStamp {
        EventStamp::new(time, Arc::clone(&self.event_id))
    }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::Bool(_) | Json::Number(_) | Json::Array(_) => false,
    }
}
