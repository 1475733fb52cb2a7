//! Hands entries over in the order in which they arrived: first what earlier lives left on disk.
//!
//! What waits in memory comes from there. What memory had no room for is read back from the disk, a segment at a time.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use std::{fs, io};

use tracing::{error, info, warn};

use super::directory::SegmentName;
use super::frame::{Found, recover};
use super::{Journal, Position, Recorded};

/// At most so many entries are handed over at once.
const BATCH: usize = 512;
/// A pause that lets a disk that failed recover.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// So many channels are known by one allocation each; there are as many as event rows.
const MOST_CHANNELS: usize = 256;

/// The side of the journal that entries go out by.
#[derive(Debug)]
pub struct Reader {
    journal: Arc<Journal>,
    /// Segments of earlier lives that were not looked at yet.
    old: Vec<SegmentName>,
    /// The newest of these: its damage was told already.
    last_old: u64,
    loaded: Option<Loaded>,
    channels: Vec<Arc<str>>,
}

/// A part of a segment in memory.
#[derive(Debug)]
struct Loaded {
    name: SegmentName,
    /// Where the bytes begin in the segment.
    start: u64,
    bytes: Vec<u8>,
    /// How much of them was handed over.
    done: usize,
}

/// What was found on disk for the next batch.
enum Next {
    Entry { position: Position, end: u64, recorded: Recorded },
    Nothing { segment: u64, end: u64 },
}

impl Reader {
    pub(super) fn new(journal: Arc<Journal>, old: impl Iterator<Item = SegmentName>) -> Self {
        let old: Vec<_> = old.collect();
        let last_old = old.last().map_or(0, |name| name.number);
        Self { journal, old, last_old, loaded: None, channels: Vec::new() }
    }

    /// Waits for entries and appends them. False once nothing more will come: at the end that is what memory has, while
    /// the disk keeps the rest for the next start.
    pub fn read(&mut self, into: &mut Vec<Recorded>) -> bool {
        if !self.old.is_empty() {
            self.look_at_old();
        }
        let before = into.len();
        while into.len() == before {
            let mut state = self.journal.lock();
            if self.loaded.is_some() && !state.stopping {
                drop(state);
                self.hand_over_loaded(into);
                continue;
            }
            if !state.waiting.is_empty() {
                let count = state.waiting.len().min(BATCH);
                for _ in 0..count {
                    let Some(recorded) = state.waiting.pop_front() else { break };
                    state.waiting_bytes -= recorded.payload.len();
                    state.unrecorded -= u64::from(recorded.position.is_none());
                    if let Some(position) = recorded.position {
                        let frame = super::frame::frame_bytes(recorded.channel.len(), recorded.payload.len()) as u64;
                        state.ledger.hand_over(position, position.at + frame, recorded.received_at);
                    }
                    into.push(recorded);
                }
                continue;
            }
            let unread = state.ledger.next_unread();
            if let Some((name, from, to)) = unread
                && !state.stopping
            {
                drop(state);
                self.load(name, from, to);
                continue;
            }
            state.spilled = unread.is_some();
            if state.closed {
                return false;
            }
            state.reader_waits = true;
            state = self.journal.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.reader_waits = false;
        }
        true
    }

    /// Looks through what earlier lives left: counts it, and tells what is damaged.
    fn look_at_old(&mut self) {
        let left = self.journal.lock().ledger.names();
        for name in std::mem::take(&mut self.old) {
            let Some((_, from)) = left.iter().find(|(other, _)| *other == name) else { continue };
            let path = self.journal.directory.segment_path(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(cause) => {
                    self.forget(name, &cause);
                    continue;
                }
            };
            let unsettled = bytes.get(usize::try_from(*from).unwrap_or(usize::MAX)..).unwrap_or_default();
            let (mut entries, mut oldest, mut whole, mut damages) = (0_u64, None, 0, Vec::new());
            for found in recover(unsettled, name.salt) {
                match found {
                    Found::Entry { at, end, entry } => {
                        entries += 1;
                        whole += end - at;
                        oldest = oldest.or(Some(entry.received_at));
                    }
                    Found::Damage { at, end, is_tail } => damages.push((at, end, is_tail)),
                }
            }
            let average = (whole as u64).checked_div(entries).unwrap_or_default();
            for (at, end, is_tail) in damages {
                self.tell_damage(name, from + at as u64, (end - at) as u64, average, is_tail);
            }
            self.journal.lock().ledger.counted(name.number, entries, oldest.unwrap_or_default());
        }
        let status = self.journal.status();
        if status.entries > 0 {
            let (entries, bytes) = (status.entries, status.bytes);
            info!(entries, bytes, "the journal holds events that an earlier start did not store, they come first");
        }
    }

    fn load(&mut self, name: SegmentName, from: u64, to: u64) {
        let path = self.journal.directory.segment_path(name);
        let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
        match fs::File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, from)) {
            Ok(()) => self.loaded = Some(Loaded { name, start: from, bytes, done: 0 }),
            Err(cause) if is_passing(&cause) => {
                warn!(path = %path.display(), %cause, "cannot read the journal, will try again");
                std::thread::sleep(RETRY_AFTER);
            }
            Err(cause) => self.forget(name, &cause),
        }
    }

    fn hand_over_loaded(&mut self, into: &mut Vec<Recorded>) {
        let Some(mut loaded) = self.loaded.take() else { return };
        let mut next = Vec::with_capacity(BATCH);
        let (mut whole, mut entries) = (0_u64, 0);
        for found in recover(&loaded.bytes[loaded.done..], loaded.name.salt).take(BATCH) {
            let base = loaded.start + loaded.done as u64;
            match found {
                Found::Entry { at, end, entry } => {
                    let position = Position { segment: loaded.name.number, at: base + at as u64 };
                    let channel = self.channel(entry.channel);
                    let payload = entry.payload.to_vec();
                    let recorded =
                        Recorded { channel, payload, received_at: entry.received_at, position: Some(position) };
                    (whole, entries) = (whole + (end - at) as u64, entries + 1);
                    next.push(Next::Entry { position, end: base + end as u64, recorded });
                }
                Found::Damage { at, end, is_tail } => {
                    if loaded.name.number > self.last_old {
                        let average = whole.checked_div(entries).unwrap_or_default();
                        self.tell_damage(loaded.name, base + at as u64, (end - at) as u64, average, is_tail);
                    }
                    next.push(Next::Nothing { segment: loaded.name.number, end: base + end as u64 });
                }
            }
        }
        let mut state = self.journal.lock();
        for next in next {
            let end = match next {
                Next::Entry { position, end, recorded } => {
                    state.ledger.hand_over(position, end, recorded.received_at);
                    into.push(recorded);
                    end
                }
                Next::Nothing { segment, end } => {
                    state.ledger.pass_over(segment, end);
                    end
                }
            };
            loaded.done = usize::try_from(end - loaded.start).unwrap_or(usize::MAX);
        }
        drop(state);
        if loaded.done < loaded.bytes.len() {
            self.loaded = Some(loaded);
        }
    }

    fn tell_damage(&self, name: SegmentName, offset: u64, bytes: u64, average: u64, is_tail: bool) {
        self.journal.lock().damaged(bytes);
        let segment = self.journal.directory.segment_path(name);
        let segment = segment.display();
        // Without a whole entry to go by it is one.
        let entries = bytes.checked_div(average).unwrap_or(1).max(1);
        if is_tail {
            warn!(%segment, offset, bytes, entries, "the end of a segment of the journal is cut off: a write that a crash cut short, or damage");
        } else {
            error!(%segment, offset, bytes, entries, "the journal is damaged, about so many entries are lost; look at the disk");
        }
    }

    /// Goes on without a segment that is missing or cannot be read.
    fn forget(&self, name: SegmentName, cause: &io::Error) {
        let path = self.journal.directory.segment_path(name);
        error!(segment = %path.display(), %cause, "a segment of the journal cannot be read; what it holds and is not stored is left there, the next start tries again");
        let mut state = self.journal.lock();
        state.damaged(0);
        // What is written there from now on nobody would read, nor count.
        state.abandoned |= state.ledger.forget(name.number);
    }

    fn channel(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.channels.iter().find(|known| &***known == name) {
            return Arc::clone(known);
        }
        let channel: Arc<str> = Arc::from(name);
        if self.channels.len() < MOST_CHANNELS {
            self.channels.push(Arc::clone(&channel));
        }
        channel
    }
}

/// No open files are left, or no memory: that says nothing of the segment.
fn is_passing(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory)
        || cause.raw_os_error().is_some_and(|code| code == libc::EMFILE || code == libc::ENFILE)
}
