//! What the reader of a section's streams, its keeper and the worker's threads share: which entries are in hand, which of
//! them wait to be acknowledged, and what is known of each stream. `sections.rs` puts the sections together.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::commands::Member;
use super::entry::EntryId;
use crate::source::config::StreamsConfig;
use crate::source::standing::{Standing, Stop};
use crate::source::{Status, StreamStatus, Token};

/// Who reads what, the same for as long as the source lives.
#[derive(Debug)]
pub(super) struct Membership {
    /// With the streams of this section alone.
    pub(super) config: StreamsConfig,
    /// The place of the first of them among all that are configured.
    pub(super) first: usize,
    /// How many sections there are.
    pub(super) sections: usize,
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
    /// Settled, by stream.
    settled: Vec<Vec<EntryId>>,
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
        let settled = membership.config.streams.iter().map(|_| Vec::new()).collect();
        Self {
            hand: Mutex::new(Hand { settled, ..Hand::default() }),
            streams: membership.config.streams.iter().map(known).collect(),
            membership,
            stop: Stop::default(),
            standing: Standing::default(),
            filled: Notify::new(),
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

    /// Entries of a stream that Redis still has to be told of.
    pub(super) fn settled(&self, stream: usize) -> usize {
        lock(&self.hand).settled[stream].len()
    }

    /// Entries of all streams that Redis still has to be told of.
    pub(super) fn all_settled(&self) -> usize {
        lock(&self.hand).settled.iter().map(Vec::len).sum()
    }

    /// Some of the entries that are settled, the first ones. They stay in the hand until Redis was told.
    pub(super) fn take_settled(&self, stream: usize, most: usize) -> Vec<EntryId> {
        let settled = &mut lock(&self.hand).settled[stream];
        let count = settled.len().min(most);
        settled.drain(..count).collect()
    }

    /// Redis was told of these.
    pub(super) fn acknowledged(&self, stream: usize, ids: &[EntryId]) {
        let mut hand = lock(&self.hand);
        for id in ids {
            hand.entries.remove(&(stream, *id));
        }
    }

    /// Redis could not be told of these, or did not take it.
    pub(super) fn put_back(&self, stream: usize, ids: &[EntryId]) {
        lock(&self.hand).settled[stream].extend_from_slice(ids);
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
        let mut hand = lock(&self.hand);
        for (stream, id) in places {
            hand.settled[stream].push(id);
        }
        drop(hand);
        self.filled.notify_one();
    }
}

impl Shared {
    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// Whether a delivery is of this section.
    pub(super) fn has(&self, Token([stream, ..]): Token) -> bool {
        let first = self.membership.first as u64;
        (first..first + self.streams.len() as u64).contains(&stream)
    }

    pub(super) fn acknowledge(&self, tokens: impl Iterator<Item = Token>) {
        self.settle(tokens.map(|token| self.place(token)));
    }

    pub(super) fn entry(&self, token: Token) -> Option<(String, String)> {
        let (stream, id) = self.place(token);
        Some((self.membership.config.streams.get(stream)?.clone(), id.to_string()))
    }

    /// Says that nothing more will be settled.
    pub(super) fn close(&self) {
        lock(&self.hand).finishing = true;
        self.filled.notify_one();
    }

    /// Waits until Redis was told of everything. Gives how many entries it was not told of by the deadline.
    pub(super) fn finish(&self, deadline: Instant) -> usize {
        let mut hand = lock(&self.hand);
        while !hand.done {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return hand.settled.iter().map(Vec::len).sum();
            }
            hand = self.done.wait_timeout(hand, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        0
    }

    pub(super) fn status(&self) -> Status {
        let streams = self.streams.iter().map(|known| lock(known).status.clone()).collect();
        Status { received: self.received.load(Ordering::Relaxed), streams, ..self.standing.status() }
    }

    /// What the worker gives back.
    pub(super) fn token(&self, (stream, id): Place) -> Token {
        Token([(self.membership.first + stream) as u64, id.milliseconds, id.sequence])
    }

    fn place(&self, Token([stream, milliseconds, sequence]): Token) -> Place {
        let stream = usize::try_from(stream).unwrap_or(usize::MAX);
        (stream.saturating_sub(self.membership.first), EntryId { milliseconds, sequence })
    }
}

/// A thread that panicked with the lock held left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
