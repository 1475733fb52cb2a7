//! Waiting for a state, with a limit.

use std::time::{Duration, Instant};

/// Asks again and again until there is an answer, and gives it.
///
/// # Panics
/// When there is none within the limit; the text says what was waited for.
#[track_caller]
pub fn eventually_some<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not within the limit; the text says what was waited for.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(limit, what, || condition().then_some(()));
}
