//! Events, a line each, give the same state in every order and grouping, and however often they come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use storage_plugin_api::State;
use storage_worker_fuzz::{assert_kept, event};

const MOST: usize = 12;

fn joined<'a>(states: impl Iterator<Item = &'a State>) -> State {
    let mut all = State::new();
    for state in states {
        all.merge(state);
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|byte| *byte == b'\n').take(MOST);
    let states: Vec<State> = lines.filter_map(event).filter_map(Result::ok).map(|event| event.state).collect();
    let all = joined(states.iter());
    let text = all.to_canonical_json();

    assert_eq!(joined(states.iter().rev()).to_canonical_json(), text, "in another order");
    let (left, right) = states.split_at(states.len() / 2);
    let grouped = joined([&joined(right.iter()), &joined(left.iter())].into_iter());
    assert_eq!(grouped.to_canonical_json(), text, "in groups");
    let mut again = all.clone();
    assert!(!states.iter().any(|state| again.merge(state)), "a repeat says that it changed something");
    assert_eq!(again.to_canonical_json(), text, "repeated");
    assert_kept(&all);
});
