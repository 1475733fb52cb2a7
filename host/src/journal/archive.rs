//! Reads the archive of a journal, and what the journal still holds, for a replay. A worker may run meanwhile.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::{fs, io};

use thiserror::Error;

use super::directory::{self, SegmentName};
use super::frame::{Found, recover};
use super::ledger::Position;

/// An entry that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The channel it arrived on.
    pub channel: String,
    /// The message.
    pub payload: Vec<u8>,
    /// When it arrived, in microseconds since 1970.
    pub received_at: i64,
    /// Where it is; later entries have greater ones, so a replay that was cut short can go on behind it.
    pub position: Position,
}

/// What could not be read back. Reading goes on behind it.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// A segment, or the directory, cannot be read.
    #[error("cannot read `{path}`: {cause}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A part of a segment is no entry.
    #[error("`{path}` is damaged: {bytes} bytes at {at} are skipped")]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// Where the damage begins.
        at: u64,
        /// How long it is.
        bytes: u64,
    },
}

/// The entries that arrived within a time, oldest segment first: those of the archive, then those that the journal holds.
///
/// What of a segment that is being written to is not whole yet is left out, and no damage.
///
/// # Errors
/// When the directory cannot be read.
pub fn read_archive(path: &Path, received_at: RangeInclusive<i64>) -> Result<Archive, ArchiveError> {
    let mut segments = Vec::new();
    // The journal first: what goes to the archive meanwhile is then seen once or twice, and not missed.
    for directory in [path.to_path_buf(), directory::archive_path(path)] {
        let found = directory::segments(&directory);
        let found = found.map_err(|cause| ArchiveError::Read { path: directory.clone(), cause })?;
        segments.extend(found.into_iter().map(|(name, _)| name));
    }
    segments.sort_unstable();
    segments.dedup();
    let places = [directory::archive_path(path), path.to_path_buf()];
    Ok(Archive { places, segments: segments.into(), received_at, entries: VecDeque::new() })
}

/// See [`read_archive`].
#[derive(Debug)]
pub struct Archive {
    places: [PathBuf; 2],
    segments: VecDeque<SegmentName>,
    received_at: RangeInclusive<i64>,
    /// What was read of the segment at hand.
    entries: VecDeque<Result<Archived, ArchiveError>>,
}

impl Archive {
    /// Leaves out everything up to an entry, and that entry too.
    pub fn skip_to(&mut self, last: Position) {
        self.segments.retain(|name| name.number >= last.segment);
        self.entries.clear();
        if let Some(name) = self.segments.pop_front() {
            self.load(name);
            let is_later = |found: &Result<Archived, ArchiveError>| match found {
                Ok(entry) => entry.position > last,
                Err(_) => true,
            };
            self.entries.retain(is_later);
        }
    }

    fn load(&mut self, name: SegmentName) {
        let file = name.to_string();
        let paths = self.places.each_ref().map(|place| place.join(&file));
        // It may have gone to the archive between the two looks, or from there for good.
        let read = || paths.iter().find_map(|path| fs::read(path).ok().map(|bytes| (path.clone(), bytes)));
        let Some((path, bytes)) = read().or_else(read) else {
            let cause = io::Error::new(io::ErrorKind::NotFound, "it was removed meanwhile, or cannot be read");
            self.entries.push_back(Err(ArchiveError::Read { path: paths[0].clone(), cause }));
            return;
        };
        for found in recover(&bytes, name.salt) {
            match found {
                Found::Entry { at, entry, .. } if self.received_at.contains(&entry.received_at) => {
                    self.entries.push_back(Ok(Archived {
                        channel: entry.channel.to_owned(),
                        payload: entry.payload.to_vec(),
                        received_at: entry.received_at,
                        position: Position { segment: name.number, at: at as u64 },
                    }));
                }
                Found::Entry { .. } | Found::Damage { is_tail: true, .. } => {}
                Found::Damage { at, end, is_tail: false } => {
                    let (at, bytes) = (at as u64, (end - at) as u64);
                    self.entries.push_back(Err(ArchiveError::Damaged { path: path.clone(), at, bytes }));
                }
            }
        }
    }
}

impl Iterator for Archive {
    type Item = Result<Archived, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.entries.is_empty() {
            let name = self.segments.pop_front()?;
            self.load(name);
        }
        self.entries.pop_front()
    }
}
