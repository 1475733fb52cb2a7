//! What several fuzz targets make of their bytes.

use std::sync::LazyLock;

use storage_plugin_api::State;
use storage_worker::event::Event;
use storage_worker::event::decode::{Arrival, Limits, decode};
use storage_worker::event::reject::Reject;
use storage_worker::event::row::EventRows;

static ROWS: LazyLock<EventRows> = LazyLock::new(EventRows::default);

/// Decodes a payload as of the built-in channel that the first byte chooses; none if there is no byte.
pub fn event(data: &[u8]) -> Option<Result<Event, Reject>> {
    let (choice, payload) = data.split_first()?;
    let row = ROWS.iter().nth(usize::from(*choice) % ROWS.iter().count())?;
    let arrival = Arrival { received_at: 1_700_000_000_000_000, entry_time: None, event_id: None };
    let limits = Limits { max_payload_bytes: 1 << 20 };
    Some(decode(&row.channel, row, payload, arrival, &limits))
}

/// The form in which a state is stored and crosses the plugin boundary must give the same state again.
pub fn assert_kept(state: &State) {
    let text = state.to_canonical_json();
    let read = State::from_json(&text).expect("what was written can be read");
    assert_eq!(read.to_canonical_json(), text);
}
