//! What the reader of the streams, the keeper and the worker's threads share: which entries are in hand, which of them
//! wait to be acknowledged, and what is known of each stream.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::commands::Member;
use super::entry::EntryId;
use crate::source::config::StreamsConfig;
use crate::source::standing::{Standing, Stop};
use crate::source::{Control, Status, StreamStatus, Token};

/// Who reads what, the same for as long as the source lives.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) config: StreamsConfig,
    /// Who reads: its name stays the same from one start to the next, and so do the entries that it has pending.
    pub(super) member: Member,
    /// This run of it, by which two of one name are told apart. It never reads an entry.
    pub(super) run: Member,
}

/// An entry: the place of its stream in the configuration, and its id.
pub(super) type Place = (usize, EntryId);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) membership: Membership,
    pub(super) stop: Stop,
    pub(super) standing: Standing,
    /// Told when there is something to acknowledge, or nothing more will be.
    pub(super) filled: Notify,
    hand: Mutex<Hand>,
    done: Condvar,
    streams: Vec<Mutex<Known>>,
    received: AtomicU64,
}

#[derive(Debug, Default)]
struct Hand {
    /// Handed over, and their acknowledgement not yet with Redis.
    entries: HashSet<Place>,
    /// Settled.
    settled: Vec<Place>,
    finishing: bool,
    done: bool,
}

/// What is known of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) status: StreamStatus,
    /// All entries up to this one are acknowledged in our group, as of the last look.
    pub(super) acknowledged: Option<EntryId>,
    /// Consumers that are dead and hold entries.
    pub(super) dead: Vec<String>,
}

impl Shared {
    pub(super) fn new(membership: Membership) -> Self {
        let known = |stream: &String| {
            Mutex::new(Known {
                status: StreamStatus { stream: stream.clone(), ..StreamStatus::default() },
                ..Known::default()
            })
        };
        Self {
            streams: membership.config.streams.iter().map(known).collect(),
            membership,
            stop: Stop::default(),
            standing: Standing::default(),
            filled: Notify::new(),
            hand: Mutex::default(),
            done: Condvar::new(),
            received: AtomicU64::new(0),
        }
    }

    /// The key of a stream.
    pub(super) fn key(&self, stream: usize) -> &str {
        &self.membership.config.streams[stream]
    }

    pub(super) fn known(&self, stream: usize) -> MutexGuard<'_, Known> {
        lock(&self.streams[stream])
    }

    /// Takes entries into the hand. Gives those that were not there.
    pub(super) fn take<T>(&self, stream: usize, entries: Vec<T>, id: impl Fn(&T) -> EntryId) -> Vec<T> {
        let mut hand = lock(&self.hand);
        let new: Vec<T> = entries.into_iter().filter(|entry| hand.entries.insert((stream, id(entry)))).collect();
        self.received.fetch_add(new.len() as u64, Ordering::Relaxed);
        new
    }

    /// Entries that Redis still has to be told of.
    pub(super) fn settled(&self) -> usize {
        lock(&self.hand).settled.len()
    }

    /// Some of the entries that are settled. They stay in the hand until Redis was told.
    pub(super) fn take_settled(&self, most: usize) -> Vec<Place> {
        let mut hand = lock(&self.hand);
        let count = hand.settled.len().min(most);
        hand.settled.drain(..count).collect()
    }

    /// Redis was told of these.
    pub(super) fn acknowledged(&self, places: &[Place]) {
        let mut hand = lock(&self.hand);
        for place in places {
            hand.entries.remove(place);
        }
    }

    /// Whether nothing more will be settled.
    pub(super) fn is_finishing(&self) -> bool {
        lock(&self.hand).finishing
    }

    /// Says that Redis knows all that it is to know.
    pub(super) fn set_done(&self) {
        lock(&self.hand).done = true;
        self.done.notify_all();
    }

    /// Settles an entry, be it in the hand or not.
    pub(super) fn settle(&self, places: impl Iterator<Item = Place>) {
        lock(&self.hand).settled.extend(places);
        self.filled.notify_one();
    }
}

impl Control for Shared {
    fn stop(&self) {
        self.stop.stop();
    }

    fn acknowledge(&self, tokens: &[Token]) {
        self.settle(tokens.iter().map(|token| place(*token)));
    }

    fn entry(&self, token: Token) -> Option<(String, String)> {
        let (stream, id) = place(token);
        Some((self.membership.config.streams.get(stream)?.clone(), id.to_string()))
    }

    fn finish(&self, deadline: Instant) {
        let mut hand = lock(&self.hand);
        hand.finishing = true;
        self.filled.notify_one();
        while !hand.done {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                tracing::warn!(
                    entries = hand.settled.len(),
                    "redis was not told in time of entries that are settled; they are delivered again, which does no harm"
                );
                return;
            }
            hand = self.done.wait_timeout(hand, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn status(&self) -> Status {
        let streams = self.streams.iter().map(|known| lock(known).status.clone()).collect();
        Status { received: self.received.load(Ordering::Relaxed), streams, ..self.standing.status() }
    }
}

/// What the worker gives back.
pub(super) fn token((stream, id): Place) -> Token {
    Token([stream as u64, id.milliseconds, id.sequence])
}

fn place(Token([stream, milliseconds, sequence]): Token) -> Place {
    (usize::try_from(stream).unwrap_or(usize::MAX), EntryId { milliseconds, sequence })
}

/// A thread that panicked with the lock held left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
