//! What the worker has taken from a source and not settled yet.

use std::sync::Arc;

use super::queue::Held;
use crate::event::Event;
use crate::source::{Delivery, Token};

/// Room that an event takes beside its payload and the state made of it, in bytes: registers, ids, and places in queues.
const OVERHEAD_BYTES: usize = 1024;

/// An event that was taken, with all that is needed to settle it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) event: Event,
    /// The channel of its confirmation.
    pub(super) confirm: Arc<str>,
    pub(super) origin: Origin,
    /// How many calls failed with it.
    pub(super) attempts: u32,
    /// How often it alone was answered `internal` while others passed.
    pub(super) strikes: u32,
    pub(super) company: Company,
}

/// With what else an event is merged; it gets less company after each failure that may be its own fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Company {
    /// Joined with the other events of its evaluation.
    Joined,
    /// An item of its own among others.
    Beside,
    /// A call of its own.
    Alone,
}

/// The delivery behind an event: kept whole, since a dead letter carries the original bytes.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) channel: Arc<str>,
    pub(super) payload: Vec<u8>,
    pub(super) received_at: i64,
    /// Which of the worker's sources it came from.
    pub(super) source: usize,
    pub(super) token: Option<Token>,
    /// It is a dead letter already, and somebody keeps it.
    pub(super) is_letter: bool,
}

impl Origin {
    pub(super) fn of(delivery: Delivery, source: usize) -> Self {
        let Delivery { channel, payload, received_at, token, is_letter, .. } = delivery;
        Self { channel, payload, received_at, source, token, is_letter }
    }

    /// What it takes of the budget.
    pub(super) fn held(&self) -> Held {
        Held { events: 1, bytes: cost_bytes(self.payload.len()) }
    }
}

/// What an event takes of the budget: its payload, as much again for the state made of it, and the rest.
pub(super) fn cost_bytes(payload_bytes: usize) -> usize {
    2 * payload_bytes + OVERHEAD_BYTES
}

impl Taken {
    pub(super) fn new(event: Event, confirm: Arc<str>, origin: Origin, company: Company) -> Self {
        Self { event, confirm, origin, attempts: 0, strikes: 0, company }
    }
}
