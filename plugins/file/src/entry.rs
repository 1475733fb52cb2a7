//! One entry of the log: its bytes, and how they are read back.
//!
//! ```text
//! length u32 · crc32 u32 · body            (little-endian; the checksum is that of the body)
//! body:     kind u8 · id · registers       kind 1: merge; kind 2: delete, without registers
//! register: flags u8 · stage u8 · time i64 · event id, unless it is the last one's · name · value · hash, if known
//! text:     length u32 · UTF-8 bytes
//! ```
//! Binary and not the stored form, so that writing it neither escapes nor hashes a body: the log is on the way of every
//! merge, and only read after a crash. `log.rs` keeps the files.

use std::sync::Arc;

use storage_plugin_api::{Body, EventStamp, Hash, Item, Reference, Register, Rule, State, Value, ValueKind, names};

/// Bytes before the body.
pub(crate) const HEADER_BYTES: usize = 8;

const KIND_MERGE: u8 = 1;
const KIND_DELETE: u8 = 2;

const FLAG_LAST: u8 = 1;
const FLAG_TEXT: u8 = 2;
const FLAG_REFERENCE: u8 = 4;
const FLAG_SAME_EVENT: u8 = 8;
const FLAG_HASH: u8 = 16;

/// What an entry says.
#[derive(Debug)]
pub(crate) enum Entry {
    /// The registers of this state were merged into the evaluation.
    Merge { id: String, state: State },
    /// The evaluation was deleted.
    Delete { id: String },
}

/// Appends the entry of a merge.
pub(crate) fn push_merge(out: &mut Vec<u8>, item: &Item<'_>) {
    let start = begin(out, KIND_MERGE, item.id());
    let mut last_id = None;
    for register in item.registers() {
        let hash = register.known_hash().filter(|_| register.kind() == ValueKind::Text);
        let mut flags = match register.kind() {
            ValueKind::Json => 0,
            ValueKind::Text => FLAG_TEXT,
            ValueKind::Reference => FLAG_REFERENCE,
        };
        if register.rule() == Rule::Last {
            flags |= FLAG_LAST;
        }
        if last_id == Some(register.event_id()) {
            flags |= FLAG_SAME_EVENT;
        }
        if hash.is_some() {
            flags |= FLAG_HASH;
        }
        out.extend([flags, register.stage()]);
        out.extend(register.time().to_le_bytes());
        if last_id != Some(register.event_id()) {
            push_text(out, register.event_id());
            last_id = Some(register.event_id());
        }
        push_text(out, register.name());
        push_text(out, register.value());
        if let Some(hash) = hash {
            out.extend(hash);
        }
    }
    end(out, start);
}

/// Appends the entry of a delete.
pub(crate) fn push_delete(out: &mut Vec<u8>, id: &str) {
    let start = begin(out, KIND_DELETE, id);
    end(out, start);
}

/// The length and the checksum of the body that follows a header.
pub(crate) fn read_header(header: [u8; HEADER_BYTES]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = header;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

/// Reads the body of an entry; none if it is not what was written.
pub(crate) fn read_body(body: &[u8], checksum: u32) -> Option<Entry> {
    if crc32fast::hash(body) != checksum {
        return None;
    }
    let mut reader = Reader { rest: body };
    let kind = reader.byte()?;
    let id = reader.text()?.to_owned();
    match kind {
        KIND_MERGE => {
            let mut state = State::new();
            let mut event_id: Arc<str> = "".into();
            while !reader.rest.is_empty() {
                state.set(reader.register(&mut event_id)?);
            }
            Some(Entry::Merge { id, state })
        }
        KIND_DELETE => reader.rest.is_empty().then_some(Entry::Delete { id }),
        _ => None,
    }
}

fn begin(out: &mut Vec<u8>, kind: u8, id: &str) -> usize {
    let start = out.len();
    out.extend([0; HEADER_BYTES]);
    out.push(kind);
    push_text(out, id);
    start
}

fn end(out: &mut [u8], start: usize) {
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body.len()).expect("a payload is limited to far less than 4 GiB");
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let length = u32::try_from(text.len()).expect("a payload is limited to far less than 4 GiB");
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes());
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        std::str::from_utf8(self.take(length as usize)?).ok()
    }

    fn register(&mut self, event_id: &mut Arc<str>) -> Option<Register> {
        let flags = self.byte()?;
        let stage = self.byte()?;
        let time = i64::from_le_bytes(self.take(8)?.try_into().ok()?);
        if flags & FLAG_SAME_EVENT == 0 {
            *event_id = self.text()?.into();
        }
        let name = names::intern(self.text()?);
        let text = self.text()?;
        let hash: Option<Hash> = if flags & FLAG_HASH == 0 { None } else { Some(self.take(32)?.try_into().ok()?) };
        let value = match (flags & FLAG_TEXT != 0, flags & FLAG_REFERENCE != 0) {
            (true, _) => Value::Body(hash.map_or_else(|| Body::text(text), |hash| Body::text_with_hash(text, hash))),
            (false, true) => Value::Body(Body::reference(serde_json::from_str::<Reference>(text).ok()?)),
            (false, false) => Value::Json(text.into()),
        };
        let rule = if flags & FLAG_LAST == 0 { Rule::First } else { Rule::Last };
        Some(Register { name, rule, stage, stamp: EventStamp { time, event_id: Arc::clone(event_id) }, value })
    }
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::{Status, with_items};

    use super::*;

    fn sample() -> State {
        let mut state = State::new();
        let queued = EventStamp::new(1_000_000, "q-1");
        state.set_open(&queued, Status::Queued);
        state.set_text(&queued, names::CODE, "print('ü\0')");
        state.set_metadata(&queued, "n", "1.50");
        state.set_history(&queued, "queued", Status::Queued, "Queued");
        let completed = EventStamp::new(-5, "c-1");
        state.set_end(&completed, Status::Completed);
        state.set(Register {
            name: "completed/output".into(),
            rule: Rule::First,
            stage: 0,
            stamp: completed,
            value: Value::Body(Body::text("elsewhere").without_text()),
        });
        state
    }

    #[test]
    fn a_merge_is_read_as_it_was_written() {
        let state = sample();
        let mut bytes = Vec::new();

        with_items(&[("a", &state)], |batch| push_merge(&mut bytes, &batch[0]));

        let (header, body) = bytes.split_at(HEADER_BYTES);
        let (length, checksum) = read_header(header.try_into().expect("a header"));
        assert_eq!(length, body.len());
        let Some(Entry::Merge { id, state: read }) = read_body(body, checksum) else { panic!("a merge") };
        assert_eq!((&*id, read.to_canonical_json()), ("a", state.to_canonical_json()));
    }

    #[test]
    fn a_changed_byte_is_found() {
        let mut bytes = Vec::new();
        push_delete(&mut bytes, "evaluation-1");

        for index in 4..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            let (header, body) = changed.split_at(HEADER_BYTES);
            let (_, checksum) = read_header(header.try_into().expect("a header"));
            assert!(read_body(body, checksum).is_none(), "{index}");
        }
    }
}
