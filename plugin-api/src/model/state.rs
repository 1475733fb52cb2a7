//! A state: the registers of one evaluation, and the merge of two.
//!
//! `register.rs` decides between two registers of one name; `stored.rs` reads and writes the stored form.

use std::cmp::Ordering;
use std::sync::Arc;

use super::body::{Body, Hash, sha256};
use super::names::{self, HISTORY_PREFIX, MAX_HISTORY, Name};
use super::register::{EventStamp, Register, Rule, Value, to_owned, wins};
use super::status::Status;
use super::{json, stored};
use crate::abi::RegisterRef;

/// What is stored of one evaluation: registers by name.
///
/// # Behavior
/// - Merging is commutative, associative and idempotent: any order, repetition and grouping of the same events gives
///   the same [`to_canonical_json`](Self::to_canonical_json), byte for byte.
/// - At most [`MAX_HISTORY`] history registers are kept, those of the smallest ranks.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Sorted by name, each name once.
    registers: Vec<Register>,
}

impl State {
    /// The state of which nothing is known. Merging it changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A state of which nothing is known yet, with room for some registers.
    #[must_use]
    pub fn with_capacity(registers: usize) -> Self {
        Self { registers: Vec::with_capacity(registers) }
    }

    /// Takes over what another state knows. True if that changed this one.
    pub fn merge(&mut self, other: &Self) -> bool {
        self.merge_registers(other.registers.iter().map(Register::as_ref))
    }

    /// Takes over registers, say those of an [`Item`](crate::Item). True if that changed this state.
    ///
    /// Copies only what wins; a body that is not taken over is never copied, nor hashed but on a tie.
    pub fn merge_registers<'a>(&mut self, registers: impl ExactSizeIterator<Item = RegisterRef<'a>>) -> bool {
        // A state is kept for long and grows seldom: no room to spare, but for one with much history.
        if self.registers.len() < 64 && self.registers.len() + registers.len() > self.registers.capacity() {
            self.registers.reserve_exact(registers.len());
        }
        let may_exceed_history = self.registers.len() + registers.len() > MAX_HISTORY;
        let mut added = Added { registers: Vec::new(), is_deferred: registers.len() > Added::FEW };
        let mut changed = false;
        let mut history = Vec::new();
        // The registers of one event follow each other and share its id.
        let mut last_id: Option<Arc<str>> = None;
        for register in registers {
            if !added.precede(register.name()) {
                added.put_into(&mut self.registers);
            }
            let slot = self.find(register.name());
            if let Ok(index) = slot
                && !wins(&register, &self.registers[index])
            {
                continue;
            }
            let event_id = match last_id {
                Some(id) if *id == *register.event_id() => id,
                _ => self.shared_event_id(register.event_id()),
            };
            last_id = Some(Arc::clone(&event_id));
            let Some(owned) = to_owned(&register, event_id) else { continue };
            if may_exceed_history && owned.name.starts_with(HISTORY_PREFIX) {
                history.push(owned.name.clone());
            } else {
                changed = true;
            }
            match slot {
                Ok(index) => self.registers[index] = owned,
                Err(_) if added.is_deferred => added.registers.push(owned),
                Err(index) => self.registers.insert(index, owned),
            }
        }
        added.put_into(&mut self.registers);
        if !history.is_empty() {
            self.drop_excess_history();
        }
        // What came may be just what was dropped again.
        changed || history.iter().any(|name| self.find(name).is_ok())
    }

    /// True if nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty()
    }

    /// The registers, sorted by name.
    #[must_use]
    pub fn registers(&self) -> &[Register] {
        &self.registers
    }

    /// The register of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Register> {
        self.find(name).ok().map(|index| &self.registers[index])
    }

    /// The registers whose names begin with a prefix, sorted by name.
    #[must_use]
    pub fn with_prefix(&self, prefix: &str) -> &[Register] {
        let start = self.registers.partition_point(|register| *register.name < *prefix);
        let rest = &self.registers[start..];
        &rest[..rest.partition_point(|register| register.name.starts_with(prefix))]
    }

    /// The canonical JSON of the state: its stored form, in which equal states have equal bytes.
    #[must_use]
    pub fn to_canonical_json(&self) -> String {
        stored::write(self)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When it is not the stored form of a state, or of a format newer than this version knows.
    pub fn from_json(text: &str) -> Result<Self, stored::StoredError> {
        stored::read(text)
    }

    /// SHA-256 of the canonical JSON.
    #[must_use]
    pub fn digest(&self) -> Hash {
        sha256(self.to_canonical_json().as_bytes())
    }

    /// About how much memory the state takes, in bytes; for stores that are bounded by it.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let mut last_id: *const u8 = std::ptr::null();
        let mut bytes = size_of::<Self>() + self.registers.capacity() * size_of::<Register>();
        for register in &self.registers {
            bytes += register.value.memory_bytes();
            if let Name::Owned(name) = &register.name {
                bytes += name.len();
            }
            // The registers of one event share its id.
            if register.stamp.event_id.as_ptr() != last_id {
                last_id = register.stamp.event_id.as_ptr();
                bytes += register.stamp.event_id.len();
            }
        }
        bytes
    }

    /// The state with every body replaced by a reference to nowhere, as reads answer that leave bodies out.
    #[must_use]
    pub fn without_bodies(&self) -> Self {
        let mut copy = self.clone();
        for register in &mut copy.registers {
            if let Value::Body(body) = &register.value {
                register.value = Value::Body(body.without_text());
            }
        }
        copy
    }

    /// Replaces each body by what a function makes of it; layers use it to move bodies elsewhere and back.
    ///
    /// The function must give a body of the same text or a reference to it, never another one.
    pub fn map_bodies(&mut self, mut replace: impl FnMut(&str, &Body) -> Option<Body>) {
        for register in &mut self.registers {
            if let Value::Body(body) = &register.value
                && let Some(other) = replace(&register.name, body)
            {
                debug_assert_eq!(other.hash(), body.hash(), "a body is replaced by another form of itself");
                register.value = Value::Body(other);
            }
        }
    }

    /// Sets a register, unless the one that is there wins.
    pub fn set(&mut self, register: Register) {
        match self.find(&register.name) {
            Ok(index) => {
                if wins(&register.as_ref(), &self.registers[index]) {
                    self.registers[index] = register;
                }
            }
            Err(index) => self.registers.insert(index, register),
        }
    }

    /// Says that the evaluation was seen in a status that is not terminal.
    pub fn set_open(&mut self, stamp: &EventStamp, status: Status) {
        self.put(stamp, Name::Borrowed(names::OPEN), Rule::Last, status.code(), string(status.as_str()));
    }

    /// Says that the evaluation ended in a terminal status.
    pub fn set_end(&mut self, stamp: &EventStamp, status: Status) {
        self.put(stamp, names::end(status), Rule::First, 0, string(status.as_str()));
    }

    /// Says that an event of this time exists; the earliest is when the evaluation was created.
    pub fn set_created(&mut self, stamp: &EventStamp) {
        self.put(stamp, Name::Borrowed(names::CREATED_AT), Rule::First, 0, number(stamp.time));
    }

    /// Says when the evaluation reached a stage; the earliest time is kept.
    pub fn set_stage_at(&mut self, stamp: &EventStamp, status: Status) {
        self.put(stamp, names::stage_at(status), Rule::First, 0, number(stamp.time));
    }

    /// Sets a body, of which the earliest is kept. An empty text says nothing and is left out.
    pub fn set_text(&mut self, stamp: &EventStamp, name: &str, text: impl Into<Arc<str>>) {
        let text = text.into();
        if !text.is_empty() {
            self.put(stamp, names::intern(name), Rule::First, 0, Value::Body(Body::text(text)));
        }
    }

    /// Sets a short text, of which the earliest is kept. An empty text says nothing and is left out.
    pub fn set_string(&mut self, stamp: &EventStamp, name: &str, text: &str) {
        if !text.is_empty() {
            self.put(stamp, names::intern(name), Rule::First, 0, string(text));
        }
    }

    /// Sets a number, of which the earliest is kept.
    pub fn set_number(&mut self, stamp: &EventStamp, name: &str, value: i64) {
        self.put(stamp, names::intern(name), Rule::First, 0, number(value));
    }

    /// Sets a top-level key of the metadata, of which the latest is kept. The value is canonical JSON.
    pub fn set_metadata(&mut self, stamp: &EventStamp, key: &str, canonical: impl Into<Box<str>>) {
        let name = Name::Owned([names::METADATA_PREFIX, key].concat());
        self.put(stamp, name, Rule::Last, 0, Value::Json(canonical.into()));
    }

    /// Adds the event's line to the history.
    pub fn set_history(&mut self, stamp: &EventStamp, kind: &str, status: Status, message: &str) {
        let mut value = String::with_capacity(37 + kind.len() + status.as_str().len() + message.len());
        value.push_str("{\"message\":");
        json::push_string(&mut value, message);
        value.push_str(",\"status\":\"");
        value.push_str(status.as_str());
        value.push_str("\",\"type\":");
        json::push_string(&mut value, kind);
        value.push('}');
        let name = Name::Owned([HISTORY_PREFIX, &stamp.event_id].concat());
        self.put(stamp, name, Rule::First, 0, Value::Json(value.into()));
    }

    fn put(&mut self, stamp: &EventStamp, name: Name, rule: Rule, stage: u8, value: Value) {
        self.set(Register { name, rule, stage, stamp: stamp.clone(), value });
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        // Registers come sorted, so a new one mostly goes behind all others.
        let start = beginning(name);
        let order =
            |register: &Register| beginning(&register.name).cmp(&start).then_with(|| (*register.name).cmp(name));
        match self.registers.last() {
            Some(last) if order(last) == Ordering::Less => Err(self.registers.len()),
            _ => self.registers.binary_search_by(order),
        }
    }

    /// An id that a register of this state holds already is shared, so a state names each event once in memory too.
    fn shared_event_id(&self, event_id: &str) -> Arc<str> {
        let held = self.registers.iter().rev().take(8).find(|register| *register.stamp.event_id == *event_id);
        held.map_or_else(|| event_id.into(), |register| Arc::clone(&register.stamp.event_id))
    }

    fn drop_excess_history(&mut self) {
        let start = self.registers.partition_point(|register| *register.name < *HISTORY_PREFIX);
        let history = &self.registers[start..start + self.with_prefix(HISTORY_PREFIX).len()];
        if history.len() <= MAX_HISTORY {
            return;
        }
        let mut order: Vec<usize> = (0..history.len()).collect();
        order.select_nth_unstable_by(MAX_HISTORY, |a, b| history_order(&history[*a], &history[*b]));
        let mut is_kept = vec![true; history.len()];
        for index in &order[MAX_HISTORY..] {
            is_kept[*index] = false;
        }
        let mut index = 0;
        self.registers.retain(|_| {
            index += 1;
            (index - 1_usize).checked_sub(start).and_then(|place| is_kept.get(place)).copied().unwrap_or(true)
        });
    }
}

/// The first eight bytes of a name as a number, which orders names as their bytes do but for ties. Most names differ here,
/// and a look at a register is most of what a merge costs.
fn beginning(name: &str) -> u64 {
    let mut bytes = [0; 8];
    let length = name.len().min(8);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    u64::from_be_bytes(bytes)
}

/// Registers of new names that wait to be put into a state together, so that many cost no more each than a few.
struct Added {
    /// Sorted by name, each name once.
    registers: Vec<Register>,
    is_deferred: bool,
}

impl Added {
    /// So many registers are better put in one by one.
    const FEW: usize = 64;

    /// True if every name that waits comes before this one.
    fn precede(&self, name: &str) -> bool {
        self.registers.last().is_none_or(|last| *last.name < *name)
    }

    fn put_into(&mut self, registers: &mut Vec<Register>) {
        if !self.registers.is_empty() {
            registers.append(&mut self.registers);
            // Two sorted runs, which the stable sort finds and merges.
            registers.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }
}

/// Orders history entries by how worth keeping they are: as [`wins`] does for one name, so that a register that takes
/// the place of another never moves back, and keeping the first so many is a join.
///
/// Entries of one state differ in the name, so the value's hash is never needed to order them.
fn history_order(a: &Register, b: &Register) -> Ordering {
    a.rule.cmp(&b.rule).then_with(|| {
        let rank = |register: &Register| (register.stamp.time, register.stage);
        let ranks = rank(a).cmp(&rank(b)).then_with(|| a.stamp.event_id.cmp(&b.stamp.event_id));
        let ranks = ranks.then_with(|| a.name.cmp(&b.name));
        if a.rule == Rule::First { ranks } else { ranks.reverse() }
    })
}

pub(crate) fn string(text: &str) -> Value {
    Value::Json(json::canonical_string(text).into())
}

fn number(value: i64) -> Value {
    Value::Json(value.to_string().into())
}
