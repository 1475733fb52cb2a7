//! Leaves a backend alone that has been unavailable several times in a row, until it may have recovered.
//!
//! Knows nothing of backends or threads: it is told what happened and asked whether a call may go ahead, with the time
//! of both, so that tests need no clock. `guard.rs` decides which calls count.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::config::BreakerConfig;
use super::lock;

/// The circuit breaker of one backend.
#[derive(Debug)]
pub(crate) struct Breaker {
    config: BreakerConfig,
    /// A probe that is not back after so long is given up.
    longest: Duration,
    state: Mutex<State>,
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Calls are answered `Unavailable` at once.
    Open,
    /// One call may pass to find out.
    HalfOpen,
}

impl BreakerState {
    /// The name used in metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What a call that was let through must report when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// One of many.
    Ordinary,
    /// The one that finds out whether the backend is back.
    Probe,
}

/// What a call showed of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign<'a> {
    /// It is there.
    Alive,
    /// It is away, and this is what it said.
    Away(&'a str),
    /// Nothing: the call did not reach it, or its failure has other reasons.
    Nothing,
}

/// Why a call may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What the backend said last.
    pub(crate) reason: String,
    /// When asking again makes sense.
    pub(crate) retry_after: Duration,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        first_failure: Option<Instant>,
    },
    /// `since` is when the first of the failures came.
    Open {
        since: Instant,
        until: Instant,
        delay: Duration,
        reason: String,
        probe: Option<Probe>,
    },
}

/// The call that finds out.
#[derive(Clone, Copy, Debug)]
struct Probe {
    since: Instant,
    /// Its failure will say something, too.
    tells: bool,
}

impl Breaker {
    /// No call should take longer than `longest`.
    pub(crate) fn new(config: BreakerConfig, longest: Duration) -> Self {
        Self { config, longest, state: Mutex::new(State::Closed { failures: 0, first_failure: None }) }
    }

    /// Lets a call pass, or says why not. `tells` is false for a call whose failure says nothing of the backend: its
    /// success does, but it keeps no other from finding out.
    pub(crate) fn admit(&self, now: Instant, tells: bool) -> Result<Admission, Refusal> {
        match &mut *lock(&self.state) {
            State::Closed { .. } => Ok(Admission::Ordinary),
            State::Open { until, reason, probe, .. } => {
                let is_free = probe.is_none_or(|probe| {
                    tells && !probe.tells || now.saturating_duration_since(probe.since) >= self.longest
                });
                if now >= *until && is_free {
                    *probe = Some(Probe { since: now, tells });
                    return Ok(Admission::Probe);
                }
                let retry_after = until.saturating_duration_since(now).max(self.config.open_for / 10);
                Err(Refusal { reason: reason.clone(), retry_after })
            }
        }
    }

    /// Takes note of what an admitted call showed. True if the breaker opened or closed by it.
    pub(crate) fn report(&self, now: Instant, admission: Admission, sign: Sign<'_>) -> bool {
        let mut state = lock(&self.state);
        match (&mut *state, admission, sign) {
            (State::Closed { failures, first_failure }, _, Sign::Away(reason)) => {
                let in_window = first_failure.is_some_and(|first| now.duration_since(first) <= self.config.window);
                if !in_window {
                    (*failures, *first_failure) = (0, Some(now));
                }
                *failures += 1;
                if *failures < self.config.failures {
                    return false;
                }
                let since = first_failure.unwrap_or(now);
                *state = open(since, now, self.config.open_for, reason);
                true
            }
            (State::Closed { failures, first_failure }, _, Sign::Alive) => {
                (*failures, *first_failure) = (0, None);
                false
            }
            (State::Open { since, delay, .. }, Admission::Probe, Sign::Away(reason)) => {
                *state = open(*since, now, delay.saturating_mul(2).min(self.config.max_open_for), reason);
                false
            }
            (State::Open { .. }, _, Sign::Alive) => {
                *state = State::Closed { failures: 0, first_failure: None };
                true
            }
            (State::Open { probe, .. }, Admission::Probe, Sign::Nothing) => {
                *probe = None;
                false
            }
            // Calls that were under way when it opened say nothing new.
            (State::Closed { .. }, _, Sign::Nothing)
            | (State::Open { .. }, Admission::Ordinary, Sign::Away(_) | Sign::Nothing) => false,
        }
    }

    /// True while calls pass.
    pub(crate) fn is_closed(&self) -> bool {
        self.failing_since().is_none()
    }

    /// Since when the backend has been failing; none while calls pass.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        match &*lock(&self.state) {
            State::Closed { .. } => None,
            State::Open { since, .. } => Some(*since),
        }
    }

    /// Where it stands, and while it is not closed what the backend said last.
    pub(crate) fn state(&self, now: Instant) -> (BreakerState, Option<String>) {
        match &*lock(&self.state) {
            State::Closed { .. } => (BreakerState::Closed, None),
            State::Open { until, reason, .. } if now >= *until => (BreakerState::HalfOpen, Some(reason.clone())),
            State::Open { reason, .. } => (BreakerState::Open, Some(reason.clone())),
        }
    }
}

/// Jitter of a quarter keeps workers that lost the same database from coming back in step.
fn open(since: Instant, now: Instant, delay: Duration, reason: &str) -> State {
    let jitter = delay.mul_f64(0.25 * fastrand::f64());
    State::Open { since, until: now + delay + jitter, delay, reason: reason.to_owned(), probe: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        let config = BreakerConfig { failures: 3, window: 10 * SECOND, open_for: SECOND, max_open_for: 4 * SECOND };
        Breaker::new(config, 11 * SECOND)
    }

    fn fail(breaker: &Breaker, now: Instant) -> bool {
        breaker.report(now, Admission::Ordinary, Sign::Away("gone"))
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = breaker();
        for _ in 0..3 {
            fail(&breaker, now);
        }
        breaker
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row() {
        let (breaker, now) = (breaker(), Instant::now());

        assert!(!fail(&breaker, now));
        assert!(!fail(&breaker, now));
        assert!(fail(&breaker, now));

        let refusal = breaker.admit(now, true).expect_err("it is open");
        assert_eq!(refusal.reason, "gone");
        assert!(refusal.retry_after >= SECOND && refusal.retry_after <= SECOND + SECOND / 4);
        assert_eq!(breaker.state(now), (BreakerState::Open, Some("gone".to_owned())));
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let (breaker, now) = (breaker(), Instant::now());

        for sign in [Sign::Away("a"), Sign::Away("a"), Sign::Alive, Sign::Away("a"), Sign::Away("a")] {
            assert!(!breaker.report(now, Admission::Ordinary, sign));
        }

        assert_eq!(breaker.state(now).0, BreakerState::Closed);
    }

    #[test]
    fn failures_further_apart_than_the_window_do_not_add_up() {
        let (breaker, now) = (breaker(), Instant::now());

        for step in 0..9 {
            assert!(!fail(&breaker, now + step * 6 * SECOND));
        }
    }

    #[test]
    fn after_the_delay_one_call_finds_out() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + 2 * SECOND;

        assert_eq!(breaker.state(later).0, BreakerState::HalfOpen);
        assert_eq!(breaker.admit(later, true), Ok(Admission::Probe));
        assert!(breaker.admit(later, true).is_err(), "one at a time");
        assert!(breaker.report(later, Admission::Probe, Sign::Alive));
        assert_eq!(breaker.admit(later, true), Ok(Admission::Ordinary));
        assert_eq!(breaker.failing_since(), None);
    }

    /// A worker that was asked for nothing but lists used to refuse them for good.
    #[test]
    fn a_call_whose_failure_says_nothing_finds_out_too_and_keeps_no_other_from_it() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + 2 * SECOND;
        assert!(breaker.admit(now, false).is_err());

        assert_eq!(breaker.admit(later, false), Ok(Admission::Probe));
        assert!(breaker.admit(later, false).is_err(), "one at a time");
        assert_eq!(breaker.admit(later, true), Ok(Admission::Probe));
        assert!(breaker.admit(later, false).is_err() && breaker.admit(later, true).is_err());
        breaker.report(later, Admission::Probe, Sign::Nothing);
        assert_eq!(breaker.admit(later, false), Ok(Admission::Probe));
        breaker.report(later, Admission::Probe, Sign::Alive);

        assert_eq!(breaker.state(later).0, BreakerState::Closed);
    }

    /// It used to keep the breaker open for good.
    #[test]
    fn a_probe_that_does_not_come_back_is_given_up() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + 2 * SECOND;
        assert_eq!(breaker.admit(later, true), Ok(Admission::Probe));

        assert!(breaker.admit(later + 10 * SECOND, true).is_err(), "it may still come back");
        assert_eq!(breaker.admit(later + 11 * SECOND, true), Ok(Admission::Probe));
        assert!(breaker.admit(later + 12 * SECOND, true).is_err());
    }

    #[test]
    fn a_failed_probe_doubles_the_delay_up_to_the_limit() {
        let mut now = Instant::now();
        let breaker = opened(now);

        let since = now;
        for expected in [2, 4, 4, 4] {
            now += 6 * SECOND;
            assert_eq!(breaker.admit(now, true), Ok(Admission::Probe));
            breaker.report(now, Admission::Probe, Sign::Away("still gone"));
            let wait = breaker.admit(now, true).expect_err("open again").retry_after;
            assert!(wait >= expected * SECOND && wait <= expected * SECOND * 5 / 4, "{wait:?}");
            assert_eq!(breaker.failing_since(), Some(since), "all of it is one outage");
        }
    }

    #[test]
    fn a_probe_that_found_nothing_out_leaves_the_place_to_the_next() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + 2 * SECOND;
        assert_eq!(breaker.admit(later, true), Ok(Admission::Probe));

        breaker.report(later, Admission::Probe, Sign::Nothing);

        assert_eq!(breaker.admit(later, true), Ok(Admission::Probe));
    }
}
