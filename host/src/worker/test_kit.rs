//! What the unit tests of the worker share.

use std::sync::Arc;

use storage_plugin_api::{EventStamp, State, Status};

use super::taken::{Company, Origin, Taken};
use crate::event::Event;

/// A `queued` event as it is taken.
pub(super) fn taken(evaluation_id: &str, event_id: &str, time: i64) -> Taken {
    let stamp = EventStamp::new(time, event_id);
    let mut state = State::new();
    state.set_open(&stamp, Status::Queued);
    state.set_created(&stamp);
    state.set_history(&stamp, "queued", Status::Queued, "");
    let event_id = Arc::from(event_id);
    let event = Event { evaluation_id: evaluation_id.into(), event_id, time, status: Status::Queued, state };
    let origin = Origin {
        channel: "evaluation:queued".into(),
        payload: Vec::new(),
        received_at: time,
        source: 0,
        token: None,
        is_letter: false,
    };
    Taken::new(event, "storage:evaluation:created".into(), origin, Company::Joined)
}
