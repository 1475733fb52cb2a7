//! An entry of a stream, and what it becomes: the channel of an event and its payload, as pub/sub would have brought it.
//!
//! Two forms: the event as JSON in one field beside that of the channel, or the event's own fields. The second becomes
//! the JSON object of these fields, so that both forms and pub/sub give the same event the same id. Beside the JSON the
//! first form may hold the id and the time that travelled with the event, as a bridge adds it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use redis::{Cmd, cmd};
use serde_json::value::RawValue;
use storage_plugin_api::format_time;

use crate::source::config::StreamsConfig;

/// The id of an entry: milliseconds, and a number within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId {
    pub(super) milliseconds: u64,
    pub(super) sequence: u64,
}

impl EntryId {
    /// Before every entry.
    pub(super) const ZERO: Self = Self { milliseconds: 0, sequence: 0 };

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (milliseconds, sequence) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { milliseconds: milliseconds.parse().ok()?, sequence: sequence.parse().ok()? })
    }

    /// The id before it.
    pub(super) fn previous(self) -> Self {
        match self {
            Self { milliseconds: 0, sequence: 0 } => self,
            Self { milliseconds, sequence: 0 } => Self { milliseconds: milliseconds - 1, sequence: u64::MAX },
            Self { milliseconds, sequence } => Self { milliseconds, sequence: sequence - 1 },
        }
    }

    /// When it was added, in microseconds since 1970; the sequence tells entries of a millisecond apart.
    pub(super) fn time(self) -> Option<i64> {
        let micros = i64::try_from(self.milliseconds).ok()?.checked_mul(1000)?;
        micros.checked_add(i64::try_from(self.sequence.min(999)).ok()?)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.milliseconds, self.sequence)
    }
}

/// A field of an entry and its value.
pub(super) type Field = (Vec<u8>, Vec<u8>);

/// The fields of what travelled with an event, beside its JSON.
const EVENT_ID_FIELD: &[u8] = b"event_id";
const TIME_FIELD: &[u8] = b"time";

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Empty if the entry names none.
    pub(super) channel: Arc<str>,
    pub(super) payload: Vec<u8>,
    /// What travelled with the event.
    pub(super) event_id: Option<Arc<str>>,
    /// In microseconds since 1970.
    pub(super) time: Option<i64>,
}

/// Adds events to a stream in the first form.
#[derive(Clone, Debug)]
pub struct EntryForm {
    channel_field: String,
    data_field: String,
}

impl EntryForm {
    /// With the names of the fields that the configuration says.
    #[must_use]
    pub fn new(config: &StreamsConfig) -> Self {
        Self { channel_field: config.channel_field.clone(), data_field: config.data_field.clone() }
    }

    /// The command that adds an event. `carried` is its id and time where these travel with it; `max_entries` is about
    /// how many entries the stream keeps.
    #[must_use]
    pub fn add(
        &self,
        stream: &str,
        max_entries: Option<u64>,
        channel: &str,
        payload: &[u8],
        carried: Option<(&str, i64)>,
    ) -> Cmd {
        let mut command = cmd("XADD");
        command.arg(stream);
        if let Some(entries) = max_entries {
            command.arg("MAXLEN").arg("~").arg(entries);
        }
        command.arg("*").arg(&self.channel_field).arg(channel).arg(&self.data_field).arg(payload);
        if let Some((event_id, time)) = carried {
            command.arg(EVENT_ID_FIELD).arg(event_id).arg(TIME_FIELD).arg(format_time(time));
        }
        command
    }
}

/// An entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    /// None if the entry was removed from the stream after it was delivered.
    pub(super) fields: Option<Vec<Field>>,
}

impl Entry {
    /// How many bytes its fields hold.
    pub(super) fn bytes(&self) -> usize {
        self.fields.iter().flatten().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// Reads the fields of entries.
#[derive(Debug)]
pub(super) struct Forms {
    channel_field: Vec<u8>,
    data_field: Vec<u8>,
    json_fields: Vec<Vec<u8>>,
    integer_fields: Vec<Vec<u8>>,
    channels: HashMap<Box<[u8]>, Arc<str>>,
}

impl Forms {
    /// `channels` are those that are expected, so that their names are kept once.
    pub(super) fn new(config: &StreamsConfig, channels: impl IntoIterator<Item = String>) -> Self {
        let bytes = |names: &[String]| names.iter().map(|name| name.clone().into_bytes()).collect();
        Self {
            channel_field: config.channel_field.clone().into_bytes(),
            data_field: config.data_field.clone().into_bytes(),
            json_fields: bytes(&config.json_fields),
            integer_fields: bytes(&config.integer_fields),
            channels: channels.into_iter().map(|channel| (channel.as_bytes().into(), Arc::from(&*channel))).collect(),
        }
    }

    /// What an entry says.
    pub(super) fn read(&self, mut fields: Vec<Field>) -> Message {
        let named = fields.iter().position(|(name, _)| *name == self.channel_field);
        let channel = named.map(|index| fields.remove(index).1).unwrap_or_default();
        let channel =
            self.channels.get(&*channel).map_or_else(|| Arc::from(&*String::from_utf8_lossy(&channel)), Arc::clone);
        let is_one_of_three = |name: &Vec<u8>| [&self.data_field, EVENT_ID_FIELD, TIME_FIELD].contains(&&**name);
        let data = fields.iter().position(|(name, _)| *name == self.data_field);
        let Some(data) = data.filter(|_| fields.iter().all(|(name, _)| is_one_of_three(name))) else {
            return Message { channel, payload: self.object(&fields), event_id: None, time: None };
        };
        let payload = fields.swap_remove(data).1;
        let text = |wanted: &[u8]| {
            let value = fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| std::str::from_utf8(value));
            value.and_then(Result::ok)
        };
        let time = text(TIME_FIELD).and_then(|text| text.parse::<Timestamp>().ok()).map(Timestamp::as_microsecond);
        let time = time.filter(|time| *time >= 0);
        Message { channel, payload, event_id: text(EVENT_ID_FIELD).map(Arc::from), time }
    }

    /// The JSON object of the fields. Bytes that are no UTF-8 stay as they are, for a later reader to refuse.
    fn object(&self, fields: &[Field]) -> Vec<u8> {
        let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        let mut out = Vec::with_capacity(size + 2);
        out.push(b'{');
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_string(&mut out, name);
            out.push(b':');
            let is_json = self.json_fields.contains(name) && is_object(value)
                || self.integer_fields.contains(name) && is_integer(value);
            if is_json { out.extend_from_slice(value) } else { push_string(&mut out, value) }
        }
        out.push(b'}');
        out
    }
}

/// An object of JSON. What is none is taken for a text, as any other value would be.
fn is_object(value: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(value).is_ok_and(|value| value.get().starts_with('{'))
}

/// An integer as JSON writes one: no sign but a minus, no zeros in front.
fn is_integer(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let is_canonical = !digits.starts_with(b"0") || digits.len() == 1;
    !digits.is_empty() && is_canonical && digits.iter().all(u8::is_ascii_digit)
}

fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> (String, String) {
        let forms = Forms::new(&StreamsConfig::default(), ["evaluation:queued".to_owned()]);
        let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        let Message { channel, payload, event_id, time } = forms.read(fields);
        assert_eq!((event_id, time), (None, None));
        (channel.to_string(), String::from_utf8(payload).expect("UTF-8"))
    }

    #[test]
    fn one_field_of_json_is_the_payload_as_it_is() {
        for fields in [
            [("channel", "evaluation:queued"), ("data", "{ no json")],
            [("data", "{ no json"), ("channel", "evaluation:queued")],
        ] {
            assert_eq!(read(&fields), ("evaluation:queued".to_owned(), "{ no json".to_owned()));
        }
    }

    #[test]
    fn what_travelled_with_an_event_is_read_as_it_was_added() {
        let config = StreamsConfig::default();
        let carried = Some(("of the bridge", 1_700_000_000_123_456));
        let command = EntryForm::new(&config).add("s", None, "c", b"{}", carried);
        let arguments: Vec<Vec<u8>> = command
            .args_iter()
            .map(|argument| match argument {
                redis::Arg::Simple(bytes) => bytes.to_vec(),
                _ => panic!("a command of texts"),
            })
            .collect();
        let fields = arguments[3..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();

        let message = Forms::new(&config, []).read(fields);

        let event_id = Some(Arc::from("of the bridge"));
        let expected = Message { channel: "c".into(), payload: b"{}".to_vec(), event_id, time: carried.map(|c| c.1) };
        assert_eq!(message, expected);
    }

    #[test]
    fn fields_become_an_object() {
        let read = |fields: &[(&str, &str)]| read(&[&[("channel", "c")], fields].concat()).1;

        assert_eq!(read(&[("eval_id", "a"), ("code", "x\n\"\\\0é")]), r#"{"eval_id":"a","code":"x\u000a\"\\\u0000é"}"#);
        assert_eq!(read(&[("exit_code", "-1"), ("runtime_ms", "0")]), r#"{"exit_code":-1,"runtime_ms":0}"#);
        assert_eq!(read(&[("exit_code", "01"), ("runtime_ms", "")]), r#"{"exit_code":"01","runtime_ms":""}"#);
        assert_eq!(read(&[("output", "42"), ("timeout", "30")]), r#"{"output":"42","timeout":"30"}"#);
        assert_eq!(read(&[("metadata", r#"{"a": [1.50]}"#)]), r#"{"metadata":{"a": [1.50]}}"#);
        assert_eq!(read(&[("metadata", "[1]")]), r#"{"metadata":"[1]"}"#);
        assert_eq!(read(&[("metadata", r#"{"a":1},"x":{"#)]), r#"{"metadata":"{\"a\":1},\"x\":{"}"#);
        assert_eq!(read(&[("event_id", "e"), ("eval_id", "a")]), r#"{"event_id":"e","eval_id":"a"}"#);
        assert_eq!(read(&[("data", "1"), ("x", "2")]), r#"{"data":"1","x":"2"}"#);
        assert_eq!(read(&[]), "{}");
    }

    #[test]
    fn an_entry_that_names_no_channel_has_an_empty_one() {
        assert_eq!(read(&[("data", "{}")]), (String::new(), "{}".to_owned()));
    }

    #[test]
    fn ids_are_ordered_and_tell_the_time() {
        let id = |text: &str| EntryId::parse(text.as_bytes()).expect("an id");

        assert!(id("5-10") > id("5-9") && id("6-0") > id("5-10"));
        assert_eq!(id("5-0").previous(), EntryId { milliseconds: 4, sequence: u64::MAX });
        assert_eq!((id("5-3").previous(), id("0-0").previous()), (id("5-2"), EntryId::ZERO));
        assert_eq!((id("5-3").time(), id("5-4000").time()), (Some(5003), Some(5999)));
        assert_eq!(id("18446744073709551615-1").time(), None);
        assert_eq!(id("5-3").to_string(), "5-3");
        assert_eq!(EntryId::parse(b"5"), None);
    }
}
