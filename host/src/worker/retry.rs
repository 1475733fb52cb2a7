//! Decides what happens to events that a backend did not take, and when they are tried again.
//!
//! An outage is waited out, however long it takes; only what an event alone is guilty of makes it a dead letter.
//! `lane.rs` carries it out.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use storage_plugin_api::{Error, ErrorKind};

use super::taken::{Company, Taken};

/// How often an event may alone be answered `internal`, while others pass, before it is given up.
const STRIKES: u32 = 2;
/// The longest hint of a backend that is honoured.
const LONGEST_HINT: Duration = Duration::from_secs(60);

/// What happens to an event that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again after a pause.
    Later,
    /// It is tried again at once, with less company.
    Apart,
    /// It will never be taken.
    Bury,
}

/// What an error was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// This one event.
    Event,
    /// An item that it was joined into.
    Item,
    /// A whole call, with other items in it.
    Call,
}

/// What the other events of a round say of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    /// There were none.
    Absent,
    /// None of them was taken either.
    Failed,
    /// Some were taken.
    Passed,
}

/// Decides on one event that was not taken.
pub(super) fn judge(taken: &mut Taken, kind: ErrorKind, scope: Scope, witness: Witness) -> Verdict {
    taken.attempts = taken.attempts.saturating_add(1);
    match kind {
        ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => Verdict::Later,
        ErrorKind::InvalidItem => match scope {
            Scope::Event => Verdict::Bury,
            Scope::Item => apart(taken, Company::Beside),
            Scope::Call => apart(taken, Company::Alone),
        },
        ErrorKind::Internal => match scope {
            Scope::Event => strike(taken, witness),
            Scope::Item => apart(taken, Company::Beside),
            Scope::Call => apart(taken, Company::Alone),
        },
    }
}

/// When nothing else passes either it is an outage and no event's fault, and what was held against it before may have
/// been the outage's beginning.
fn strike(taken: &mut Taken, witness: Witness) -> Verdict {
    match witness {
        Witness::Absent => {}
        Witness::Failed => taken.strikes = 0,
        Witness::Passed => taken.strikes += 1,
    }
    if taken.strikes < STRIKES { Verdict::Later } else { Verdict::Bury }
}

fn apart(taken: &mut Taken, company: Company) -> Verdict {
    taken.company = taken.company.max(company);
    Verdict::Apart
}

/// The pauses between attempts: they grow to a limit, are jittered, and never end.
#[derive(Debug)]
pub(super) struct Backoff {
    delays: ExponentialBackoff,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    pub(super) fn new(initial: Duration, max: Duration) -> Self {
        let delays = ExponentialBuilder::new()
            .with_min_delay(initial.min(max))
            // The jitter adds up to as much again.
            .with_max_delay(max / 2)
            .with_jitter()
            .without_max_times()
            .build();
        Self { delays, max, attempts: 0 }
    }

    /// How often it paused.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long to wait before the next attempt; at least as long as the far side asked for.
    pub(super) fn pause(&mut self, error: &Error) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let delay = self.delays.next().unwrap_or(self.max).min(self.max);
        error.retry_after.map_or(delay, |hint| delay.max(hint.min(LONGEST_HINT)))
    }

    /// Whether this attempt is worth a line in the log: the first three, then about one a minute at the longest pause.
    pub(super) fn is_worth_a_line(&self) -> bool {
        self.attempts <= 3 || self.attempts.is_multiple_of(12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::test_kit::taken;

    #[test]
    fn what_may_pass_is_tried_again_for_ever() {
        let mut event = taken("a", "1", 1);
        for kind in [ErrorKind::Unavailable, ErrorKind::Overloaded, ErrorKind::Configuration] {
            for scope in [Scope::Event, Scope::Item, Scope::Call] {
                for witness in [Witness::Absent, Witness::Failed, Witness::Passed] {
                    assert_eq!(judge(&mut event, kind, scope, witness), Verdict::Later);
                }
            }
        }
        assert_eq!((event.attempts, event.strikes, event.company), (27, 0, Company::Joined));
    }

    #[test]
    fn a_refused_item_is_tried_event_by_event_and_a_refused_event_is_buried() {
        let mut event = taken("a", "1", 1);

        assert_eq!(judge(&mut event, ErrorKind::InvalidItem, Scope::Item, Witness::Passed), Verdict::Apart);
        assert_eq!(event.company, Company::Beside);
        assert_eq!(judge(&mut event, ErrorKind::InvalidItem, Scope::Event, Witness::Absent), Verdict::Bury);
    }

    #[test]
    fn internal_is_an_outage_until_others_pass_twice_in_a_row() {
        let mut event = taken("a", "1", 1);
        let mut internal = |witness| judge(&mut event, ErrorKind::Internal, Scope::Event, witness);

        for witness in [Witness::Failed, Witness::Absent, Witness::Passed, Witness::Failed, Witness::Passed] {
            assert_eq!(internal(witness), Verdict::Later, "{witness:?}");
        }
        assert_eq!(internal(Witness::Absent), Verdict::Later);
        assert_eq!(internal(Witness::Passed), Verdict::Bury);
    }

    #[test]
    fn a_call_that_fails_as_a_whole_is_tried_again_in_calls_of_one() {
        let mut event = taken("a", "1", 1);

        assert_eq!(judge(&mut event, ErrorKind::Internal, Scope::Call, Witness::Passed), Verdict::Apart);
        assert_eq!((event.company, event.strikes), (Company::Alone, 0));
    }

    #[test]
    fn pauses_grow_to_the_limit_and_honour_hints() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let error = Error::unavailable("gone");

        let first = backoff.pause(&error);
        assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&first), "{first:?}");
        for _ in 0..20 {
            assert!(backoff.pause(&error) <= Duration::from_secs(5));
        }
        assert!(backoff.pause(&error) >= Duration::from_millis(2500));
        let asked = Error::overloaded("busy").with_retry_after(Duration::from_secs(7));
        assert_eq!(backoff.pause(&asked), Duration::from_secs(7));
    }
}
