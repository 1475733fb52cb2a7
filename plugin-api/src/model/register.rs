//! One named value of a state, and what decides between two values of one name.
//!
//! The order is total and equal only for equal things, so the greater of two registers does not depend on who asks.
//! `state.rs` applies it to whole states.

use std::cmp::Ordering;
use std::sync::Arc;

use super::body::{Body, Hash, Reference, sha256};
use super::names::{Name, intern};
use crate::abi::RegisterRef;

/// Which register of a name is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The one of the smallest rank.
    First,
    /// The one of the largest rank.
    Last,
}

impl Rule {
    /// The number that crosses the plugin boundary.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::First => 0,
            Self::Last => 1,
        }
    }

    /// The rule of a number that crossed the plugin boundary; 0 is `first`, all else `last`.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        if code == 0 { Self::First } else { Self::Last }
    }

    /// `first` or `last`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// When and by which event a register was set. With the value's hash it is the register's *rank*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventStamp {
    /// Microseconds since 1970-01-01T00:00:00Z; may be negative in a state that was not decoded by us.
    pub time: i64,
    /// The event's id, unique within its evaluation.
    pub event_id: Arc<str>,
}

impl EventStamp {
    /// A stamp from its parts.
    #[must_use]
    pub fn new(time: i64, event_id: impl Into<Arc<str>>) -> Self {
        Self { time, event_id: event_id.into() }
    }
}

/// What a register holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// Any JSON, in canonical form.
    Json(Box<str>),
    /// A long text, or a reference to one.
    Body(Body),
}

impl Value {
    /// The value as JSON; none for a body.
    #[must_use]
    pub fn as_json(&self) -> Option<&str> {
        match self {
            Self::Json(json) => Some(json),
            Self::Body(_) => None,
        }
    }

    /// About how much memory the value holds, beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Json(json) => json.len(),
            Self::Body(body) => match (body.as_text(), body.reference_json()) {
                (Some(text), _) => text.len(),
                (None, Some(json)) => size_of::<Reference>() + 2 * json.len(),
                (None, None) => 0,
            },
        }
    }

    /// The body; none for JSON.
    #[must_use]
    pub fn as_body(&self) -> Option<&Body> {
        match self {
            Self::Json(_) => None,
            Self::Body(body) => Some(body),
        }
    }
}

/// One named value of a state, with its rule and rank.
#[derive(Clone, Debug)]
pub struct Register {
    /// The name; unique within a state.
    pub name: Name,
    /// Which of two registers of this name is kept.
    pub rule: Rule,
    /// Stands between time and event id in the rank; 0 but for `open`, where it is the stage.
    pub stage: u8,
    /// When and by which event it was set.
    pub stamp: EventStamp,
    /// What it holds.
    pub value: Value,
}

impl Register {
    /// The register as it crosses the plugin boundary, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> RegisterRef<'_> {
        RegisterRef::of(self)
    }
}

/// How the value of a borrowed register is to be read. The list is closed for all of 1.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueKind {
    /// Canonical JSON.
    Json,
    /// A body's text.
    Text,
    /// The JSON of a [`Reference`] to a body.
    Reference,
}

impl ValueKind {
    /// The number that crosses the plugin boundary.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Text => 1,
            Self::Reference => 2,
        }
    }

    /// The kind of a number that crossed the plugin boundary.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Text,
            2 => Self::Reference,
            _ => Self::Json,
        }
    }
}

/// True if `challenger` takes the place of `holder`, both of one name.
///
/// `first` beats `last`, should two programs disagree on a name's rule: so the order stays total.
/// Of two registers of equal rank, which hold equal things, the more whole one is kept: a text beats a reference to it.
#[must_use]
pub(crate) fn wins(challenger: &RegisterRef<'_>, holder: &Register) -> bool {
    let rules = challenger.rule().cmp(&holder.rule);
    if rules != Ordering::Equal {
        return rules == Ordering::Less;
    }
    let ranks = compare_ranks(challenger, holder);
    match (ranks, challenger.rule()) {
        (Ordering::Equal, _) => compare_wholeness(challenger, holder) == Ordering::Less,
        (Ordering::Less, Rule::First) | (Ordering::Greater, Rule::Last) => true,
        (Ordering::Less, Rule::Last) | (Ordering::Greater, Rule::First) => false,
    }
}

/// Orders by time, stage, event id and, only on a tie, the hash of the value.
fn compare_ranks(a: &RegisterRef<'_>, b: &Register) -> Ordering {
    a.time()
        .cmp(&b.stamp.time)
        .then_with(|| a.stage().cmp(&b.stage))
        .then_with(|| a.event_id().cmp(&b.stamp.event_id))
        .then_with(|| compare_values(a, &b.value))
}

/// Orders by hash, but looks first whether the values are the same: a repeated event ends here.
fn compare_values(a: &RegisterRef<'_>, b: &Value) -> Ordering {
    match b {
        Value::Json(json) if a.kind() == ValueKind::Json => {
            if a.value() == &**json {
                return Ordering::Equal;
            }
            sha256(a.value().as_bytes()).cmp(&sha256(json.as_bytes()))
        }
        Value::Body(body) if matches!(a.kind(), ValueKind::Text | ValueKind::Reference) => {
            if a.kind() == ValueKind::Text && body.as_text() == Some(a.value()) {
                return Ordering::Equal;
            }
            a.hash().cmp(body.hash())
        }
        // A name holds bodies or it does not; should two programs disagree, JSON comes first.
        Value::Json(_) => Ordering::Greater,
        Value::Body(_) => Ordering::Less,
    }
}

/// Orders representations of one body: the text, then references with a place (by their JSON), then those without one.
fn compare_wholeness(a: &RegisterRef<'_>, b: &Register) -> Ordering {
    let Value::Body(body) = &b.value else { return Ordering::Equal };
    let (Some(held), Some(held_json)) = (body.as_reference(), body.reference_json()) else { return Ordering::Greater };
    match a.kind() {
        ValueKind::Text => Ordering::Less,
        ValueKind::Reference => match parse_reference(a.value()) {
            Some(offered) => (offered.location.is_none(), a.value()).cmp(&(held.location.is_none(), held_json)),
            None => Ordering::Greater,
        },
        ValueKind::Json => Ordering::Greater,
    }
}

fn parse_reference(json: &str) -> Option<Reference> {
    serde_json::from_str(json).ok()
}

/// The owned form of a borrowed register; none if it is a reference that cannot be read.
#[must_use]
pub(crate) fn to_owned(register: &RegisterRef<'_>, event_id: Arc<str>) -> Option<Register> {
    let value = match register.kind() {
        ValueKind::Json => Value::Json(register.value().into()),
        ValueKind::Text => Value::Body(match register.known_hash() {
            Some(hash) => Body::text_with_hash(register.value(), hash),
            None => Body::text(register.value()),
        }),
        ValueKind::Reference => Value::Body(Body::reference(parse_reference(register.value())?)),
    };
    Some(Register {
        name: intern(register.name()),
        rule: register.rule(),
        stage: register.stage(),
        stamp: EventStamp { time: register.time(), event_id },
        value,
    })
}

/// The hash of a borrowed body.
pub(crate) fn hash_of(register: &RegisterRef<'_>) -> Hash {
    match (register.known_hash(), register.kind()) {
        (Some(hash), _) => hash,
        (None, ValueKind::Reference) => {
            parse_reference(register.value()).map_or_else(|| sha256(register.value().as_bytes()), |found| found.sha256)
        }
        (None, ValueKind::Json | ValueKind::Text) => sha256(register.value().as_bytes()),
    }
}
