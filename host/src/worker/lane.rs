//! A lane: a queue of events of some evaluations, and the thread that merges them.
//!
//! A lane that is free takes what is there, and while it is busy the next batch grows. It keeps what a backend did not
//! take and tries it again, as `retry.rs` decides; meanwhile its queue fills, and in the end the sources are not read.
//! What alone is not taken, while the backend answers, goes to `aside.rs`.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use storage_plugin_api::{Answer, Call, Error, ErrorKind, Outcome};
use tracing::{error, info, warn};

use super::aside::Aside;
use super::dead_letter::DeadLetter;
use super::gather::{self, Item};
use super::queue::{Held, LaneQueue};
use super::retry::{Backoff, Scope, Verdict, Witness, judge};
use super::served::Served;
use super::settle::{ByResult, Confirmations, MergeResult, Receipt};
use super::taken::{Company, Taken};
use super::{Shared, source_now};
use crate::event::identity::Identity;

/// How long beyond its deadline a call may take before its lane counts as stuck.
const STUCK_GRACE: Duration = Duration::from_secs(2);

/// So many calls of one event each may fail before it counts as an outage, and the rest is not even tried.
const PROBES: usize = 16;

/// What other threads see of a lane.
#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) queue: LaneQueue,
    started: Instant,
    /// When the call under way is overdue, in microseconds since `started`; 0 if there is none.
    overdue_at: AtomicU64,
    /// When the oldest event in the lane's hands was received; 0 if there is none.
    oldest: AtomicI64,
    /// Events in the lane's hands, or set aside.
    in_hand: AtomicUsize,
    retrying: Mutex<Option<Error>>,
}

impl LaneState {
    pub(super) fn new() -> Self {
        Self {
            queue: LaneQueue::default(),
            started: Instant::now(),
            overdue_at: AtomicU64::new(0),
            oldest: AtomicI64::new(0),
            in_hand: AtomicUsize::new(0),
            retrying: Mutex::new(None),
        }
    }

    /// A call did not come back in time, and is still away.
    pub(super) fn is_stuck(&self) -> bool {
        let overdue_at = self.overdue_at.load(Ordering::Acquire);
        overdue_at != 0 && self.elapsed() > overdue_at
    }

    /// When the oldest event that this lane has not settled was received.
    pub(super) fn oldest(&self) -> Option<i64> {
        let in_hand = Some(self.oldest.load(Ordering::Relaxed)).filter(|oldest| *oldest != 0);
        in_hand.into_iter().chain(self.queue.oldest()).min()
    }

    /// Whether more than one event waits for this lane.
    pub(super) fn holds_several(&self) -> bool {
        self.in_hand.load(Ordering::Relaxed) + self.queue.len() > 1
    }

    /// Why the lane is waiting for its next attempt.
    pub(super) fn retrying(&self) -> Option<Error> {
        self.retrying.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_retrying(&self, error: Option<&Error>) {
        *self.retrying.lock().unwrap_or_else(PoisonError::into_inner) = error.cloned();
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// The thread's side of a lane.
#[derive(Debug)]
pub(super) struct Lane {
    index: usize,
    state: Arc<LaneState>,
    shared: Arc<Shared>,
    /// What is in the lane's hands.
    events: Vec<Taken>,
    aside: Aside,
}

/// What becomes of an event after a call that it was in.
#[derive(Debug)]
enum Fate {
    /// It was in no call of this round, or is tried again.
    Stays,
    Persisted(Receipt),
    Failed(Error, Scope),
    /// The backend is there, and cannot take it now.
    Aside(Error),
}

impl Lane {
    pub(super) fn new(index: usize, state: Arc<LaneState>, shared: Arc<Shared>) -> Self {
        let aside = Aside::new(index, (shared.config.retry_initial, shared.config.retry_max));
        Self { index, state, shared, events: Vec::new(), aside }
    }

    /// Merges until the queue is closed and nothing is left, or the worker gives up.
    pub(super) fn run(mut self) {
        while self.gather() && self.settle_all() {}
    }

    /// Waits for events, or until it is time for those that were set aside. False if there will be none.
    fn gather(&mut self) -> bool {
        let limit = self.shared.batch_limit;
        self.aside.take_due(&mut self.events, limit);
        self.state.queue.gather(&mut self.events, limit, self.aside.due())
    }

    /// Tries until nothing is left in hand. False if the worker gives up.
    fn settle_all(&mut self) -> bool {
        let config = &self.shared.config;
        let mut backoff = Backoff::new(config.retry_initial, config.retry_max);
        while !self.events.is_empty() {
            self.show();
            let outcome = self.round();
            self.aside.settle();
            let Some(error) = outcome else { continue };

            self.state.set_retrying(Some(&error));
            let pause = backoff.pause(&error);
            self.log_retry(&error, &backoff, pause);
            if !self.pause(&error, pause) {
                return false;
            }
        }
        if backoff.attempts() > 0 {
            info!(lane = self.index, attempts = backoff.attempts(), "backend takes events again");
        }
        self.state.set_retrying(self.aside.error());
        self.show();
        true
    }

    /// Lets other threads see what is in hand.
    fn show(&self) {
        let oldest = self.events.iter().map(|taken| taken.origin.received_at).chain(self.aside.oldest()).min();
        self.state.oldest.store(oldest.unwrap_or_default(), Ordering::Relaxed);
        let in_hand = self.events.len() + self.aside.len();
        self.state.in_hand.store(in_hand, Ordering::Relaxed);
    }

    /// Waits for the next round. False if the worker gives up.
    fn pause(&mut self, error: &Error, pause: Duration) -> bool {
        let queue = &self.state.queue;
        if error.kind != ErrorKind::Internal {
            return queue.pause(pause);
        }
        // Whether it is an event's fault shows only in company, so a lone one waits for others rather than for time.
        let least = pause.min(self.shared.config.retry_initial);
        let until_due = self.aside.due().map(|due| due.saturating_duration_since(Instant::now()));
        let pause = until_due.map_or(pause, |until_due| pause.min(until_due)).max(least);
        let goes_on = queue.pause(least) && (self.events.len() > 1 || queue.pause_until_events(pause - least));
        self.aside.take_due(&mut self.events, self.shared.batch_limit);
        queue.gather_more(&mut self.events, self.shared.batch_limit);
        goes_on
    }

    /// Merges everything in hand once: what may be together in one call, the rest one by one.
    ///
    /// What was taken is settled and leaves. Returns an error if the lane should pause before the next round.
    fn round(&mut self) -> Option<Error> {
        let attempt = self.events.iter().map(|taken| taken.attempts).max().unwrap_or_default();
        let served = self.shared.slot.current();
        let mut fates: Vec<Fate> = self.events.iter().map(|_| Fate::Stays).collect();
        let together = gather::items(&self.events);
        let mut goes_on = together.is_empty() || self.merge(&served, &together, attempt, &mut fates);
        let mut probes = 0;
        for index in 0..self.events.len() {
            if goes_on && self.events[index].company == Company::Alone {
                goes_on = self.merge(&served, &[Item::single(index)], attempt, &mut fates);
                probes += 1;
                goes_on &= probes < PROBES || fates.iter().any(|fate| matches!(fate, Fate::Persisted(_)));
            }
        }
        self.settle(&served, fates)
    }

    /// Makes one call and notes what it says of each event. False if further calls would fail the same way.
    fn merge(&self, served: &Served, items: &[Item], attempt: u32, fates: &mut [Fate]) -> bool {
        let answers = self.call(served, items, attempt);
        let answers = answers.and_then(|answers| match answers.len() == items.len() {
            true => Ok(answers),
            false => Err(Error::internal(format_args!("it gave {} answers to {} items", answers.len(), items.len()))),
        });
        match answers {
            Ok(answers) => {
                let rejected = answers.iter().any(|answer| matches!(answer.outcome, Outcome::Rejected(_)));
                self.shared.counters.failed_calls.add(usize::from(rejected));
                for (item, answer) in items.iter().zip(answers) {
                    self.note(item, answer, fates);
                }
                true
            }
            Err(error) => {
                self.shared.counters.failed_calls.add(1);
                for item in items {
                    let scope = if items.len() > 1 { Scope::Call } else { scope_of(item) };
                    for (index, _) in item.events() {
                        fates[index] = Fate::Failed(error.clone(), scope);
                    }
                }
                matches!(error.kind, ErrorKind::Internal | ErrorKind::InvalidItem)
            }
        }
    }

    fn call(&self, served: &Served, items: &[Item], attempt: u32) -> Result<Vec<Answer>, Error> {
        let timeout = served.call_timeout;
        let call = Call { deadline: Instant::now() + timeout, attempt };
        let overdue_after = u64::try_from((timeout + STUCK_GRACE).as_micros()).unwrap_or(u64::MAX);
        self.state.overdue_at.store(self.state.elapsed().saturating_add(overdue_after), Ordering::Release);
        let answers = gather::lend(items, &self.events, |batch| served.backend.merge(&call, batch));
        self.state.overdue_at.store(0, Ordering::Release);
        answers
    }

    fn note(&self, item: &Item, answer: Answer, fates: &mut [Fate]) {
        if let Outcome::Rejected(error) = answer.outcome {
            for (index, _) in item.events() {
                fates[index] = match error.kind {
                    ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Configuration => {
                        Fate::Aside(error.clone())
                    }
                    ErrorKind::InvalidItem | ErrorKind::Internal => Fate::Failed(error.clone(), scope_of(item)),
                };
            }
            return;
        }
        for (place, (index, told_something_new)) in item.events().enumerate() {
            let Some(result) = MergeResult::of(&answer.outcome, place == 0, told_something_new) else { continue };
            fates[index] = Fate::Persisted(Receipt {
                result,
                status: answer.status.unwrap_or(self.events[index].event.status),
                durability: answer.durability,
                taken_by: answer.taken_by.clone(),
            });
        }
    }

    /// Confirms what was persisted, gives up what never will be, and keeps the rest.
    fn settle(&mut self, served: &Served, fates: Vec<Fate>) -> Option<Error> {
        let mut results = ByResult::default();
        for fate in &fates {
            if let Fate::Persisted(receipt) = fate {
                results.add(receipt.result);
            }
        }
        let persisted = results.all();
        self.shared.counters.processed(&results);
        // What must wait says nothing of the others.
        let tried = fates.iter().filter(|fate| !matches!(fate, Fate::Stays | Fate::Aside(_))).count();
        let witness = match (persisted, tried) {
            (0, ..=1) => Witness::Absent,
            (0, _) => Witness::Failed,
            _ => Witness::Passed,
        };

        let mut confirmations = Confirmations::new(&served.name, served.generation, persisted);
        let mut freed = Held::default();
        let mut pause_for: Option<Error> = None;
        // What failed goes behind what was not tried, so that it cannot keep the others from their turn.
        let mut failed = Vec::new();
        let mut spent = Vec::with_capacity(persisted);
        for (mut taken, fate) in std::mem::take(&mut self.events).into_iter().zip(fates) {
            match fate {
                Fate::Stays => self.events.push(taken),
                Fate::Persisted(receipt) => {
                    confirmations.add(&taken, &receipt);
                    let held = taken.origin.held();
                    freed = Held { events: freed.events + held.events, bytes: freed.bytes + held.bytes };
                    spent.push(taken);
                }
                Fate::Aside(error) => self.aside.put(taken, error),
                Fate::Failed(error, scope) => match judge(&mut taken, error.kind, scope, witness) {
                    Verdict::Bury => self.bury(taken, error, served.generation),
                    Verdict::Apart => failed.push(taken),
                    Verdict::Later => {
                        failed.push(taken);
                        pause_for = Some(more_patient(pause_for, error));
                    }
                },
            }
        }
        let kept = spent.iter().filter(|taken| taken.origin.token.is_some()).count();
        self.shared.counters.settled_kept.add(kept);
        self.events.append(&mut failed);
        self.shared.spent.put(&mut spent);
        self.shared.budget.release(freed);
        let chunk = confirmations.into_chunk();
        if chunk.len() > 0 {
            self.shared.outbox.push(chunk, &self.shared.acknowledge, &self.shared.counters);
        }
        pause_for
    }

    fn bury(&self, taken: Taken, error: Error, generation: u64) {
        let Taken { event, origin, attempts, .. } = taken;
        let (evaluation_id, event_id, reason) = (&event.evaluation_id, &event.event_id, error.kind.as_str());
        warn!(
            channel = %origin.channel, %evaluation_id, %event_id, reason, %error, attempts,
            "event given up, it becomes a dead letter"
        );
        let (error, last_at) = (error.message, source_now());
        let evaluation_id = Some(event.evaluation_id.to_string());
        let identity = Identity { evaluation_id, event_id: event.event_id, time: event.time };
        self.shared.postbox.push(DeadLetter { origin, identity, reason, error, attempts, last_at, generation });
    }

    fn log_retry(&self, error: &Error, backoff: &Backoff, pause: Duration) {
        if !backoff.is_worth_a_line() {
            return;
        }
        let (lane, kind, events) = (self.index, error.kind.as_str(), self.events.len());
        let (attempt, pause_ms) = (backoff.attempts(), pause.as_millis());
        if error.kind == ErrorKind::Configuration {
            error!(lane, kind, events, attempt, %error, pause_ms, "backend needs a change of its configuration, will retry");
        } else {
            warn!(lane, kind, events, attempt, %error, pause_ms, "backend did not take events, will retry");
        }
    }
}

impl Drop for Lane {
    /// A lane whose thread is gone will never settle its events: it is stuck for good.
    fn drop(&mut self) {
        if thread::panicking() {
            self.state.overdue_at.store(1, Ordering::Release);
        }
    }
}

fn scope_of(item: &Item) -> Scope {
    if item.is_joined() { Scope::Item } else { Scope::Event }
}

/// Of two errors the one whose hint asks for more time; the operator's part comes first in the log.
fn more_patient(held: Option<Error>, error: Error) -> Error {
    let rank = |error: &Error| (error.retry_after, error.kind == ErrorKind::Configuration);
    match held {
        Some(held) if rank(&held) >= rank(&error) => held,
        _ => error,
    }
}
