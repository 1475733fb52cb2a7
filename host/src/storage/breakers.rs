//! The two circuit breakers of a backend: one for the calls that read, one for those that write.

use std::time::{Duration, Instant};

use super::breaker::{Breaker, BreakerState};
use super::config::BreakerConfig;
use super::kind::Kind;

/// Apart, since a store on a full disk can be read, and a read that passes does not show that there is room again.
#[derive(Debug)]
pub(crate) struct Breakers {
    reads: Breaker,
    writes: Breaker,
}

impl Breakers {
    /// No call should take longer than `longest`.
    pub(crate) fn new(config: &BreakerConfig, longest: Duration) -> Self {
        let breaker = || Breaker::new(config.clone(), longest);
        Self { reads: breaker(), writes: breaker() }
    }

    /// The one that a call of this kind passes.
    pub(crate) fn of(&self, kind: Kind) -> &Breaker {
        if kind.reads { &self.reads } else { &self.writes }
    }

    /// Where they stand together: as the one that is further from closed, with the reason of that one.
    pub(crate) fn state(&self, now: Instant) -> (BreakerState, Option<String>) {
        let (reads, writes) = (self.reads.state(now), self.writes.state(now));
        if rank(reads.0) > rank(writes.0) { reads } else { writes }
    }

    /// Since when either has kept calls back.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        self.reads.failing_since().into_iter().chain(self.writes.failing_since()).min()
    }
}

fn rank(state: BreakerState) -> u8 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    }
}
