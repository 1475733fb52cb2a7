//! The column `state`: a state in few bytes, its bodies left where they are stored.
//!
//! ```text
//! format (1), events: count, {time i64 LE, id}, registers: count, {name, flags, [stage], event, value}
//! name:  0 text | 1 + place in NAMES | 64 + place in PREFIXES, rest | 80 history of its own event
//! value: JSON: code of a known one, or 0 text | stored body: SHA-256, characters, lines | reference: its JSON
//! ```
//! Numbers are LEB128, texts a length and UTF-8. The SDK's own stored form is JSON and some five times as long, which
//! would be most of what a merge writes. A newer format is refused, never rewritten.

use storage_plugin_api::names::{self, intern};
use storage_plugin_api::{Body, EventStamp, Reference, Register, Rule, State, Status, Value};

use crate::escape::needs_escape;

/// The format that this version writes, and the newest that it reads.
const FORMAT: u8 = 1;

/// The location that stands for "stored by us": [`crate::shown::place`] says where. No other location has a NUL.
pub(crate) const STORED: &str = "\0stored";
/// As [`STORED`], with the NUL characters of the text escaped.
pub(crate) const STORED_ESCAPED: &str = "\0escaped";

/// Names that are one byte. Never change the order, only add: it is what is stored.
const NAMES: [&str; 29] = [
    "open",
    "created_at",
    "submitted_at",
    "queued_at",
    "provisioning_at",
    "running_at",
    "code",
    "language",
    "engine",
    "executor_id",
    "container_id",
    "end/completed",
    "end/failed",
    "end/cancelled",
    "completed/output",
    "completed/error",
    "completed/exit_code",
    "completed/runtime_ms",
    "completed/memory_used_mb",
    "failed/output",
    "failed/error",
    "failed/exit_code",
    "failed/runtime_ms",
    "failed/memory_used_mb",
    "cancelled/output",
    "cancelled/error",
    "cancelled/exit_code",
    "cancelled/runtime_ms",
    "cancelled/memory_used_mb",
];
const PREFIXES: [&str; 2] = [names::METADATA_PREFIX, names::HISTORY_PREFIX];
const PREFIXED: u64 = 64;
const OWN_HISTORY: u64 = 80;
const OWN_TIME: u64 = 16;

const RULE_LAST: u8 = 1;
const HAS_STAGE: u8 = 2;
const KIND: u8 = 4 | 8;
const KIND_STORED: u8 = 4;
const KIND_REFERENCE: u8 = 8;
const ESCAPED: u8 = 16;

/// Why some bytes are not a state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FormError {
    Newer(u8),
    Malformed,
}

/// True if a body is one of ours, and not a reference that somebody sent.
pub(crate) fn is_stored(body: &Body) -> bool {
    body.as_reference()
        .and_then(|reference| reference.location.as_deref())
        .is_some_and(|location| location == STORED || location == STORED_ESCAPED)
}

/// True if the stored text of a body was changed to be stored.
pub(crate) fn is_escaped(body: &Body) -> bool {
    body.as_reference().and_then(|reference| reference.location.as_deref()) == Some(STORED_ESCAPED)
}

/// Writes a state. A body that is a text counts as stored.
pub(crate) fn write(state: &State) -> Vec<u8> {
    let mut events: Vec<(i64, &str)> = Vec::with_capacity(8);
    for register in state.registers() {
        let event = (register.stamp.time, &*register.stamp.event_id);
        if events.last() != Some(&event) {
            events.push(event);
        }
    }
    events.sort_unstable();
    events.dedup();

    let mut out = Vec::with_capacity(128 + 48 * events.len() + 8 * state.registers().len());
    out.push(FORMAT);
    push_number(&mut out, events.len() as u64);
    for (time, id) in &events {
        out.extend_from_slice(&time.to_le_bytes());
        push_text(&mut out, id);
    }
    push_number(&mut out, state.registers().len() as u64);
    for register in state.registers() {
        let event = (register.stamp.time, &*register.stamp.event_id);
        let event = events.binary_search(&event).expect("every register's event was collected above");
        push_register(&mut out, register, event as u64);
    }
    out
}

fn push_register(out: &mut Vec<u8>, register: &Register, event: u64) {
    push_name(out, register);
    let mut flags = match register.rule {
        Rule::First => 0,
        Rule::Last => RULE_LAST,
    };
    if register.stage != 0 {
        flags |= HAS_STAGE;
    }
    if let Value::Body(body) = &register.value {
        flags |= match body.as_text() {
            Some(text) if needs_escape(text) => KIND_STORED | ESCAPED,
            Some(_) => KIND_STORED,
            None if is_escaped(body) => KIND_STORED | ESCAPED,
            None if is_stored(body) => KIND_STORED,
            None => KIND_REFERENCE,
        };
    }
    out.push(flags);
    if register.stage != 0 {
        out.push(register.stage);
    }
    push_number(out, event);
    match &register.value {
        Value::Json(json) => match known_code(json, register.stamp.time) {
            Some(code) => push_number(out, code),
            None => {
                push_number(out, 0);
                push_text(out, json);
            }
        },
        Value::Body(body) if flags & KIND == KIND_STORED => {
            out.extend_from_slice(body.hash());
            push_number(out, body.characters());
            push_number(out, body.lines());
        }
        Value::Body(body) => push_text(out, body.reference_json().unwrap_or_default()),
    }
}

fn push_name(out: &mut Vec<u8>, register: &Register) {
    let name = &*register.name;
    if let Some(place) = NAMES.iter().position(|known| *known == name) {
        return push_number(out, 1 + place as u64);
    }
    if name.strip_prefix(names::HISTORY_PREFIX) == Some(&*register.stamp.event_id) {
        return push_number(out, OWN_HISTORY);
    }
    for (place, prefix) in PREFIXES.iter().enumerate() {
        if let Some(rest) = name.strip_prefix(prefix) {
            push_number(out, PREFIXED + place as u64);
            return push_text(out, rest);
        }
    }
    push_number(out, 0);
    push_text(out, name);
}

/// Reads a state; bodies become references to [`STORED`].
///
/// # Errors
/// When the bytes are no state, or one of a newer format.
pub(crate) fn read(bytes: &[u8]) -> Result<State, FormError> {
    match bytes.first() {
        Some(&FORMAT) => read_known(&bytes[1..]).ok_or(FormError::Malformed),
        Some(&newer) if newer > FORMAT => Err(FormError::Newer(newer)),
        _ => Err(FormError::Malformed),
    }
}

fn read_known(bytes: &[u8]) -> Option<State> {
    let mut reader = Reader { rest: bytes };
    let count = reader.count()?;
    let mut events = Vec::with_capacity(count);
    for _ in 0..count {
        let time = i64::from_le_bytes(reader.take(8)?.try_into().ok()?);
        events.push(EventStamp::new(time, reader.text()?));
    }
    let count = reader.count()?;
    // Room for what a merge adds.
    let mut state = State::with_capacity(count + 12);
    for _ in 0..count {
        state.set(reader.register(&events)?);
    }
    reader.rest.is_empty().then_some(state)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn register(&mut self, events: &[EventStamp]) -> Option<Register> {
        let name_code = self.number()?;
        let rest = match name_code {
            0 | PREFIXED..OWN_HISTORY => Some(self.text()?),
            _ => None,
        };
        let flags = self.take(1)?[0];
        let stage = if flags & HAS_STAGE == 0 { 0 } else { self.take(1)?[0] };
        let stamp = events.get(usize::try_from(self.number()?).ok()?)?.clone();
        let name = match (name_code, rest) {
            (0, Some(name)) => intern(name),
            (OWN_HISTORY, _) => [names::HISTORY_PREFIX, &stamp.event_id].concat().into(),
            (code, Some(rest)) => {
                let prefix = PREFIXES.get(usize::try_from(code - PREFIXED).ok()?)?;
                [prefix, rest].concat().into()
            }
            (code, None) => intern(NAMES.get(usize::try_from(code).ok()?.checked_sub(1)?)?),
        };
        let rule = if flags & RULE_LAST == 0 { Rule::First } else { Rule::Last };
        let value = match flags & KIND {
            0 => Value::Json(match self.number()? {
                0 => self.text()?.into(),
                code => known_value(code, stamp.time)?,
            }),
            KIND_STORED => Value::Body(Body::reference(Reference {
                sha256: self.take(32)?.try_into().ok()?,
                characters: self.number()?,
                lines: self.number()?,
                location: Some(if flags & ESCAPED == 0 { STORED } else { STORED_ESCAPED }.to_owned()),
                preview: String::new(),
            })),
            KIND_REFERENCE => Value::Body(Body::reference(serde_json::from_str(self.text()?).ok()?)),
            _ => return None,
        };
        Some(Register { name, rule, stage, stamp, value })
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number of things that follow, each of them at least a byte.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= self.rest.len())
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(length)?).ok()
    }
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    push_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// The code of a value that nearly every evaluation has: 1… a status, 9… its line in the history, 16 the event's time.
fn known_code(json: &str, time: i64) -> Option<u64> {
    let quoted = |json: &str| Status::parse(json.strip_prefix('"')?.strip_suffix('"')?);
    if let Some(status) = quoted(json) {
        return Some(u64::from(status.code()));
    }
    if json.len() > 8 && is_decimal(json, time) {
        return Some(OWN_TIME);
    }
    let status = json.strip_prefix("{\"message\":\"")?.split_once("\",\"status\":\"")?.1.split_once('"')?.0;
    let status = Status::parse(status)?;
    (line(status) == json).then(|| 8 + u64::from(status.code()))
}

/// True if a text is what a number is written as, without writing it: this is asked for nearly every register.
fn is_decimal(text: &str, number: i64) -> bool {
    let digits = if number < 0 { text.strip_prefix('-') } else { Some(text) };
    let Some(digits) = digits.filter(|digits| !digits.is_empty()) else { return false };
    let mut rest = number.unsigned_abs();
    let mut is_whole = false;
    for digit in digits.bytes().rev() {
        // A digit in front of all that the number has.
        if is_whole || u64::from(digit) != u64::from(b'0') + rest % 10 {
            return false;
        }
        rest /= 10;
        is_whole = rest == 0;
    }
    is_whole
}

fn known_value(code: u64, time: i64) -> Option<Box<str>> {
    let status = |code: u64| Status::from_code(u8::try_from(code).ok()?);
    Some(match code {
        ..=8 => ["\"", status(code)?.as_str(), "\""].concat().into(),
        OWN_TIME => time.to_string().into(),
        _ => line(status(code - 8)?).into(),
    })
}

/// The line that events of a status have in the history.
fn line(status: Status) -> &'static str {
    macro_rules! changed {
        ($to:literal) => {
            concat!(r#"{"message":"Status changed to "#, $to, r#"","status":""#, $to, r#"","type":"status_changed"}"#)
        };
    }
    match status {
        Status::Submitted => r#"{"message":"Evaluation submitted","status":"submitted","type":"submitted"}"#,
        Status::Queued => changed!("queued"),
        Status::Provisioning => changed!("provisioning"),
        Status::Running => changed!("running"),
        Status::Completed => changed!("completed"),
        Status::Failed => changed!("failed"),
        Status::Cancelled => changed!("cancelled"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A state as it is read again: what was a text is a reference to nowhere.
    fn read_back(state: &State) -> State {
        let mut read = read(&write(state)).expect("a state that was written");
        read.map_bodies(|_, body| {
            let reference = body.as_reference().filter(|_| is_stored(body))?;
            Some(Body::reference(Reference { location: None, ..reference.clone() }))
        });
        read
    }

    fn register() -> impl Strategy<Value = Register> {
        let names = prop::sample::select(
            [&NAMES[..], &["metadata/key", "metadata/", "history/e1", "history/other", "later", ""]].concat(),
        );
        let json = prop_oneof![
            Just("\"completed\"".to_owned()),
            Just("12345678901".to_owned()),
            Just(line(Status::Failed).to_owned()),
            Just(line(Status::Submitted).to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| storage_plugin_api::json::canonical_string(&text)),
        ];
        let value = prop_oneof![
            json.prop_map(|json| Value::Json(json.into())),
            "[a\\x00\n]{0,9}".prop_map(|text| Value::Body(Body::text(text))),
            any::<(u64, Option<String>)>().prop_map(|(characters, location)| {
                let preview = "p".to_owned();
                Value::Body(Body::reference(Reference { characters, lines: 1, location, preview, sha256: [7; 32] }))
            }),
        ];
        let time = prop_oneof![Just(12_345_678_901), any::<i64>()];
        (names, any::<bool>(), any::<u8>(), time, "e[0-9]?", value).prop_map(|(name, last, stage, time, id, value)| {
            let rule = if last { Rule::Last } else { Rule::First };
            Register { name: name.into(), rule, stage, stamp: EventStamp::new(time, id), value }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(registers in prop::collection::vec(register(), 0..20)) {
            let mut state = State::new();
            registers.into_iter().for_each(|register| state.set(register));

            prop_assert_eq!(read_back(&state).to_canonical_json(), state.without_bodies().to_canonical_json());
        }

        #[test]
        fn no_bytes_make_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            bytes.insert(0, FORMAT);

            let _ = read(&bytes);
        }
    }

    #[test]
    fn a_lifecycle_takes_a_few_hundred_bytes() {
        let mut state = State::new();
        for (time, status) in [(1, Status::Queued), (2, Status::Running), (3, Status::Completed)] {
            let stamp =
                EventStamp::new(1_700_000_000_000_000 + time, format!("0b5c0e5c-7f5a-4a6e-9d53-00000000000{time}"));
            state.set_created(&stamp);
            match status.is_terminal() {
                true => state.set_end(&stamp, status),
                false => state.set_open(&stamp, status),
            }
            state.set_text(&stamp, if time == 1 { "code" } else { "completed/output" }, "x".repeat(2000));
            state.set_history(&stamp, "status_changed", status, &format!("Status changed to {status}"));
        }

        assert!(write(&state).len() < 300, "{}", write(&state).len());
    }

    #[test]
    fn every_status_has_the_line_that_its_events_write() {
        let stamp = EventStamp::new(1, "e");
        for code in 1..=7 {
            let (mut state, status) = (State::new(), Status::from_code(code).expect("there are seven"));
            match status {
                Status::Submitted => state.set_history(&stamp, "submitted", status, "Evaluation submitted"),
                _ => state.set_history(&stamp, "status_changed", status, &format!("Status changed to {status}")),
            }

            assert_eq!(state.registers()[0].value.as_json(), Some(line(status)));
        }
    }

    #[test]
    fn a_number_is_known_without_being_written() {
        for number in [0, 7, -7, 10, 1_700_000_000_123_456, i64::MIN, i64::MAX] {
            for other in [&*number.to_string(), "", "-", "-0", "00", "07", "+7", "1", "100", "8", "-70"] {
                assert_eq!(is_decimal(other, number), number.to_string() == other, "{other} {number}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused() {
        assert_eq!(read(&[FORMAT + 1, 0, 0]).expect_err("newer"), FormError::Newer(FORMAT + 1));
        assert_eq!(read(&[]).expect_err("empty"), FormError::Malformed);
    }
}
