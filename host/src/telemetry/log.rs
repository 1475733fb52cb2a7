//! Turns `tracing` events into lines, with URLs and fields of secret names redacted.
//!
//! JSON, one object a line: `{"event":"plugin loaded","level":"info","timestamp":"2024-01-15T10:30:00.123456Z","plugin":
//! "file"}`. Fields are flat; those of the enclosing spans stand behind the event's own, and the innermost of a name wins.

use std::fmt::{self, Write};

use jiff::Timestamp;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::error_chain::with_causes;
use crate::secret::{REDACTED, is_secret_name, redact_url, redact_value};

/// The target of events that come from plugins; see `plugin::host_api`. Their fields are one JSON object in `fields`,
/// whose entries stand in the line like any others.
const PLUGIN_TARGET: &str = "plugin";

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// One JSON object a line.
    Json,
    /// For people, with color or without.
    Pretty { colored: bool },
}

/// Writes a line for every event.
pub(crate) struct Lines<W> {
    style: Style,
    write: W,
}

impl<W: Fn(&[u8])> Lines<W> {
    /// `write` is given whole lines, the line feed included.
    pub(crate) fn new(style: Style, write: W) -> Lines<W> {
        Self { style, write }
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&[u8]) + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if event.metadata().target() == PLUGIN_TARGET {
            fields.flatten("fields");
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add_outer(outer);
            }
        }
        let (level, now) = (*event.metadata().level(), Timestamp::now());
        let line = match self.style {
            Style::Json => json(level, now, &fields),
            Style::Pretty { colored } => pretty(level, now, &fields, colored),
        };
        (self.write)(line.as_bytes());
    }
}

fn json(level: Level, now: Timestamp, fields: &Fields) -> String {
    let level = level.as_str().to_ascii_lowercase();
    let mut line = format!(
        "{{\"event\":{},\"level\":\"{level}\",\"timestamp\":\"{now:.6}\"",
        Value::from(fields.message.as_str())
    );
    for (name, value) in &fields.values {
        // Three names are taken by the line itself.
        let mark = if matches!(name.as_str(), "event" | "level" | "timestamp") { "_" } else { "" };
        line.push(',');
        push(&mut line, format_args!("{}:{value}", Value::from(format!("{name}{mark}"))));
    }
    line.push_str("}\n");
    line
}

fn pretty(level: Level, now: Timestamp, fields: &Fields, colored: bool) -> String {
    let color = match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG | Level::TRACE => "\x1b[34m",
    };
    let (color, dim, plain) = if colored { (color, "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let mut line = String::new();
    push(&mut line, format_args!("{dim}{now:.3}{plain} {color}{level:>5}{plain} {}", one_line(&fields.message)));
    for (name, value) in &fields.values {
        let value = match value {
            Value::String(text) if is_word(text) => text.clone(),
            other => other.to_string(),
        };
        push(&mut line, format_args!(" {dim}{name}={plain}{value}"));
    }
    line.push('\n');
    line
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
}

/// Control characters escaped, so that no text can end the line or color the terminal.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn push(line: &mut String, text: fmt::Arguments<'_>) {
    line.write_fmt(text).expect("writing to a string does not fail");
}

/// The fields of an event or a span, redacted, in the order they were given.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    values: Vec<(String, Value)>,
}

impl Fields {
    fn add(&mut self, name: &str, value: Value) {
        let value = if is_secret_name(name) { Value::from(REDACTED) } else { redact_value(&value) };
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.values.push((name.to_owned(), value)),
        }
    }

    fn add_outer(&mut self, outer: &Self) {
        for (name, value) in &outer.values {
            if !self.values.iter().any(|(known, _)| known == name) {
                self.values.push((name.clone(), value.clone()));
            }
        }
    }

    /// Puts the entries of a JSON object that stands in a field as text in the place of the field.
    fn flatten(&mut self, name: &str) {
        let Some(index) = self.values.iter().position(|(known, _)| known == name) else { return };
        let text = self.values[index].1.as_str().unwrap_or_default();
        if let Ok(Value::Object(entries)) = serde_json::from_str(text) {
            self.values.remove(index);
            for (name, value) in entries {
                // The instance and the like are ours to say.
                if !self.values.iter().any(|(known, _)| *known == name) {
                    self.add(&name, value);
                }
            }
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        match name {
            "message" => self.message = redact_url(text).into_owned(),
            _ => self.add(name, Value::from(text)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        self.text(field.name(), &with_causes(error));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// The lines that are written meanwhile.
    fn lines(style: Style, log: impl FnOnce()) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let lines = Lines::new(style, move |line: &[u8]| {
            kept.lock().expect("no panic").push(String::from_utf8(line.to_vec()).expect("UTF-8"));
        });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let written = written.lock().expect("no panic");
        written.clone()
    }

    fn object(style: Style, log: impl FnOnce()) -> Value {
        let lines = lines(style, log);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with('\n') && lines[0].matches('\n').count() == 1, "{lines:?}");
        serde_json::from_str(&lines[0]).expect("a JSON object")
    }

    #[test]
    fn a_line_is_the_seeds_object() {
        let line = object(Style::Json, || {
            tracing::info!(
                backend = "file",
                redis_url = "redis://a:geheim@redis:6379",
                lanes = 4,
                "storage_worker.initialized"
            );
        });

        assert_eq!(line["event"], "storage_worker.initialized");
        assert_eq!(line["level"], "info");
        assert_eq!(line["backend"], "file");
        assert_eq!(line["lanes"], 4);
        assert_eq!(line["redis_url"], "redis://[redacted]@redis:6379");
        let timestamp = line["timestamp"].as_str().expect("a text");
        assert!(timestamp.ends_with('Z') && timestamp.parse::<Timestamp>().is_ok(), "{timestamp}");
    }

    #[test]
    fn fields_of_spans_stand_in_the_line_and_the_innermost_wins() {
        let line = object(Style::Json, || {
            let outer = tracing::info_span!("outer", lane = 1, backend = "outer", late = tracing::field::Empty);
            outer.record("late", "recorded");
            let _outer = outer.enter();
            let _inner = tracing::info_span!("inner", backend = "inner").entered();
            tracing::warn!(lane = 2, level = "field", password = "geheim", "unlucky\nline");
        });

        assert_eq!(line["lane"], 2);
        assert_eq!(line["backend"], "inner");
        assert_eq!(line["late"], "recorded");
        assert_eq!(line["level"], "warn");
        assert_eq!(line["level_"], "field");
        assert_eq!(line["password"], REDACTED);
        assert_eq!(line["event"], "unlucky\nline");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect to `redis://x:y@z`")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no route"));

        let line = object(Style::Json, || tracing::error!(error = &error as &dyn std::error::Error, "failed"));

        assert_eq!(line["error"], "cannot connect to `redis://[redacted]@z`: no route");
    }

    #[test]
    fn a_plugins_fields_are_flat() {
        let fields = r#"{"files":3,"path":"p","backend":"forged","token":"geheim"}"#;
        let line =
            object(Style::Json, || tracing::info!(target: "plugin", backend = "disk", fields, "checkpoint done"));

        assert_eq!((&line["event"], &line["backend"]), (&Value::from("checkpoint done"), &Value::from("disk")));
        assert_eq!((&line["token"], &line["fields"]), (&Value::from(REDACTED), &Value::Null));
        assert_eq!((&line["files"], &line["path"]), (&Value::from(3), &Value::from("p")));
    }

    #[test]
    fn pretty_lines_are_for_people() {
        let written =
            lines(Style::Pretty { colored: false }, || tracing::info!(plugin = "file", why = "a b", "loaded\x1b[31m"));

        assert!(written[0].ends_with(" INFO loaded\\u{1b}[31m plugin=file why=\"a b\"\n"), "{written:?}");
    }
}
