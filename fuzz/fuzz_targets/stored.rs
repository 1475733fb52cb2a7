//! What a backend gives back may be anything: it is read as a state that is written the same way, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_plugin_api::{Record, State};
use storage_worker_fuzz::assert_kept;

fuzz_target!(|text: &str| {
    let Ok(state) = State::from_json(text) else { return };
    assert_kept(&state);
    let _ = Record::of("a", &state);
    let mut again = state.clone();
    assert!(!again.merge(&state));
});
