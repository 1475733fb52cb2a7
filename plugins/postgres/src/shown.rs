//! What of a state stands in columns: the record for those who read the tables, and the places of bodies.
//!
//! Where a body is stored follows from its name and the status alone, so it need not be stored.

use storage_plugin_api::{Body, Record, Reference, State, Status, Value, format_time, json, names};

use crate::escape::{escape_json, escape_key, escaped};
use crate::state_form::{STORED, STORED_ESCAPED};
use crate::timestamp::Timestamp;

/// Where a body is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the JSON of `metadata`, where readers look for it.
    Code,
    /// In the column `output`.
    Output,
    /// In the column `error`.
    Error,
    /// In the table of bodies, by its name.
    Aside,
}

/// The place of the body of a name in an evaluation of a status.
pub(crate) fn place(name: &str, status: Option<Status>) -> Place {
    if name == names::CODE {
        return Place::Code;
    }
    let shown = status.filter(|status| status.is_terminal()).and_then(|status| name.strip_prefix(status.as_str()));
    match shown {
        Some("/output") => Place::Output,
        Some("/error") => Place::Error,
        _ => Place::Aside,
    }
}

/// The body of a name, if there is one.
pub(crate) fn body<'a>(state: &'a State, name: &str) -> Option<&'a Body> {
    state.get(name).and_then(|register| register.value.as_body())
}

/// Takes the texts out of a state: references to what is stored stand in their place. Answers names and texts.
pub(crate) fn take_texts(state: &mut State) -> Vec<(String, Body)> {
    let mut texts = Vec::new();
    state.map_bodies(|name, body| {
        let text = body.as_text()?;
        let location = if crate::escape::needs_escape(text) { STORED_ESCAPED } else { STORED };
        texts.push((name.to_owned(), body.clone()));
        Some(Body::reference(Reference {
            characters: body.characters(),
            lines: body.lines(),
            location: Some(location.to_owned()),
            preview: String::new(),
            sha256: *body.hash(),
        }))
    });
    texts
}

/// The columns of one row that are no bodies.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) status: &'static str,
    pub(crate) code_hash: String,
    pub(crate) created_at: Timestamp,
    pub(crate) queued_at: Option<Timestamp>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) engine: Option<String>,
    pub(crate) runtime_ms: Option<i32>,
    pub(crate) memory_used_mb: Option<i32>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) language: Option<String>,
    pub(crate) output_size: Option<i64>,
    pub(crate) error_size: Option<i64>,
    /// The JSON of `metadata` behind the code, from the comma on.
    pub(crate) rest: String,
}

impl Shown {
    /// The columns of a state whose texts were taken out.
    pub(crate) fn of(id: &str, state: &State) -> Self {
        let record = Record::without_history(id, state);
        let rest = rest(&record);
        let time = |time: Option<i64>| time.map(Timestamp);
        let size = |size: Option<u64>| size.and_then(|size| i64::try_from(size).ok());
        let number = |number: Option<i64>| number.and_then(|number| i32::try_from(number).ok());
        Self {
            status: record.status.map_or("unknown", Status::as_str),
            code_hash: record.code_hash.unwrap_or_default(),
            created_at: Timestamp(record.created_at.unwrap_or(0)),
            queued_at: time(record.queued_at),
            started_at: time(record.started_at),
            completed_at: time(record.completed_at),
            // The column's own limit; the state has it whole.
            engine: record.engine.map(escaped).filter(|engine| engine.chars().count() <= 50),
            runtime_ms: number(record.runtime_ms),
            memory_used_mb: number(record.memory_used_mb),
            exit_code: number(record.exit_code),
            language: record.language.map(|language| escape_key(&language).into_owned()),
            output_size: size(record.output_size),
            error_size: size(record.error_size),
            rest,
        }
    }
}

/// The keys that the Python service's reader takes from the JSON and from nowhere else.
fn rest(record: &Record) -> String {
    let mut out = String::with_capacity(768);
    let mut entry = |key: &str, write: &mut dyn FnMut(&mut String)| {
        out.push_str(",\"");
        out.push_str(key);
        out.push_str("\":");
        write(&mut out);
    };
    let created_at = record.created_at.map(format_time);
    for (key, text) in [("language", &record.language), ("timestamp", &created_at), ("created_at", &created_at)] {
        if let Some(text) = text {
            entry(key, &mut |out| json::push_string(out, text));
        }
    }
    for (key, time) in [("started_at", record.started_at), ("completed_at", record.completed_at)] {
        if let Some(time) = time {
            entry(key, &mut |out| json::push_string(out, &format_time(time)));
        }
    }
    for (key, number) in [("code_lines", record.code_lines), ("code_size", record.code_size)] {
        if let Some(number) = number {
            entry(key, &mut |out| out.push_str(&number.to_string()));
        }
    }
    for (key, name) in [("executor_id", &record.executor_id), ("container_id", &record.container_id)] {
        if let Some(name) = name {
            entry(key, &mut |out| json::push_string(out, name));
        }
    }
    out.push_str(",\"metadata\":{");
    for (index, (key, value)) in record.metadata.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        json::push_string(&mut out, key);
        out.push(':');
        out.push_str(value);
    }
    out.push_str("}}");
    match escape_json(&out) {
        std::borrow::Cow::Borrowed(_) => out,
        std::borrow::Cow::Owned(escaped) => escaped,
    }
}

/// A line of the history for the table of events.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) event_id: String,
    pub(crate) timestamp: Timestamp,
    pub(crate) event_type: String,
    pub(crate) message: String,
    pub(crate) new_status: String,
}

impl Line {
    /// The line of a history register; none for what is no such line.
    pub(crate) fn of(register: &storage_plugin_api::Register) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Stored {
            message: String,
            status: String,
            #[serde(rename = "type")]
            kind: String,
        }
        let Value::Json(value) = &register.value else { return None };
        let stored: Stored = serde_json::from_str(value).ok()?;
        Some(Self {
            event_id: escape_key(register.name.strip_prefix(names::HISTORY_PREFIX)?).into_owned(),
            timestamp: Timestamp(register.stamp.time),
            event_type: first(escaped(stored.kind), 50),
            message: escaped(stored.message),
            new_status: escaped(stored.status),
        })
    }
}

/// So many characters of a text, the first ones.
fn first(mut text: String, characters: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(characters) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::EventStamp;

    use super::*;

    #[test]
    fn only_the_bodies_of_the_status_are_shown() {
        assert_eq!(place("code", None), Place::Code);
        assert_eq!(place("failed/output", Some(Status::Failed)), Place::Output);
        assert_eq!(place("failed/error", Some(Status::Failed)), Place::Error);
        assert_eq!(place("failed/output", Some(Status::Completed)), Place::Aside);
        assert_eq!(place("running/output", Some(Status::Running)), Place::Aside);
        assert_eq!(place("failed/output", None), Place::Aside);
    }

    #[test]
    fn the_json_has_what_readers_expect_and_no_nul() {
        let mut state = State::new();
        let stamp = EventStamp::new(1_000_000, "q");
        state.set_created(&stamp);
        state.set_open(&stamp, Status::Queued);
        state.set_text(&stamp, names::CODE, "a\nb");
        state.set_string(&stamp, names::LANGUAGE, "python");
        state.set_metadata(&stamp, "k", "\"\\u0000\"");
        let texts = take_texts(&mut state);

        let shown = Shown::of("e", &state);

        assert_eq!(texts.len(), 1);
        let json: serde_json::Value =
            serde_json::from_str(&format!("{{\"code\":null{}", shown.rest)).expect("it is JSON");
        assert_eq!(json["language"], "python");
        assert_eq!(json["timestamp"], "1970-01-01T00:00:01.000000+00:00");
        assert_eq!(json["code_lines"], 2);
        assert_eq!(json["metadata"]["k"], "\u{1a}0");
    }
}
