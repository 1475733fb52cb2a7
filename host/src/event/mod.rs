//! From the bytes of a delivery to a state that can be merged. Pure: no I/O, no clock.
//!
//! [`decode`](decode::decode) is the whole of it: it reads the payload once (`payload.rs`, `reader.rs`), finds the ids (`id.rs`) and
//! the time (`time.rs`), and makes registers of what is known. What an event of a channel means is a row of the
//! configuration (`row.rs`); `identity.rs` tells which event it is, even if it is none; why a payload is no event, and under which name that is counted, is in `reject.rs`.

pub mod decode;
pub mod id;
pub mod identity;
mod payload;
mod reader;
pub mod reject;
pub mod row;
pub mod time;

use std::sync::Arc;

use storage_plugin_api::{State, Status};

/// A decoded delivery: what one event says of one evaluation.
#[derive(Clone, Debug)]
pub struct Event {
    /// The evaluation that it is about.
    pub evaluation_id: Arc<str>,
    /// Its own id, unique within the evaluation.
    pub event_id: Arc<str>,
    /// When it happened, in microseconds since 1970-01-01T00:00:00Z.
    pub time: i64,
    /// The status that it tells.
    pub status: Status,
    /// What it says; every register carries its time and id.
    pub state: State,
}
