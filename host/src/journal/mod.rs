//! The journal: what arrived by pub/sub, on disk until it is stored, so that neither an outage of storage nor the end of
//! the worker loses it.
//!
//! ```text
//!  Writer ─► segment files ─► Reader ─► handed over ─► settle ─► the segment goes
//!       └──► memory, while the reader keeps up ──┘
//! ```
//! A log of segments that is a queue at the same time. `writer.rs` appends what arrives; as long as who reads keeps up,
//! entries also wait in memory and are never read back. `reader.rs` hands them over in order, with what an earlier life
//! left first. `keeper.rs` is the thread that syncs, and removes segments. `frame.rs` is the form of an entry,
//! `directory.rs` the files, `ledger.rs` the book of what is settled, `archive.rs` reads for a replay. The journal knows
//! nothing of Redis, nor of evaluations. For operators: `docs/journal.md`; why it is our own: ADR 16.

pub mod archive;
pub mod config;
mod directory;
mod frame;
mod keeper;
mod ledger;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use self::config::{Config, Mode};
use self::directory::Directory;
pub use self::directory::JournalError;
pub use self::frame::{Entry, Found, push, recover};
use self::ledger::Ledger;
pub use self::ledger::Position;
pub use self::reader::Reader;
pub use self::writer::Writer;

/// What waits in memory at most; beyond it entries are read back from the disk.
const MOST_WAITING: usize = 4096;
const MOST_WAITING_BYTES: usize = 8 << 20;

/// A delivery on its way through the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The channel it arrived on.
    pub channel: Arc<str>,
    /// The message.
    pub payload: Vec<u8>,
    /// When it arrived, in microseconds since 1970.
    pub received_at: i64,
    /// Where it is in the journal, to be named when it is settled; none if it is in memory only.
    pub position: Option<Position>,
}

/// How the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What goes through it.
    pub mode: Mode,
    /// Entries on disk that are not settled.
    pub entries: u64,
    /// Bytes on disk, without the archive.
    pub bytes: u64,
    /// When the oldest entry that is not settled arrived, in microseconds since 1970.
    pub oldest: Option<i64>,
    /// Why nothing can be taken, and what to do; none if all is well.
    pub problem: Option<String>,
    /// Damaged places that were found since the start.
    pub damages: u64,
    /// How many bytes were lost to them.
    pub damaged_bytes: u64,
    /// Entries that wait in memory and are not on disk: the end of the process loses them.
    pub unrecorded: u64,
}

impl Status {
    /// How long the oldest entry that is not settled has been there.
    #[must_use]
    pub fn oldest_age(&self, now: i64) -> Duration {
        let since = self.oldest.map_or(0, |oldest| now.saturating_sub(oldest));
        Duration::from_micros(u64::try_from(since).unwrap_or_default())
    }
}

/// What the writer, the reader, the keeper and who settles share.
#[derive(Debug)]
pub struct Journal {
    config: Config,
    directory: Directory,
    state: Mutex<State>,
    /// There is something to read, or nothing more will come.
    filled: Condvar,
    /// A segment went, or the writer is not to wait any more.
    freed: Condvar,
    /// There is something to sync, write or remove.
    work: Condvar,
    /// The keeper shall end.
    ending: Condvar,
    /// It has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    /// What comes next, if memory has it.
    waiting: VecDeque<Recorded>,
    waiting_bytes: usize,
    /// So many of these are in memory only.
    unrecorded: u64,
    /// Behind what waits in memory there are entries on disk only.
    spilled: bool,
    /// The writer has ended.
    closed: bool,
    /// The writer shall not wait for room any more.
    stopping: bool,
    /// The keeper shall end.
    ending: bool,
    ended: bool,
    reader_waits: bool,
    keeper_waits: bool,
    /// Segments that were written to since their last sync.
    unsynced: Vec<(u64, Arc<File>)>,
    /// The writer shall begin another segment.
    abandoned: bool,
    /// Segments that could not be synced: the end of the machine may lose what is in them, until all of it is settled.
    unsyncable: Vec<u64>,
    /// Why nothing can be written, or synced.
    write_problem: Option<String>,
    sync_problem: Option<String>,
    damages: u64,
    damaged_bytes: u64,
}

impl Journal {
    /// Opens the journal, of which this worker is the only user, and begins a new segment.
    ///
    /// Whatever state the files are in, it opens: damage is told when the reader comes to it.
    ///
    /// # Errors
    /// When another worker has it, or nothing can be written there.
    pub fn open(config: &Config) -> Result<(Arc<Self>, Writer, Reader), JournalError> {
        let directory = Directory::open(&config.path)?;
        let unwritable = |cause| JournalError::Write { path: config.path.clone(), cause };
        let segments = directory.segments().map_err(unwritable)?;
        let settled = directory.settled();
        if settled.is_none() && !segments.is_empty() {
            let path = directory.path().display();
            warn!(%path, "what the journal had settled is not known, all of it is delivered again");
        }
        let settled = settled.unwrap_or_default();
        let mut ledger = Ledger::default();
        for (name, length) in &segments {
            ledger.add(*name, *length, settled.get(&name.number).copied().unwrap_or_default());
        }
        let archived = directory::segments(&directory::archive_path(&config.path)).unwrap_or_default();
        let numbers = segments.iter().chain(&archived).map(|(name, _)| name.number).chain(settled.keys().copied());
        let last = numbers.max().unwrap_or_default();
        let mut state = State { spilled: ledger.next_unread().is_some(), ledger, ..State::default() };
        report_missing(&settled, &segments, &mut state);
        let journal = Arc::new(Self {
            config: config.clone(),
            directory,
            state: Mutex::new(state),
            filled: Condvar::new(),
            freed: Condvar::new(),
            work: Condvar::new(),
            ending: Condvar::new(),
            ended: Condvar::new(),
        });
        let mut writer = Writer::new(Arc::clone(&journal), last);
        writer.begin_segment().or_else(|cause| if is_full(&cause) { Ok(()) } else { Err(unwritable(cause)) })?;
        keeper::start(&journal).map_err(unwritable)?;
        let reader = Reader::new(Arc::clone(&journal), segments.into_iter().map(|(name, _)| name));
        Ok((journal, writer, reader))
    }

    /// Says that entries are settled: they are not delivered again, as far as the next start can know of it.
    pub fn settle(&self, positions: impl Iterator<Item = Position>) {
        let mut state = self.lock();
        state.ledger.settle(positions);
        if state.ledger.has_changed() {
            self.tell_keeper(&state);
        }
    }

    /// Lets the writer wait for nothing any more, and the reader read nothing more from the disk.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.freed.notify_all();
    }

    /// Syncs everything, writes down what is settled, and ends the keeper. What is left is delivered by the next start; what
    /// is in memory only is lost, and told.
    pub fn finish(&self, deadline: Instant) {
        let mut state = self.lock();
        if state.unrecorded > 0 {
            let (path, entries) = (self.directory.path().display(), state.unrecorded);
            error!(%path, entries, "what arrived last is neither stored nor in the journal, it is lost");
        }
        state.ending = true;
        self.work.notify_all();
        self.ending.notify_all();
        while !state.ended {
            let rest = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
            let (locked, waited) = self.ended.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner);
            state = locked;
            if waited.timed_out() && !state.ended {
                warn!(path = %self.directory.path().display(), "the journal was not synced in time");
                return;
            }
        }
        let (entries, bytes) = (state.ledger.entries(), state.ledger.bytes());
        if entries > 0 {
            info!(path = %self.directory.path().display(), entries, bytes, "the journal keeps what is not stored, the next start delivers it");
        }
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.lock();
        Status {
            mode: self.config.mode,
            entries: state.ledger.entries(),
            bytes: state.ledger.bytes(),
            oldest: state.ledger.oldest(),
            problem: state.write_problem.clone().or_else(|| state.sync_problem.clone()),
            damages: state.damages,
            damaged_bytes: state.damaged_bytes,
            unrecorded: state.unrecorded,
        }
    }

    /// Waking nobody is a system call too.
    fn tell_reader(&self, state: &State) {
        if state.reader_waits {
            self.filled.notify_one();
        }
    }

    fn tell_keeper(&self, state: &State) {
        if state.keeper_waits {
            self.work.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room_for(&self, payload: usize) -> bool {
        self.waiting.is_empty()
            || self.waiting.len() < MOST_WAITING && self.waiting_bytes + payload <= MOST_WAITING_BYTES
    }

    fn wait_in_memory(&mut self, recorded: Recorded) {
        self.waiting_bytes += recorded.payload.len();
        self.unrecorded += u64::from(recorded.position.is_none());
        self.waiting.push_back(recorded);
    }

    fn damaged(&mut self, bytes: u64) {
        self.damages += 1;
        self.damaged_bytes += bytes;
    }
}

/// How many bytes of a journal are not settled; for one that is not opened, since it is turned off.
#[must_use]
pub fn left_behind(config: &Config) -> u64 {
    let settled = directory::settled(&config.path).unwrap_or_default();
    let segments = directory::segments(&config.path).unwrap_or_default();
    let unsettled = |(name, length): (directory::SegmentName, u64)| {
        length.saturating_sub(settled.get(&name.number).copied().unwrap_or_default())
    };
    segments.into_iter().map(unsettled).sum()
}

/// Why a journal could not be opened, as far as can be told without touching anything.
#[must_use]
pub fn unwritable(config: &Config) -> Option<JournalError> {
    let is_there = |path: &&std::path::Path| path.symlink_metadata().is_ok();
    let current = std::path::Path::new(".");
    let nearest = config.path.ancestors().find(is_there).unwrap_or(current);
    let access = rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    let not_a_directory = (!nearest.is_dir()).then(|| io::Error::from(io::ErrorKind::NotADirectory));
    let cause = not_a_directory.or_else(|| access.err().map(io::Error::from))?;
    Some(JournalError::Write { path: config.path.clone(), cause })
}

/// A segment that is known to have been there and was not removed by a worker.
fn report_missing(settled: &BTreeMap<u64, u64>, segments: &[(directory::SegmentName, u64)], state: &mut State) {
    for number in settled.keys().filter(|number| !segments.iter().any(|(name, _)| name.number == **number)) {
        state.damaged(0);
        error!(segment = number, "a segment of the journal is missing, what it held and was not stored is lost");
    }
}

fn is_full(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
