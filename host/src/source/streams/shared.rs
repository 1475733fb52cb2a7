//! What the reader of a stream, its keeper and the worker's threads share: which entries are in hand, which of them wait
//! to be acknowledged, and what is known of the stream. `side_by_side.rs` makes one source of several.

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
    pub(super) config: StreamsConfig,
    /// The key of the stream.
    pub(super) stream: String,
    /// Its place among all that are configured, and how many these are.
    pub(super) place: usize,
    pub(super) streams: usize,
    /// Who reads: its name stays the same from one start to the next, and so do the entries that it has pending.
    pub(super) member: Member,
    /// This run of it, by which two of one name are told apart. It never reads an entry.
    pub(super) run: Member,
}

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
    known: Mutex<Known>,
    received: AtomicU64,
}

#[derive(Debug, Default)]
struct Hand {
    /// Handed over, and their acknowledgement not yet with Redis.
    entries: HashSet<EntryId>,
    /// Settled.
    settled: Vec<EntryId>,
    finishing: bool,
    done: bool,
}

/// What is known of the stream.
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
        let status = StreamStatus { stream: membership.stream.clone(), ..StreamStatus::default() };
        Self {
            known: Mutex::new(Known { status, ..Known::default() }),
            membership,
            stop: Stop::default(),
            standing: Standing::default(),
            filled: Notify::new(),
            hand: Mutex::default(),
            done: Condvar::new(),
            received: AtomicU64::new(0),
        }
    }

    /// The key of the stream.
    pub(super) fn key(&self) -> &str {
        &self.membership.stream
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    /// Takes entries into the hand. Gives those that were not there.
    pub(super) fn take<T>(&self, entries: Vec<T>, id: impl Fn(&T) -> EntryId) -> Vec<T> {
        let mut hand = lock(&self.hand);
        let new: Vec<T> = entries.into_iter().filter(|entry| hand.entries.insert(id(entry))).collect();
        self.received.fetch_add(new.len() as u64, Ordering::Relaxed);
        new
    }

    /// Entries that Redis still has to be told of.
    pub(super) fn settled(&self) -> usize {
        lock(&self.hand).settled.len()
    }

    /// Some of the entries that are settled, the first ones. They stay in the hand until Redis was told.
    pub(super) fn take_settled(&self, most: usize) -> Vec<EntryId> {
        let settled = &mut lock(&self.hand).settled;
        let count = settled.len().min(most);
        settled.drain(..count).collect()
    }

    /// Redis was told of these.
    pub(super) fn acknowledged(&self, ids: &[EntryId]) {
        let mut hand = lock(&self.hand);
        for id in ids {
            hand.entries.remove(id);
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

    /// Settles entries, be they in the hand or not.
    pub(super) fn settle(&self, ids: impl Iterator<Item = EntryId>) {
        lock(&self.hand).settled.extend(ids);
        self.filled.notify_one();
    }

    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// Whether a delivery is of this stream.
    pub(super) fn has(&self, Token([place, ..]): Token) -> bool {
        place == self.membership.place as u64
    }

    /// The stream and the entry of a delivery.
    pub(super) fn entry(&self, token: Token) -> (String, String) {
        (self.membership.stream.clone(), id(token).to_string())
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
                return hand.settled.len();
            }
            hand = self.done.wait_timeout(hand, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        0
    }

    pub(super) fn status(&self) -> Status {
        let streams = vec![lock(&self.known).status.clone()];
        Status { received: self.received.load(Ordering::Relaxed), streams, ..self.standing.status() }
    }

    /// What the worker gives back.
    pub(super) fn token(&self, id: EntryId) -> Token {
        Token([self.membership.place as u64, id.milliseconds, id.sequence])
    }
}

/// The entry of a token.
pub(super) fn id(Token([_, milliseconds, sequence]): Token) -> EntryId {
    EntryId { milliseconds, sequence }
}

/// A thread that panicked with the lock held left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
