//! Runs code that may hang or panic on a thread of its own, and waits for it only so long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::gate::{drop_caught, panic_message};

/// How often a wait looks whether it shall stop.
const STEP: Duration = Duration::from_millis(20);

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Missed {
    /// It is not back yet; its thread is left behind.
    Late,
    /// It panicked, and this is what it said.
    Panicked(String),
    /// The caller wants to wait no longer.
    Stopped,
    /// The system gave no thread.
    NoThread(std::io::Error),
}

/// Runs `work` and waits at most `limit`, or until `stop` says so. What comes later is given to `abandoned`.
pub(crate) fn within<T: Send + 'static>(
    name: &str,
    limit: Duration,
    stop: &dyn Fn() -> bool,
    work: impl FnOnce() -> T + Send + 'static,
    abandoned: impl FnOnce(T) + Send + 'static,
) -> Result<T, Missed> {
    let (sender, receiver) = sync_channel(0);
    let deadline = Instant::now() + limit;
    let run = move || {
        let result = catch_unwind(AssertUnwindSafe(work)).map_err(panic_message);
        if let Err(unsent) = sender.send(result)
            && let Ok(late) = unsent.0
        {
            drop_caught(catch_unwind(AssertUnwindSafe(|| abandoned(late))));
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Missed::NoThread)?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(STEP)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(message)) => return Err(Missed::Panicked(message)),
            Err(RecvTimeoutError::Disconnected) => return Err(Missed::Panicked("its thread ended".to_owned())),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Missed::Late),
            Err(RecvTimeoutError::Timeout) if stop() => return Err(Missed::Stopped),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_result_in_time_is_returned() {
        assert!(matches!(within("work", LONG, &|| false, || 7, drop), Ok(7)));
    }

    #[test]
    fn a_panic_is_returned_with_its_message() {
        let missed = within("work", LONG, &|| false, || panic!("no {}", 7), drop::<()>);

        assert!(matches!(missed, Err(Missed::Panicked(message)) if message == "no 7"));
    }

    #[test]
    fn what_comes_too_late_is_abandoned() {
        let (release, wait) = channel::<()>();
        let (told, late) = channel();
        let work = move || wait.recv().map_or(0, |()| 7);

        let missed = within("work", Duration::from_millis(1), &|| false, work, move |value| {
            told.send(value).expect("the test waits");
        });

        assert!(matches!(missed, Err(Missed::Late)));
        release.send(()).expect("the work waits");
        assert_eq!(late.recv_timeout(LONG), Ok(7));
    }

    #[test]
    fn a_wait_can_be_stopped() {
        let (_held, wait) = channel::<()>();

        let missed = within("work", LONG, &|| true, move || wait.recv().is_ok(), |_| ());

        assert!(matches!(missed, Err(Missed::Stopped)));
    }
}
