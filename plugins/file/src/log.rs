//! The synced log: what was merged or deleted and is not yet in the record files.
//!
//! Segments `log/<number>.log` are appended to in order. Whoever merges appends all its entries in one write and then
//! waits for a sync that covers them; callers that wait at the same time share one. A position is the number of bytes
//! appended since the log was opened, older segments counted first. A segment goes when a checkpoint covers all of it.
//! `entry.rs` has the form of what is appended, `segment.rs` the files, `replay.rs` reads them back.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_plugin_api::{Error, Result};
use tracing::{debug, error, warn};

use crate::entry::{Frame, Sealed};
use crate::segment::{self, HEADER_BYTES, OldSegment, SEGMENT_BYTES};

/// How long an append waits for the next segment.
const PREPARE_PATIENCE: Duration = Duration::from_secs(2);

/// The segments of a directory, one of them open for appending.
pub(crate) struct Log {
    directory: PathBuf,
    /// False: nothing is ever synced.
    sync: bool,
    tail: Mutex<Tail>,
    progress: Mutex<Progress>,
    synced: Condvar,
    /// Told when the next segment is made, or could not be.
    prepared: Condvar,
    /// The last segment that could not be synced, and why. Held while one is synced.
    unsynced: Mutex<Option<(u64, String)>>,
    /// Why the last append failed.
    failure: Mutex<Option<String>>,
}

/// Where appending goes on.
struct Tail {
    number: u64,
    file: Arc<File>,
    /// Bytes of the open segment that hold whole frames.
    length: u64,
    /// The next segment, if it is made already. Not for one that grows.
    next: Option<Arc<File>>,
    /// The next segment is being made.
    preparing: bool,
    /// The position behind the last entry.
    end: u64,
    /// Full segments, oldest first: the number and the position behind the last entry.
    full: VecDeque<(u64, u64)>,
    /// Why the open segment must not be appended to any more.
    broken: Option<String>,
}

/// How far the log is synced.
#[derive(Default)]
struct Progress {
    synced: u64,
    running: bool,
    /// The last parts that could not be synced: from, to, why.
    failed: VecDeque<(u64, u64, String)>,
}

impl Log {
    /// Opens a new segment behind those that are there.
    pub(crate) fn open(directory: PathBuf, sync: bool, old: &[OldSegment]) -> io::Result<Self> {
        let number = old.last().map_or(1, |segment| segment.number + 1);
        let end = old.last().map_or(0, |segment| segment.end);
        let file = segment::create(&directory, number, sync)?;
        let full = old.iter().map(|segment| (segment.number, segment.end)).collect();
        let tail =
            Tail { number, file, length: HEADER_BYTES as u64, next: None, preparing: false, end, full, broken: None };
        let progress = Progress { synced: end, ..Progress::default() };
        Ok(Self {
            directory,
            sync,
            tail: Mutex::new(tail),
            progress: Mutex::new(progress),
            synced: Condvar::new(),
            prepared: Condvar::new(),
            unsynced: Mutex::new(None),
            failure: Mutex::new(None),
        })
    }

    /// Appends a frame in one write. Answers the position behind it.
    pub(crate) fn append(&self, frame: Frame) -> Result<u64> {
        if frame.is_empty() {
            return Ok(self.end());
        }
        let appended = self.try_append(frame.seal());
        let mut failure = self.lock_failure();
        match &appended {
            Ok(_) => *failure = None,
            Err(error) => *failure = Some(error.message.clone()),
        }
        appended
    }

    fn try_append(&self, mut frame: Sealed) -> Result<u64> {
        let mut tail = self.tail();
        while tail.has_no_room_for(&frame) {
            match tail.preparing {
                true => tail = self.wait_for_next(tail)?,
                false => self.rotate(&mut tail)?,
            }
        }
        if let Err(cause) = tail.file.write_all_at(frame.bytes_for(tail.number), tail.length) {
            let message = format!("cannot write to {}: {cause}; {}", self.name(tail.number), remedy(&cause));
            // What was written of it is cut off again, so that the segment stays whole.
            if let Err(cause) = tail.file.set_len(tail.length) {
                warn!(segment = tail.number, %cause, "cannot cut the log back, a new segment will be begun");
                tail.broken = Some(message.clone());
            }
            return Err(Error::unavailable(message));
        }
        tail.length += frame.length();
        tail.end += frame.length();
        Ok(tail.end)
    }

    /// Makes the next segment, unless it is there already. Only one thread may do so, and rotate outside of `append`.
    pub(crate) fn prepare(&self) {
        let number = {
            let mut tail = self.tail();
            if tail.next.is_some() {
                return;
            }
            tail.preparing = true;
            tail.number + 1
        };
        let prepared = segment::prepare(&self.directory, number, self.sync);
        let mut tail = self.tail();
        tail.preparing = false;
        match prepared {
            Ok(file) => tail.next = Some(file),
            Err(cause) => debug!(segment = number, %cause, "cannot make the next segment of the log ahead of time"),
        }
        drop(tail);
        self.prepared.notify_all();
    }

    /// Waits if the next segment is just being made: two must not make it.
    fn wait_for_next<'a>(&self, tail: MutexGuard<'a, Tail>) -> Result<MutexGuard<'a, Tail>> {
        let wait = self.prepared.wait_timeout_while(tail, PREPARE_PATIENCE, |tail| tail.preparing);
        let (tail, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
        match timeout.timed_out() {
            true => {
                Err(Error::unavailable("the next segment of the log is not made in time; the disk is slow or hangs"))
            }
            false => Ok(tail),
        }
    }

    /// Waits until everything before a position survives a crash; syncs it if nobody else does.
    pub(crate) fn sync_to(&self, position: u64, deadline: Instant) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        let mut progress = self.progress();
        loop {
            if let Some((_, _, why)) = progress.failed.iter().find(|(from, to, _)| *from < position && position <= *to)
            {
                return Err(Error::unavailable(why));
            }
            if progress.synced >= position {
                return Ok(());
            }
            if !progress.running {
                progress.running = true;
                drop(progress);
                self.sync_tail();
                progress = self.progress();
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::unavailable("the log is not synced in time; the disk is slow or hangs"));
            }
            progress = self.synced.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The position behind the last entry.
    pub(crate) fn end(&self) -> u64 {
        self.tail().end
    }

    /// Removes segments of which a checkpoint covers everything, and begins a new one if this one is no longer small.
    pub(crate) fn release(&self, position: u64) {
        let mut tail = self.tail();
        let all_covered = position >= tail.end && tail.length > SEGMENT_BYTES / 8;
        if (all_covered || tail.broken.is_some())
            && let Err(error) = self.rotate(&mut tail)
        {
            warn!(%error, "cannot begin a new segment of the log, will retry");
        }
        while let Some((number, end)) = tail.full.front().copied()
            && end <= position
        {
            if let Err(cause) = segment::retire(&self.directory, number) {
                warn!(segment = number, %cause, "cannot remove a segment of the log that is done with");
                return;
            }
            tail.full.pop_front();
        }
    }

    /// Removes everything, if a checkpoint covers all of it; for when nothing is appended any more.
    pub(crate) fn finish(&self, position: u64) {
        let mut tail = self.tail();
        // The new segment stays: it tells that those before it are done with, should their removal be lost.
        if position >= tail.end && tail.length > HEADER_BYTES as u64 {
            let _ = self.rotate(&mut tail);
        }
        drop(tail);
        self.release(position);
    }

    /// Why the last append failed, if it did and nothing was appended since.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock_failure().clone()
    }

    /// After a failed append, looks whether there is room again, so that health is right even if nobody merges.
    pub(crate) fn probe(&self) {
        if self.failure().is_none() {
            return;
        }
        let mut tail = self.tail();
        if tail.broken.is_some() && self.rotate(&mut tail).is_err() {
            return;
        }
        let written = tail.file.write_all_at(&[0; 64 * 1024], tail.length);
        if tail.file.set_len(tail.length).is_ok() && written.is_ok() {
            *self.lock_failure() = None;
        }
    }

    /// Syncs what is appended by now, and tells those who wait.
    fn sync_tail(&self) {
        let (file, number, end) = {
            let tail = self.tail();
            (Arc::clone(&tail.file), tail.number, tail.end)
        };
        let outcome = self.sync_segment(&file, number);
        if let Err(why) = &outcome {
            let mut tail = self.tail();
            if tail.number == number {
                tail.broken = Some(why.clone());
            }
        }
        let mut progress = self.progress();
        progress.running = false;
        progress.note(end, outcome);
        drop(progress);
        self.synced.notify_all();
    }

    /// Ends the open segment, synced, and begins the next.
    fn rotate(&self, tail: &mut Tail) -> Result<()> {
        let file = match tail.next.take() {
            Some(file) => file,
            None => segment::create(&self.directory, tail.number + 1, self.sync).map_err(|cause| {
                let name = self.name(tail.number + 1);
                Error::unavailable(format_args!("cannot create {name}: {cause}; {}", remedy(&cause)))
            })?,
        };
        if self.sync {
            let outcome = self.sync_segment(&tail.file, tail.number);
            self.progress().note(tail.end, outcome);
            self.synced.notify_all();
        }
        tail.full.push_back((tail.number, tail.end));
        tail.number += 1;
        tail.file = file;
        tail.length = HEADER_BYTES as u64;
        tail.broken = None;
        Ok(())
    }

    /// Syncs a segment, unless that failed before: then the kernel may have dropped what it could not write, and says so
    /// only once.
    fn sync_segment(&self, file: &File, number: u64) -> Result<(), String> {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, why)) = unsynced.as_ref().filter(|(segment, _)| *segment == number) {
            return Err(why.clone());
        }
        file.sync_data().and_then(|()| still_there(file)).map_err(|cause| {
            let path = segment::path(&self.directory, number);
            error!(path = %path.display(), %cause, "cannot sync the log");
            let why = format!("cannot sync {}: {cause}; {}", self.name(number), remedy(&cause));
            *unsynced = Some((number, why.clone()));
            why
        })
    }

    fn name(&self, number: u64) -> String {
        format!("the log `{}`", segment::path(&self.directory, number).display())
    }

    fn lock_failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    fn has_no_room_for(&self, frame: &Sealed) -> bool {
        let is_full = self.length + frame.length() > SEGMENT_BYTES && self.length > HEADER_BYTES as u64;
        self.broken.is_some() || is_full
    }
}

impl Progress {
    /// Takes over the outcome of a sync of everything before a position.
    fn note(&mut self, end: u64, outcome: Result<(), String>) {
        if end <= self.synced {
            return;
        }
        if let Err(why) = outcome {
            // Those who wait for this part find it here, and nobody waits for long.
            self.failed.push_back((self.synced, end, why));
            if self.failed.len() > 16 {
                self.failed.pop_front();
            }
        }
        self.synced = end;
    }
}

/// A file without a name goes when it is closed, however well it is synced.
fn still_there(file: &File) -> io::Result<()> {
    match file.metadata()?.nlink() {
        0 => Err(io::Error::new(io::ErrorKind::NotFound, "somebody removed it while it was written")),
        _ => Ok(()),
    }
}

/// What the operator can do about a failed write.
pub(crate) fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, it goes on by itself",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "make it writable for this user",
        _ => "look at the disk and the kernel's log",
    }
}
