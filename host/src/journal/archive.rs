//! Reads the archive of a journal, and what the journal still holds, for a replay. A worker may run meanwhile.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::{fs, io};

use thiserror::Error;

use super::directory::{self, SegmentName};
use super::frame::{Entry, Found, recover};
use super::ledger::Position;

/// An entry that was read back, or a place where none could be.
#[derive(Debug)]
pub struct Archived {
    /// Where it is; later ones have greater ones, so a replay that was cut short can go on behind it.
    pub position: Position,
    /// The entry. What could not be read back is passed over.
    pub entry: Result<ArchivedEntry, ArchiveError>,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedEntry {
    /// The channel it arrived on.
    pub channel: String,
    /// The message.
    pub payload: Vec<u8>,
    /// When it arrived, in microseconds since 1970.
    pub received_at: i64,
}

/// What could not be read back.
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
    /// It is no journal.
    #[error("`{path}` holds no segment of a journal; name the directory that `journal.path` is")]
    NoJournal {
        /// The directory.
        path: PathBuf,
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
/// What is not whole at the end of the last segment is left out, and no damage: it may be being written.
///
/// # Errors
/// When the directory cannot be read, or is no journal.
pub fn read_archive(path: &Path, received_at: RangeInclusive<i64>) -> Result<Archive, ArchiveError> {
    let mut segments = Vec::new();
    // The journal first: what goes to the archive meanwhile is then seen once or twice, and not missed.
    for directory in [path.to_path_buf(), directory::archive_path(path)] {
        let found = directory::segments(&directory);
        let found = found.map_err(|cause| ArchiveError::Read { path: directory.clone(), cause })?;
        segments.extend(found.into_iter().map(|(name, _)| name));
    }
    if segments.is_empty() {
        return Err(ArchiveError::NoJournal { path: path.to_path_buf() });
    }
    segments.sort_unstable();
    segments.dedup();
    let places = [directory::archive_path(path), path.to_path_buf()];
    Ok(Archive { places, segments: segments.into(), received_at, found: VecDeque::new() })
}

/// See [`read_archive`].
#[derive(Debug)]
pub struct Archive {
    places: [PathBuf; 2],
    segments: VecDeque<SegmentName>,
    received_at: RangeInclusive<i64>,
    /// What was read of the segment at hand.
    found: VecDeque<Archived>,
}

impl Archive {
    /// Leaves out everything up to an entry, and that entry too.
    pub fn skip_to(&mut self, last: Position) {
        self.segments.retain(|name| name.number >= last.segment);
        self.found.clear();
        if let Some(name) = self.segments.pop_front() {
            self.load(name);
            self.found.retain(|found| found.position > last);
        }
    }

    fn load(&mut self, name: SegmentName) {
        let file = name.to_string();
        let paths = self.places.each_ref().map(|place| place.join(&file));
        // It may have gone to the archive between the two looks, or from there for good.
        let read = || paths.iter().find_map(|path| fs::read(path).ok().map(|bytes| (path.clone(), bytes)));
        let Some((path, bytes)) = read().or_else(read) else {
            let cause = io::Error::new(io::ErrorKind::NotFound, "it was removed meanwhile, or cannot be read");
            let position = Position { segment: name.number, at: 0 };
            self.found
                .push_back(Archived { position, entry: Err(ArchiveError::Read { path: paths[0].clone(), cause }) });
            return;
        };
        let is_last = self.segments.is_empty();
        for found in recover(&bytes, name.salt) {
            let (at, entry) = match found {
                Found::Entry { at, entry, .. } if self.received_at.contains(&entry.received_at) => {
                    let Entry { channel, payload, received_at } = entry;
                    let (channel, payload) = (channel.to_owned(), payload.to_vec());
                    (at, Ok(ArchivedEntry { channel, payload, received_at }))
                }
                Found::Entry { .. } => continue,
                Found::Damage { is_tail, .. } if is_tail && is_last => continue,
                Found::Damage { at, end, .. } => {
                    let (path, bytes) = (path.clone(), (end - at) as u64);
                    (at, Err(ArchiveError::Damaged { path, at: at as u64, bytes }))
                }
            };
            let position = Position { segment: name.number, at: at as u64 };
            self.found.push_back(Archived { position, entry });
        }
    }
}

impl Iterator for Archive {
    type Item = Archived;

    fn next(&mut self) -> Option<Archived> {
        while self.found.is_empty() {
            let name = self.segments.pop_front()?;
            self.load(name);
        }
        self.found.pop_front()
    }
}
