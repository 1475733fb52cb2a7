//! Any payload is an event, always the same one, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_plugin_api::Record;
use storage_worker_fuzz::{assert_kept, event};

fuzz_target!(|data: &[u8]| {
    let Some(Ok(first)) = event(data) else { return };
    let again = event(data).and_then(Result::ok).expect("it was an event before");
    assert_eq!((&first.event_id, first.state.digest()), (&again.event_id, again.state.digest()));
    assert_kept(&first.state);
    let _ = Record::of(&first.evaluation_id, &first.state);
});
