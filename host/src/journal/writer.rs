//! Appends what arrives. Waits while the journal is full, or its disk is: nothing passes it unrecorded.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tracing::{error, info};

use super::config::Mode;
use super::directory::{SegmentName, remedy};
use super::frame::{self, Entry};
use super::{Journal, Position, Recorded};
use crate::units;

/// How long to wait before a disk that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The side of the journal that entries come in by. Once it is dropped nothing more will come.
#[derive(Debug)]
pub struct Writer {
    journal: Arc<Journal>,
    /// The number of the newest segment.
    last: u64,
    tail: Option<Tail>,
    /// What is written at once, kept for its memory.
    bytes: Vec<u8>,
    starts: Vec<u64>,
    failures: u64,
}

/// The segment that is written to.
#[derive(Debug)]
struct Tail {
    name: SegmentName,
    file: Arc<File>,
    length: u64,
}

/// Why entries cannot be written now.
enum Held {
    /// There are as many bytes on disk as there may be.
    Full,
    Failed(io::Error),
}

impl Writer {
    pub(super) fn new(journal: Arc<Journal>, last: u64) -> Self {
        Self { journal, last, tail: None, bytes: Vec::new(), starts: Vec::new(), failures: 0 }
    }

    /// Takes entries in: on disk, or in memory where the mode allows it and memory has room.
    ///
    /// Waits while there is no room on disk. Told to stop meanwhile, it goes beyond the bound of the journal; what the disk
    /// does not take then stays in memory, and is told.
    pub fn append(&mut self, entries: impl IntoIterator<Item = Recorded>) {
        let mut entries = entries.into_iter().peekable();
        if self.journal.config.mode == Mode::Spill {
            let mut state = self.journal.lock();
            // What comes when the end is near may not be stored in time.
            while !state.spilled
                && !state.stopping
                && let Some(entry) = entries.next_if(|entry| state.has_room_for(entry.payload.len()))
            {
                state.wait_in_memory(entry);
            }
            self.journal.tell_reader(&state);
        }
        let most = self.journal.config.segment_bytes();
        while let Some(first) = entries.next() {
            let mut bytes = frame_bytes(&first);
            let mut piece = vec![first];
            while let Some(entry) = entries.next_if(|entry| bytes + frame_bytes(entry) <= most) {
                bytes += frame_bytes(&entry);
                piece.push(entry);
            }
            self.put(piece, bytes);
        }
    }

    /// Writes entries, however long it takes; in halves where the disk has no room for all of them at once.
    fn put(&mut self, mut entries: Vec<Recorded>, bytes: u64) {
        while let Err(held) = self.write(&entries, bytes) {
            self.tell(&held);
            let mut state = self.journal.lock();
            state.write_problem = Some(self.problem(&held));
            if state.stopping {
                let count = entries.len();
                entries.into_iter().for_each(|entry| state.wait_in_memory(entry));
                error!(
                    count,
                    "what arrived last could not be written to the journal; what is not stored at the end is lost"
                );
                return;
            }
            if entries.len() > 1 && matches!(held, Held::Failed(_)) {
                drop(state);
                let rest = entries.split_off(entries.len() / 2);
                for half in [entries, rest] {
                    let bytes = half.iter().map(frame_bytes).sum();
                    self.put(half, bytes);
                }
                return;
            }
            drop(self.journal.freed.wait_timeout(state, RETRY_AFTER).unwrap_or_else(PoisonError::into_inner));
        }
        if self.failures > 0 {
            self.failures = 0;
            info!(path = %self.journal.directory.path().display(), "the journal takes events again");
        }
        self.publish(entries, bytes);
    }

    /// Says to those who read and sync that entries were written.
    fn publish(&mut self, entries: Vec<Recorded>, bytes: u64) {
        let Some(tail) = &mut self.tail else { return };
        let mut state = self.journal.lock();
        state.write_problem = None;
        let oldest = entries.first().map_or(0, |entry| entry.received_at);
        state.ledger.wrote(tail.name.number, bytes, entries.len() as u64, oldest);
        for (mut entry, start) in entries.into_iter().zip(self.starts.drain(..)) {
            if state.spilled || !state.has_room_for(entry.payload.len()) {
                // What follows must not overtake what only the disk has.
                state.spilled = true;
                break;
            }
            entry.position = Some(Position { segment: tail.name.number, at: tail.length + start });
            state.wait_in_memory(entry);
        }
        tail.length += bytes;
        if !state.unsynced.iter().any(|(number, _)| *number == tail.name.number) {
            state.unsynced.push((tail.name.number, Arc::clone(&tail.file)));
        }
        self.journal.tell_reader(&state);
        self.journal.tell_keeper(&state);
    }

    fn write(&mut self, entries: &[Recorded], bytes: u64) -> Result<(), Held> {
        let config = &self.journal.config;
        let (most, largest) = (config.max_bytes, config.segment_bytes());
        let state = self.journal.lock();
        // An entry that is larger than the journal passes when it is alone. What arrived before the end is kept, too: there
        // is no more than what waited for room, and the bound is no reason to lose it.
        let is_full = state.ledger.bytes() + bytes > most && !state.ledger.is_settled() && !state.stopping;
        let begins = match &self.tail {
            // So that what is in it can go too, once it is settled.
            Some(tail) if is_full => tail.length > 0,
            Some(tail) => state.abandoned || tail.length > 0 && tail.length + bytes > largest,
            None => true,
        };
        drop(state);
        if begins {
            self.close_tail();
            self.begin_segment().map_err(Held::Failed)?;
        }
        let Some(tail) = self.tail.as_mut().filter(|_| !is_full) else { return Err(Held::Full) };
        self.bytes.clear();
        self.starts.clear();
        for Recorded { channel, payload, received_at, .. } in entries {
            self.starts.push(self.bytes.len() as u64);
            frame::push(&mut self.bytes, tail.name.salt, &Entry { channel, payload, received_at: *received_at });
        }
        let written = tail.file.write_all_at(&self.bytes, tail.length);
        if written.is_err() {
            let is_cut = tail.file.set_len(tail.length).is_ok();
            // On a full disk it is what was written before that makes room, once it is settled.
            if !is_cut || tail.length > 0 {
                self.close_tail();
            }
        }
        written.map_err(Held::Failed)
    }

    /// Lets the segment go that is written to, once it is settled.
    fn close_tail(&mut self) {
        self.tail = None;
        let mut state = self.journal.lock();
        state.ledger.close_last();
        self.journal.tell_keeper(&state);
    }

    /// Begins another segment.
    pub(super) fn begin_segment(&mut self) -> io::Result<()> {
        let name = SegmentName::after(self.last);
        // No number is used twice, not even that of a segment of which the name was made and nothing more.
        self.last = name.number;
        let file = Arc::new(self.journal.directory.create(name)?);
        let mut state = self.journal.lock();
        state.abandoned = false;
        state.ledger.add(name, 0, 0);
        // The last one may be done by that.
        self.journal.tell_keeper(&state);
        drop(state);
        self.tail = Some(Tail { name, file, length: 0 });
        Ok(())
    }

    /// Logs that nothing can be written, less and less often.
    fn tell(&mut self, held: &Held) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let (path, problem) = (self.journal.directory.path().display(), self.problem(held));
            error!(%path, problem, "the journal cannot take events, nothing is read until it can");
        }
    }

    fn problem(&self, held: &Held) -> String {
        match held {
            Held::Full => {
                let most = units::size_text(self.journal.config.max_bytes);
                format!(
                    "it holds {most} that is not stored yet; see why storage falls behind, or raise `journal.max_bytes`"
                )
            }
            Held::Failed(cause) => format!("cannot write: {cause}; {}", remedy(cause)),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.journal.lock().closed = true;
        self.journal.filled.notify_all();
    }
}

fn frame_bytes(entry: &Recorded) -> u64 {
    frame::frame_bytes(entry.channel.len(), entry.payload.len()) as u64
}
