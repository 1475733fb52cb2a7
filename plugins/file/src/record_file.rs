//! The file of an evaluation: its record, as readers have always known it, and its state under one further key.
//!
//! The bodies that the record shows are not repeated in the state: a reference to the record's key stands there, say
//! `record:code`, and its hash tells whether the file is still what was written. `adopt.rs` reads files without a state.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use storage_plugin_api::{
    Body, HistoryEntry, Record, Reference, State, Status, StoredError, body::sha256, format_time, json, names,
};

/// Begins the location of a body that the record shows; the record's key follows.
const IN_RECORD: &str = "record:";
/// Begins the location of a body that was stored with a location that begins like ours; that location follows.
const NOT_IN_RECORD: &str = "record::";

/// Why a file does not tell a state.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is damaged: what is wrong with it.
    Corrupt(String),
    /// It was written by a newer program.
    Newer(String),
}

/// Writes the file of an evaluation.
pub(crate) fn encode(record: &Record, state: &State) -> String {
    let bodies = [&record.code, &record.output, &record.error].map(|body| body.as_ref().map_or(0, String::len));
    let mut writer = Writer { out: String::with_capacity(2048 + bodies.iter().sum::<usize>() * 9 / 8) };
    write_record(&mut writer, record);
    writer.raw("state", &referring(state, record.status).to_canonical_json());
    writer.out.push_str("\n}\n");
    to_ascii(writer.out)
}

/// Writes the file of an evaluation's history.
pub(crate) fn encode_history(history: &[HistoryEntry]) -> String {
    to_ascii(to_json(&history))
}

/// Reads the state of a file; none if it has none, so that somebody else wrote it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<State>, ReadError> {
    #[derive(Deserialize)]
    struct File<'a> {
        #[serde(borrow)]
        state: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Bodies {
        code: Option<String>,
        output: Option<String>,
        error: Option<String>,
    }
    let corrupt = |error: serde_json::Error| ReadError::Corrupt(error.to_string());
    let text = std::str::from_utf8(bytes).map_err(|error| ReadError::Corrupt(error.to_string()))?;
    let file: File<'_> = serde_json::from_str(text).map_err(corrupt)?;
    let Some(stored) = file.state.map(RawValue::get).filter(|stored| is_state(stored)) else { return Ok(None) };
    let mut state = State::from_json(stored).map_err(|error| match error {
        StoredError::NewerFormat { .. } => ReadError::Newer(error.to_string()),
        error => ReadError::Corrupt(format!("`state` is {error}")),
    })?;
    let mut bodies: Bodies = serde_json::from_str(text).map_err(corrupt)?;
    let mut damaged = None;
    state.map_bodies(|name, body| {
        let location = body.as_reference()?.location.as_deref()?.strip_prefix(IN_RECORD)?;
        if let Some(original) = location.strip_prefix(':') {
            return Some(relocated(body.as_reference()?, original.to_owned()));
        }
        let text = match location {
            "code" => bodies.code.take(),
            "output" => bodies.output.take(),
            "error" => bodies.error.take(),
            _ => None,
        };
        match text.filter(|text| sha256(text.as_bytes()) == *body.hash()) {
            Some(text) => Some(Body::text_with_hash(text, *body.hash())),
            None => {
                damaged = Some(format!("`{location}` is not the text that was stored as `{name}`"));
                None
            }
        }
    });
    damaged.map_or(Ok(Some(state)), |reason| Err(ReadError::Corrupt(reason)))
}

/// A file of somebody else may have a key of that name for its own purposes.
fn is_state(stored: &str) -> bool {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(rename = "format")]
        _format: u64,
        #[serde(rename = "registers")]
        _registers: serde::de::IgnoredAny,
    }
    serde_json::from_str::<Stored>(stored).is_ok()
}

/// The state with references in the places of those bodies that the record shows.
fn referring(state: &State, status: Option<Status>) -> State {
    let mut state = state.clone();
    state.map_bodies(|name, body| {
        if let Some(reference) = body.as_reference() {
            let location = reference.location.as_ref().filter(|location| location.starts_with(IN_RECORD))?;
            return Some(relocated(reference, format!("{NOT_IN_RECORD}{location}")));
        }
        let key = match name {
            names::CODE => "code",
            name => match name.split_once('/') {
                Some((outcome, "output")) if status.is_some_and(|status| status.as_str() == outcome) => "output",
                Some((outcome, "error")) if status.is_some_and(|status| status.as_str() == outcome) => "error",
                _ => return None,
            },
        };
        Some(Body::reference(Reference {
            characters: body.characters(),
            lines: body.lines(),
            location: Some(format!("{IN_RECORD}{key}")),
            preview: String::new(),
            sha256: *body.hash(),
        }))
    });
    state
}

fn relocated(reference: &Reference, location: String) -> Body {
    Body::reference(Reference { location: Some(location), ..reference.clone() })
}

/// The keys that readers look for are always there; the others only where they are known, as it always was.
fn write_record(writer: &mut Writer, record: &Record) {
    writer.text("id", Some(&record.id));
    writer.text("code", record.code.as_deref());
    writer.text("code_hash", record.code_hash.as_deref());
    writer.text("status", Some(record.status.map_or("unknown", Status::as_str)));
    let created_at = record.created_at.map(format_time);
    writer.text("timestamp", created_at.as_deref());
    writer.text("created_at", created_at.as_deref());
    writer.value("code_lines", &record.code_lines);
    writer.value("code_size", &record.code_size);
    writer.text("language", record.language.as_deref());
    let metadata = record.metadata.iter().map(|(key, json)| format!("{}:{json}", json::canonical_string(key)));
    writer.raw("metadata", &format!("{{{}}}", metadata.collect::<Vec<_>>().join(",")));
    for (key, text) in
        [("engine", &record.engine), ("executor_id", &record.executor_id), ("container_id", &record.container_id)]
    {
        writer.known_text(key, text.as_deref());
    }
    for (key, time) in [
        ("submitted_at", record.submitted_at),
        ("queued_at", record.queued_at),
        ("provisioning_at", record.provisioning_at),
        ("started_at", record.started_at),
        ("completed_at", record.completed_at),
    ] {
        writer.known_text(key, time.map(format_time).as_deref());
    }
    writer.known_text("output", record.output.as_deref());
    writer.known("output_size", record.output_size);
    writer.value("output_truncated", &record.output_truncated);
    writer.known_text("error", record.error.as_deref());
    writer.known("error_size", record.error_size);
    writer.value("error_truncated", &record.error_truncated);
    writer.known("exit_code", record.exit_code);
    writer.known("runtime_ms", record.runtime_ms);
    writer.known("memory_used_mb", record.memory_used_mb);
    writer.known("success", record.success);
}

/// Writes the keys of one JSON object, each on a line of its own.
struct Writer {
    out: String,
}

impl Writer {
    fn key(&mut self, key: &str) {
        self.out.push_str(if self.out.is_empty() { "{\n  " } else { ",\n  " });
        json::push_string(&mut self.out, key);
        self.out.push_str(": ");
    }

    fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.out.push_str(json);
    }

    fn value(&mut self, key: &str, value: &impl Serialize) {
        self.raw(key, &to_json(value));
    }

    fn text(&mut self, key: &str, text: Option<&str>) {
        self.key(key);
        match text {
            Some(text) => json::push_string(&mut self.out, text),
            None => self.out.push_str("null"),
        }
    }

    fn known(&mut self, key: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.value(key, &value);
        }
    }

    fn known_text(&mut self, key: &str, text: Option<&str>) {
        if text.is_some() {
            self.text(key, text);
        }
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records have only text, numbers and lists of them")
}

/// Escapes what is not ASCII, as the files always were: some readers take them for their locale's encoding.
fn to_ascii(json: String) -> String {
    if json.is_ascii() {
        return json;
    }
    let mut out = String::with_capacity(json.len() * 3 / 2);
    for character in json.chars() {
        // Outside of strings JSON is ASCII, so every such character stands in a string.
        if character.is_ascii() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::{EventStamp, Register, Rule, Value};

    use super::*;

    fn finished() -> State {
        let mut state = State::new();
        let queued = EventStamp::new(1_735_689_600_000_000, "q-1");
        state.set_open(&queued, Status::Queued);
        state.set_created(&queued);
        state.set_text(&queued, names::CODE, "print('\u{1f600} ü\0')\n");
        state.set_string(&queued, names::LANGUAGE, "python");
        state.set_metadata(&queued, "ä", r#"{"a":1.50}"#);
        state.set_history(&queued, "queued", Status::Queued, "Queued");
        let completed = EventStamp::new(1_735_689_601_000_000, "c-1");
        state.set_end(&completed, Status::Completed);
        state.set_text(&completed, "completed/output", "42\n");
        let failed = EventStamp::new(1_735_689_602_000_000, "f-1");
        state.set_end(&failed, Status::Failed);
        state.set_text(&failed, "failed/error", "lost");
        state
    }

    fn encoded(state: &State) -> String {
        encode(&Record::of("a", state), state)
    }

    fn read(file: &str) -> State {
        decode(file.as_bytes()).expect("whole").expect("with a state")
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let state = finished();

        let file = encoded(&state);

        assert_eq!(read(&file).to_canonical_json(), state.to_canonical_json());
        assert!(file.is_ascii());
        assert_eq!(file.matches("42\\n").count(), 1, "a body that the record shows is there once");
    }

    #[test]
    fn the_record_has_the_keys_that_readers_know() {
        let state = finished();
        let history = encode_history(&Record::of("a", &state).history);

        let record: serde_json::Value = serde_json::from_str(&encoded(&state)).expect("JSON");
        for (key, value) in [
            ("id", "a"),
            ("status", "completed"),
            ("timestamp", "2025-01-01T00:00:00.000000+00:00"),
            ("created_at", "2025-01-01T00:00:00.000000+00:00"),
            ("completed_at", "2025-01-01T00:00:01.000000+00:00"),
            ("code", "print('\u{1f600} ü\0')\n"),
            ("output", "42\n"),
            ("language", "python"),
        ] {
            assert_eq!(record[key], value, "{key}");
        }
        assert_eq!(record["metadata"]["ä"]["a"].to_string(), "1.50");
        assert!(record.get("error").is_none(), "an outcome that lost is not shown");
        let events: serde_json::Value = serde_json::from_str(&history).expect("JSON");
        assert_eq!((&events[0]["type"], &events[0]["message"]), (&"queued".into(), &"Queued".into()));
    }

    #[test]
    fn a_changed_body_is_damage() {
        let changed = encoded(&finished()).replace("42\\n", "43\\n");

        assert!(matches!(decode(changed.as_bytes()), Err(ReadError::Corrupt(reason)) if reason.contains("output")));
    }

    #[test]
    fn a_file_of_somebody_else_has_no_state() {
        assert!(matches!(decode(br#"{"id":"a","state":"NY"}"#), Ok(None)));
        assert!(matches!(decode(br#"{"id":"a"}"#), Ok(None)));
        assert!(matches!(decode(br#"{"id":"a""#), Err(ReadError::Corrupt(_))));
        assert!(matches!(decode(b""), Err(ReadError::Corrupt(_))));
    }

    #[test]
    fn a_newer_state_is_not_called_damaged() {
        let newer = encoded(&finished()).replace("\"format\":1", "\"format\":2");

        assert!(matches!(decode(newer.as_bytes()), Err(ReadError::Newer(_))));
    }

    #[test]
    fn a_reference_that_looks_like_ours_stays_what_it_is() {
        let mut state = finished();
        let stamp = EventStamp::new(0, "x");
        let mut reference = Body::text("elsewhere").without_text().as_reference().expect("a reference").clone();
        reference.location = Some("record:code".to_owned());
        let value = Value::Body(Body::reference(reference));
        state.set(Register { name: "cancelled/output".into(), rule: Rule::First, stage: 0, stamp, value });

        assert_eq!(read(&encoded(&state)).to_canonical_json(), state.to_canonical_json());
    }
}
