//! What is stored of an evaluation, and the one operation that changes it: [`State::merge`](crate::State::merge).
//!
//! An event says a part of an evaluation: `queued` knows the code, `completed` knows the output. So an event *is* a
//! small state, and storing it is a join: commutative, associative, idempotent. Duplicates do no harm, order does not
//! matter, replay is merging again.
//!
//! # A worked example
//! Three events arrive in the wrong order, one of them twice. The state comes out the same as if they had come in order.
//! ```
//! use storage_plugin_api::{EventStamp, Record, State, Status, names};
//!
//! // Each event becomes a state whose registers all carry the event's time and id (its rank).
//! let mut queued = State::new();
//! let stamp = EventStamp::new(1_000_000, "q-1");
//! queued.set_open(&stamp, Status::Queued);
//! queued.set_text(&stamp, names::CODE, "print(42)");
//! queued.set_created(&stamp);
//!
//! let mut completed = State::new();
//! let stamp = EventStamp::new(3_000_000, "c-1");
//! completed.set_end(&stamp, Status::Completed);
//! completed.set_text(&stamp, "completed/output", "42\n");
//! completed.set_created(&stamp);
//!
//! let mut in_order = State::new();
//! in_order.merge(&queued);
//! in_order.merge(&completed);
//! let mut mixed_up = State::new();
//! for event in [&completed, &queued, &completed] {
//!     mixed_up.merge(event);
//! }
//! assert_eq!(in_order.to_canonical_json(), mixed_up.to_canonical_json());
//!
//! // People see a view of the state: `first` registers kept the earliest, `last` registers the latest.
//! let record = Record::of("demo", &mixed_up);
//! assert_eq!(record.status, Some(Status::Completed));
//! assert_eq!(record.created_at, Some(1_000_000));
//! assert_eq!(record.output.as_deref(), Some("42\n"));
//! assert_eq!(record.success, Some(true));
//! ```
//! Read next: `register.rs` (what decides between two values), `state.rs` (the merge), `record.rs` (the view).

#[cfg(feature = "adopt")]
pub(crate) mod adopt;
pub mod body;
pub mod json;
pub mod names;
pub(crate) mod record;
pub(crate) mod register;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod stored;
