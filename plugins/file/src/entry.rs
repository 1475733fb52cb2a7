//! What is appended to the log at once, a *frame* of entries: its bytes, and how they are read back.
//!
//! ```text
//! frame:    length u32 · checksum u32 · entries   (little-endian; crc32 of the entries, mixed with the segment's number)
//! entry:    kind u8 · id · count u32 · registers  kind 1: merge; kind 2: delete, without registers
//! register: flags u8 · stage u8 · time i64 · event id, unless it is the last one's · name · value · hash, if known
//! text:     length u32 · UTF-8 bytes
//! ```
//! Binary and not the stored form, so that writing it neither escapes nor hashes a body: the log is on the way of every
//! merge, and only read after a crash. `log.rs` appends frames, `replay.rs` reads them.

use std::sync::Arc;

use storage_plugin_api::{Body, EventStamp, Hash, Item, Reference, Register, Rule, State, Value, ValueKind, names};

/// Bytes before the entries of a frame. As many zeros tell that no frame follows.
pub(crate) const FRAME_HEADER: usize = 8;

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

/// Entries that are appended at once.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The header, the entries and the mark that no frame follows.
    bytes: Vec<u8>,
}

impl Frame {
    /// A frame without entries, with room for so many bytes of them.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut frame = Vec::with_capacity(bytes + 2 * FRAME_HEADER);
        frame.extend([0; FRAME_HEADER]);
        Self { bytes: frame }
    }

    /// Adds that an item was merged.
    pub(crate) fn push_merge(&mut self, item: &Item<'_>) {
        let out = &mut self.bytes;
        push_head(out, KIND_MERGE, item.id(), item.registers().len());
        let mut last_id = None;
        for register in item.registers() {
            let hash = register.known_hash().filter(|_| register.kind() == ValueKind::Text);
            let is_same_event = last_id == Some(register.event_id());
            let kind = match register.kind() {
                ValueKind::Json => 0,
                ValueKind::Text => FLAG_TEXT,
                ValueKind::Reference => FLAG_REFERENCE,
            };
            let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
            let flags = kind
                | flag(register.rule() == Rule::Last, FLAG_LAST)
                | flag(is_same_event, FLAG_SAME_EVENT)
                | flag(hash.is_some(), FLAG_HASH);
            out.extend([flags, register.stage()]);
            out.extend(register.time().to_le_bytes());
            if !is_same_event {
                push_text(out, register.event_id());
                last_id = Some(register.event_id());
            }
            push_text(out, register.name());
            push_text(out, register.value());
            if let Some(hash) = hash {
                out.extend(hash);
            }
        }
    }

    /// Adds that an evaluation was deleted.
    pub(crate) fn push_delete(&mut self, id: &str) {
        push_head(&mut self.bytes, KIND_DELETE, id, 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEADER
    }

    /// The frame ready to be written, but for the number of its segment.
    pub(crate) fn seal(mut self) -> Sealed {
        let length = self.bytes.len();
        let checksum = crc32fast::hash(&self.bytes[FRAME_HEADER..]);
        self.bytes[..4].copy_from_slice(&to_u32(length - FRAME_HEADER).to_le_bytes());
        self.bytes.extend([0; FRAME_HEADER]);
        Sealed { bytes: self.bytes, checksum }
    }
}

/// A frame that only lacks the number of its segment.
#[derive(Debug)]
pub(crate) struct Sealed {
    bytes: Vec<u8>,
    checksum: u32,
}

impl Sealed {
    /// The bytes to write into a segment: the frame, and the mark that none follows.
    pub(crate) fn bytes_for(&mut self, segment: u64) -> &[u8] {
        self.bytes[4..FRAME_HEADER].copy_from_slice(&(self.checksum ^ mix(segment)).to_le_bytes());
        &self.bytes
    }

    /// How far the next frame stands behind the beginning of this one.
    pub(crate) fn length(&self) -> u64 {
        (self.bytes.len() - FRAME_HEADER) as u64
    }
}

/// The length and the checksum of the entries that follow a header.
pub(crate) fn read_header(header: [u8; FRAME_HEADER]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = header;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

/// Reads the entries of a frame; none if they are not what was written into this segment.
pub(crate) fn read_entries(entries: &[u8], checksum: u32, segment: u64) -> Option<Vec<Entry>> {
    if crc32fast::hash(entries) ^ mix(segment) != checksum {
        return None;
    }
    let mut reader = Reader { rest: entries };
    let mut read = Vec::new();
    while !reader.rest.is_empty() {
        read.push(reader.entry()?);
    }
    Some(read)
}

/// Differs between segments: the file of a segment is used again, and what it held before must not be taken for its own.
fn mix(segment: u64) -> u32 {
    (segment as u32).wrapping_mul(0x9e37_79b1)
}

fn push_head(out: &mut Vec<u8>, kind: u8, id: &str, count: usize) {
    out.push(kind);
    push_text(out, id);
    out.extend(to_u32(count).to_le_bytes());
}

fn to_u32(length: usize) -> u32 {
    u32::try_from(length).expect("a batch is limited to far less than 4 GiB")
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend(to_u32(text.len()).to_le_bytes());
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

    fn number(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn entry(&mut self) -> Option<Entry> {
        let kind = self.byte()?;
        let id = self.text()?.to_owned();
        let count = self.number()?;
        match kind {
            KIND_MERGE => {
                let mut state = State::new();
                let mut event_id: Arc<str> = "".into();
                for _ in 0..count {
                    state.set(self.register(&mut event_id)?);
                }
                Some(Entry::Merge { id, state })
            }
            KIND_DELETE if count == 0 => Some(Entry::Delete { id }),
            _ => None,
        }
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

    fn read(bytes: &[u8], segment: u64) -> Option<Vec<Entry>> {
        let (header, rest) = bytes.split_first_chunk()?;
        let (length, checksum) = read_header(*header);
        read_entries(rest.get(..length)?, checksum, segment)
    }

    #[test]
    fn a_merge_is_read_as_it_was_written() {
        let state = sample();
        let mut frame = Frame::with_capacity(0);

        with_items(&[("a", &state)], |batch| frame.push_merge(&batch[0]));
        frame.push_delete("b");

        let entries = read(frame.seal().bytes_for(7), 7).expect("whole");
        let [Entry::Merge { id, state: read }, Entry::Delete { id: deleted }] = &entries[..] else {
            panic!("a merge and a delete: {entries:?}")
        };
        assert_eq!((&**id, read.to_canonical_json()), ("a", state.to_canonical_json()));
        assert_eq!(deleted, "b");
    }

    #[test]
    fn a_changed_byte_and_another_segment_are_found() {
        let mut frame = Frame::with_capacity(0);
        frame.push_delete("evaluation-1");
        let mut sealed = frame.seal();
        let length = usize::try_from(sealed.length()).expect("small");
        let bytes = sealed.bytes_for(7).to_vec();

        assert!(read(&bytes, 7).is_some());
        assert!(read(&bytes, 8).is_none());
        for index in 0..length {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(read(&changed, 7).is_none(), "{index}");
        }
    }
}
