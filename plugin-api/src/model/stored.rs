//! The stored form of a state: canonical JSON that names each event once.
//!
//! ```text
//! {"events":[["q-1",1000000],["c-1",3000000]],
//!  "format":1,
//!  "registers":{"code":{"first":0,"sha256":"…","text":"print(42)"},
//!               "end/completed":{"first":1,"value":"completed"},
//!               "open":{"last":0,"stage":2,"value":"queued"}}}
//! ```
//! `first` and `last` are the rule, their number is the event's place in `events`, which is sorted by time and id.
//! Events that no register refers to are not named. `state.rs` owns what a state means.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::{Body, Reference, from_hex, to_hex};
use super::json;
use super::names::intern;
use super::register::{EventStamp, Register, Rule, Value};
use super::state::State;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// Why some text is not a state.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoredError {
    /// It was written by a newer program.
    NewerFormat {
        /// The format that it says it has.
        found: u64,
    },
    /// It is no stored state at all.
    Malformed {
        /// What is wrong with it, and where.
        reason: String,
    },
}

impl std::fmt::Display for StoredError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NewerFormat { found } => write!(
                formatter,
                "the state is stored in format {found}, this program reads up to {FORMAT}; use a newer program"
            ),
            Self::Malformed { reason } => write!(formatter, "not a stored state: {reason}"),
        }
    }
}

impl std::error::Error for StoredError {}

/// Writes the canonical JSON of a state.
#[must_use]
pub(crate) fn write(state: &State) -> String {
    let mut events: Vec<(i64, &str)> = Vec::with_capacity(8);
    for register in state.registers() {
        let event = (register.stamp.time, &*register.stamp.event_id);
        if events.last() != Some(&event) {
            events.push(event);
        }
    }
    events.sort_unstable();
    events.dedup();

    let mut out = String::with_capacity(size_hint(state));
    out.push_str("{\"events\":[");
    for (index, (time, id)) in events.iter().enumerate() {
        out.push_str(if index == 0 { "[" } else { ",[" });
        json::push_string(&mut out, id);
        push(&mut out, format_args!(",{time}]"));
    }
    push(&mut out, format_args!("],\"format\":{FORMAT},\"registers\":{{"));
    for (index, register) in state.registers().iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        json::push_string(&mut out, &register.name);
        let event = (register.stamp.time, &*register.stamp.event_id);
        let place = events.binary_search(&event).expect("every register's event was collected above");
        push(&mut out, format_args!(":{{\"{}\":{place}", register.rule.as_str()));
        write_value(&mut out, register);
    }
    out.push_str("}}");
    out
}

/// The keys `first` or `last` stand before; these follow in the order of their names.
fn write_value(out: &mut String, register: &Register) {
    if let Value::Body(body) = &register.value {
        match body.reference_json() {
            Some(reference) => push(out, format_args!(",\"reference\":{reference}")),
            None => push(out, format_args!(",\"sha256\":\"{}\"", to_hex(body.hash()))),
        }
    }
    if register.stage != 0 {
        push(out, format_args!(",\"stage\":{}", register.stage));
    }
    match &register.value {
        Value::Json(value) => push(out, format_args!(",\"value\":{value}")),
        Value::Body(body) => {
            if let Some(text) = body.as_text() {
                out.push_str(",\"text\":");
                json::push_string(out, text);
            }
        }
    }
    out.push('}');
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

fn size_hint(state: &State) -> usize {
    let values = state.registers().iter().map(|register| match &register.value {
        Value::Json(value) => value.len() + 40,
        Value::Body(body) => body.as_text().map_or(200, |text| text.len() + text.len() / 8 + 120),
    });
    256 + values.sum::<usize>()
}

#[derive(Deserialize)]
struct StoredState<'a> {
    format: u64,
    #[serde(borrow)]
    events: Vec<(std::borrow::Cow<'a, str>, i64)>,
    #[serde(borrow)]
    registers: BTreeMap<std::borrow::Cow<'a, str>, StoredRegister<'a>>,
}

#[derive(Deserialize)]
struct StoredRegister<'a> {
    first: Option<usize>,
    last: Option<usize>,
    #[serde(default)]
    stage: u8,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    text: Option<String>,
    #[serde(borrow)]
    sha256: Option<std::borrow::Cow<'a, str>>,
    reference: Option<Reference>,
}

/// Reads the stored form; white space and the order of keys do not matter.
///
/// # Errors
/// When the text is no stored state, or one of a newer format.
pub(crate) fn read(text: &str) -> Result<State, StoredError> {
    let stored: StoredState<'_> = serde_json::from_str(text).map_err(|error| match format_of(text) {
        Some(found) if found > FORMAT => StoredError::NewerFormat { found },
        _ => malformed(error.to_string()),
    })?;
    if stored.format != FORMAT {
        return Err(match stored.format {
            found if found > FORMAT => StoredError::NewerFormat { found },
            found => malformed(format!("unknown format {found}")),
        });
    }
    let events: Vec<EventStamp> = stored.events.into_iter().map(|(id, time)| EventStamp::new(time, &*id)).collect();
    let mut state = State::new();
    for (name, register) in stored.registers {
        state.set(
            read_register(&name, register, &events)
                .map_err(|reason| malformed(format!("register `{name}`: {reason}")))?,
        );
    }
    Ok(state)
}

fn read_register(name: &str, stored: StoredRegister<'_>, events: &[EventStamp]) -> Result<Register, String> {
    let (rule, place) = match (stored.first, stored.last) {
        (Some(place), None) => (Rule::First, place),
        (None, Some(place)) => (Rule::Last, place),
        _ => return Err("needs either `first` or `last`".to_owned()),
    };
    let stamp = events.get(place).ok_or_else(|| format!("there is no event {place}"))?.clone();
    let value = match (stored.value, stored.text, stored.reference) {
        (Some(raw), None, None) => Value::Json(json::canonical_raw(raw).map_err(|error| error.to_string())?.into()),
        (None, Some(text), None) => {
            let text: Arc<str> = text.into();
            Value::Body(match stored.sha256.as_deref() {
                Some(hex) => Body::text_with_hash(text, from_hex(hex).ok_or("`sha256` is not 64 hex digits")?),
                None => Body::text(text),
            })
        }
        (None, None, Some(reference)) => Value::Body(Body::reference(reference)),
        _ => return Err("needs one of `value`, `text` and `reference`".to_owned()),
    };
    Ok(Register { name: intern(name), rule, stage: stored.stage, stamp, value })
}

fn format_of(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct OnlyFormat {
        format: u64,
    }
    serde_json::from_str::<OnlyFormat>(text).ok().map(|found| found.format)
}

fn malformed(reason: String) -> StoredError {
    StoredError::Malformed { reason }
}
