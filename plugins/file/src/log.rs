//! The synced log: what was merged or deleted and is not yet in the record files.
//!
//! Segments `log/<number>.log` are appended to in order. Whoever merges appends all its entries in one write and then
//! waits for a sync that covers them; callers that wait at the same time share one. A position is the number of bytes
//! appended since the log was opened, older segments counted first. A segment goes when a checkpoint covers all of it.
//! `entry.rs` has the form of an entry, `replay.rs` reads segments back.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use storage_plugin_api::{Error, Result};
use tracing::{error, warn};

/// What a segment begins with; the digit is the version of its format.
pub(crate) const MAGIC: [u8; 8] = *b"SWFLOG 1";

/// A segment that has this many bytes gets no more: so old ones can go while new ones are written.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// The segments of a directory, one of them open for appending.
pub(crate) struct Log {
    directory: PathBuf,
    /// False: nothing is ever synced.
    sync: bool,
    tail: Mutex<Tail>,
    progress: Mutex<Progress>,
    synced: Condvar,
    /// Why the last append failed.
    failure: Mutex<Option<String>>,
}

/// Where appending goes on.
struct Tail {
    number: u64,
    file: Arc<File>,
    /// Bytes of the open segment that hold whole entries.
    length: u64,
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

/// A segment that was there when the log was opened.
#[derive(Clone, Debug)]
pub(crate) struct OldSegment {
    pub(crate) path: PathBuf,
    number: u64,
    /// The position behind its last byte.
    pub(crate) end: u64,
}

/// The segments of a directory, oldest first.
///
/// They are removed oldest first. One before a gap is left over from a crash that lost only its removal; to replay it
/// would repeat deletes of what was stored again since.
pub(crate) fn segments(directory: &Path) -> io::Result<Vec<OldSegment>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|digits| digits.parse().ok());
        if let Some(number) = number {
            segments.push(OldSegment { path: entry.path(), number, end: entry.metadata()?.len() });
        }
    }
    segments.sort_by_key(|segment| segment.number);
    let gap = segments.windows(2).rposition(|pair| pair[0].number + 1 != pair[1].number);
    for left_over in segments.drain(..gap.map_or(0, |gap| gap + 1)) {
        std::fs::remove_file(&left_over.path)?;
    }
    let mut end = 0;
    for segment in &mut segments {
        end += segment.end;
        segment.end = end;
    }
    Ok(segments)
}

impl Log {
    /// Opens a new segment behind those that are there.
    pub(crate) fn open(directory: PathBuf, sync: bool, old: &[OldSegment]) -> io::Result<Self> {
        let number = old.last().map_or(1, |segment| segment.number + 1);
        let end = old.last().map_or(0, |segment| segment.end);
        let file = create_segment(&directory, number, sync)?;
        let full = old.iter().map(|segment| (segment.number, segment.end)).collect();
        let length = MAGIC.len() as u64;
        let tail = Tail { number, file, length, end, full, broken: None };
        let progress = Progress { synced: end, ..Progress::default() };
        Ok(Self {
            directory,
            sync,
            tail: Mutex::new(tail),
            progress: Mutex::new(progress),
            synced: Condvar::new(),
            failure: Mutex::new(None),
        })
    }

    /// Appends entries in one write. Answers the position behind them.
    pub(crate) fn append(&self, entries: &[u8]) -> Result<u64> {
        let appended = self.try_append(entries);
        let mut failure = self.lock_failure();
        match &appended {
            Ok(_) => *failure = None,
            Err(error) => *failure = Some(error.message.clone()),
        }
        appended
    }

    fn try_append(&self, entries: &[u8]) -> Result<u64> {
        let mut tail = self.tail();
        if tail.broken.is_some() || tail.length >= SEGMENT_BYTES {
            self.rotate(&mut tail)?;
        }
        if let Err(cause) = tail.file.write_all_at(entries, tail.length) {
            let message = format!("cannot write to {}: {cause}; {}", self.name(tail.number), remedy(&cause));
            // What was written of it is cut off again, so that the segment stays whole.
            if let Err(cause) = tail.file.set_len(tail.length) {
                warn!(segment = tail.number, %cause, "cannot cut the log back, a new segment will be begun");
                tail.broken = Some(message.clone());
            }
            return Err(Error::unavailable(message));
        }
        tail.length += entries.len() as u64;
        tail.end += entries.len() as u64;
        Ok(tail.end)
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
            let path = segment_path(&self.directory, number);
            match std::fs::remove_file(&path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    warn!(path = %path.display(), %cause, "cannot remove a segment of the log that is done with");
                    return;
                }
                _ => tail.full.pop_front(),
            };
        }
    }

    /// Removes everything, if a checkpoint covers all of it; for when nothing is appended any more.
    pub(crate) fn finish(&self, position: u64) {
        let mut tail = self.tail();
        // The new segment stays: it tells that those before it are done with, should their removal be lost.
        if position >= tail.end && tail.length > MAGIC.len() as u64 {
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
        let outcome = file.sync_data().and_then(|()| still_there(&file));
        if let Err(cause) = &outcome {
            // The kernel may have dropped what it could not write: this segment is not trusted with anything new.
            let mut tail = self.tail();
            if tail.number == number {
                tail.broken = Some(cause.to_string());
            }
        }
        let mut progress = self.progress();
        progress.running = false;
        progress.note(end, outcome.map_err(|cause| self.sync_failed(number, &cause)));
        drop(progress);
        self.synced.notify_all();
    }

    /// Ends the open segment, synced, and begins the next.
    fn rotate(&self, tail: &mut Tail) -> Result<()> {
        let file = create_segment(&self.directory, tail.number + 1, self.sync).map_err(|cause| {
            let name = self.name(tail.number + 1);
            Error::unavailable(format_args!("cannot create {name}: {cause}; {}", remedy(&cause)))
        })?;
        if self.sync {
            // What follows a failed sync is not trusted either, whatever the next one says.
            let outcome = match tail.broken.take() {
                Some(why) => Err(why),
                None => {
                    let synced = tail.file.sync_data().and_then(|()| still_there(&tail.file));
                    synced.map_err(|cause| self.sync_failed(tail.number, &cause))
                }
            };
            self.progress().note(tail.end, outcome);
            self.synced.notify_all();
        }
        tail.full.push_back((tail.number, tail.end));
        tail.number += 1;
        tail.file = file;
        tail.length = MAGIC.len() as u64;
        tail.broken = None;
        Ok(())
    }

    fn sync_failed(&self, number: u64, cause: &io::Error) -> String {
        let message = format!("cannot sync {}: {cause}; {}", self.name(number), remedy(cause));
        error!(path = %segment_path(&self.directory, number).display(), %cause, "cannot sync the log");
        message
    }

    fn name(&self, number: u64) -> String {
        format!("the log `{}`", segment_path(&self.directory, number).display())
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

fn create_segment(directory: &Path, number: u64, sync: bool) -> io::Result<Arc<File>> {
    let path = segment_path(directory, number);
    let create = || {
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        file.write_all_at(&MAGIC, 0)?;
        if sync {
            file.sync_all()?;
            File::open(directory)?.sync_all()?;
        }
        Ok(Arc::new(file))
    };
    create().inspect_err(|_| {
        // An empty segment is of no use; the next attempt makes it anew.
        let _ = std::fs::remove_file(&path);
    })
}

fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:012}.log"))
}

/// What the operator can do about a failed write.
pub(crate) fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, it goes on by itself",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "make it writable for this user",
        _ => "look at the disk and the kernel's log",
    }
}
