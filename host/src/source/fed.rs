//! The source that is fed by hand: dead letters that are tried again, and replays, as the admin listener brings them.
//!
//! What is handed over goes the worker's ordinary way, is confirmed, and is bounded: who hands over waits until all of it
//! is settled, and only a few may do so at once.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Control, Delivery, Read, Source, Status, Token, now};

/// So many batches are in the worker's hands at once; others wait.
const BATCHES: usize = 4;

/// A delivery that is handed over.
#[derive(Clone, Debug)]
pub struct Handed {
    /// The channel.
    pub channel: Arc<str>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The id that travels with the event.
    pub event_id: Option<Arc<str>>,
    /// The time that travels with the event, in microseconds since 1970; that of now if there is none.
    pub time: Option<i64>,
    /// It is a dead letter already, and need not become one if it fails.
    pub is_letter: bool,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is stored and confirmed.
    Stored,
    /// It failed.
    Refused {
        /// The class.
        reason: String,
        /// What was wrong.
        error: String,
    },
}

/// The worker takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker is ending; try again when it runs")]
pub struct Ended;

/// The source.
#[derive(Debug, Default)]
pub struct Fed(Arc<Shared>);

/// The way to hand over.
#[derive(Clone, Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    received: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Delivery>,
    /// By token: the batch of a delivery, and its place there.
    in_hand: HashMap<u64, (Arc<Mutex<Batch>>, usize)>,
    next: u64,
    stopped: bool,
}

#[derive(Debug)]
struct Batch {
    outcomes: Vec<Option<Outcome>>,
    left: usize,
    done: Option<oneshot::Sender<Vec<Outcome>>>,
    /// Given back when all is settled, whoever still waits for it.
    place: Option<OwnedSemaphorePermit>,
}

impl Fed {
    /// The way to hand over to this source.
    #[must_use]
    pub fn feed(&self) -> Feed {
        Feed { shared: Arc::clone(&self.0), places: Arc::new(Semaphore::new(BATCHES)) }
    }
}

impl Feed {
    /// Hands deliveries over and waits until each is settled; gives what became of each, in order.
    ///
    /// Dropped meanwhile, they are settled all the same.
    ///
    /// # Errors
    /// When the worker ends.
    pub async fn hand(&self, handed: Vec<Handed>) -> Result<Vec<Outcome>, Ended> {
        if handed.is_empty() {
            return Ok(Vec::new());
        }
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Ended)?;
        let (done, settled) = oneshot::channel();
        let count = handed.len();
        let batch = Batch { outcomes: vec![None; count], left: count, done: Some(done), place: Some(place) };
        let batch = Arc::new(Mutex::new(batch));
        {
            let mut state = lock(&self.shared.state);
            if state.stopped {
                return Err(Ended);
            }
            let received_at = now();
            for (index, handed) in handed.into_iter().enumerate() {
                let Handed { channel, payload, event_id, time, is_letter } = handed;
                let token = state.next;
                state.next += 1;
                state.in_hand.insert(token, (Arc::clone(&batch), index));
                let (token, entry_time) = (Some(Token([token, 0, 0])), time);
                let delivery = Delivery {
                    channel,
                    payload,
                    received_at,
                    entry_time,
                    event_id,
                    token,
                    is_letter,
                    ..Delivery::default()
                };
                state.queue.push_back(delivery);
            }
        }
        // Only what is in hand holds it from here on, so that the end of the worker ends the wait.
        drop(batch);
        self.shared.changed.notify_all();
        settled.await.map_err(|_| Ended)
    }
}

impl Source for Fed {
    fn name(&self) -> &'static str {
        "admin"
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.0) as Arc<dyn Control>
    }

    fn read(&mut self, deliveries: &mut Vec<Delivery>) -> Read {
        let mut state = lock(&self.0.state);
        while state.queue.is_empty() && !state.stopped {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.0.received.fetch_add(state.queue.len() as u64, Ordering::Relaxed);
        deliveries.extend(state.queue.drain(..));
        if deliveries.is_empty() { Read::Ended } else { Read::Deliveries }
    }
}

impl Shared {
    fn settle(&self, token: Token, outcome: Outcome) {
        let Some((batch, index)) = lock(&self.state).in_hand.remove(&token.0[0]) else { return };
        let mut batch = lock(&batch);
        if batch.outcomes[index].replace(outcome).is_none() {
            batch.left -= 1;
        }
        if batch.left == 0 {
            let outcomes = std::mem::take(&mut batch.outcomes).into_iter().flatten().collect();
            batch.place = None;
            if let Some(done) = batch.done.take() {
                // Whoever asked may have gone.
                let _ = done.send(outcomes);
            }
        }
    }
}

impl Control for Shared {
    fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    fn acknowledge(&self, tokens: &[Token]) {
        tokens.iter().for_each(|token| self.settle(*token, Outcome::Stored));
    }

    fn refuse(&self, token: Token, reason: &str, error: &str) {
        self.settle(token, Outcome::Refused { reason: reason.to_owned(), error: error.to_owned() });
    }

    /// Who waits for what was not settled is told that the worker ends.
    fn finish(&self, _deadline: Instant) {
        lock(&self.state).in_hand.clear();
    }

    fn status(&self) -> Status {
        Status { connected: true, received: self.received.load(Ordering::Relaxed), ..Status::default() }
    }
}

/// A thread that panicked with the lock held left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(payload: &str) -> Handed {
        let payload = payload.as_bytes().to_vec();
        Handed { channel: "c".into(), payload, event_id: None, time: Some(7), is_letter: true }
    }

    #[tokio::test]
    async fn who_hands_over_learns_what_became_of_each() {
        let mut source = Fed::default();
        let (feed, control) = (source.feed(), source.control());
        let waiting = tokio::spawn(async move { feed.hand(vec![handed("a"), handed("b")]).await });
        let deliveries = tokio::task::spawn_blocking(move || {
            let mut deliveries = Vec::new();
            assert_eq!(source.read(&mut deliveries), Read::Deliveries);
            deliveries
        });
        let deliveries = deliveries.await.expect("it does not panic");
        let token = |index: usize| deliveries[index].token.expect("it wants it back");

        control.refuse(token(1), "why", "because");
        control.acknowledge(&[token(0), token(1)]);

        assert_eq!((deliveries[0].entry_time, deliveries[0].is_letter), (Some(7), true));
        let refused = Outcome::Refused { reason: "why".to_owned(), error: "because".to_owned() };
        assert_eq!(waiting.await.expect("it does not panic"), Ok(vec![Outcome::Stored, refused]));
    }

    #[tokio::test]
    async fn at_the_end_nobody_waits_for_ever() {
        let mut source = Fed::default();
        let (feed, control) = (source.feed(), source.control());
        let hand = feed.clone();
        let waiting = tokio::spawn(async move { hand.hand(vec![handed("a")]).await });
        let source = tokio::task::spawn_blocking(move || {
            source.read(&mut Vec::new());
            source
        });
        let mut source = source.await.expect("it does not panic");

        control.stop();
        assert_eq!(source.read(&mut Vec::new()), Read::Ended);
        control.finish(Instant::now());

        assert_eq!(waiting.await.expect("it does not panic"), Err(Ended));
        assert_eq!(feed.hand(vec![handed("b")]).await, Err(Ended));
    }
}
