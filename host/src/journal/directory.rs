//! The files of a journal: segments, what of them is settled, the archive, and the lock that keeps a second worker out.
//!
//! ```text
//! 0000000012-9f3a2b1c.segment   a segment: its number, and the salt of its checksums
//! settled                       up to where each segment is settled; a loss of it only repeats events
//! archive/                      segments that are settled as a whole, for a replay
//! lock                          locked while a worker runs; names its process
//! ```
//! A segment has no header, so that no damage of a few bytes costs more than the entries that it hits.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;
use tracing::warn;

const SETTLED: &str = "settled";
const ARCHIVE: &str = "archive";
const LOCK: &str = "lock";
const SUFFIX: &str = ".segment";

/// Why there is no journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another worker has it.
    #[error("the journal `{path}` is in use by another worker{process}; give each worker a `journal.path` of its own")]
    InUse {
        /// Its directory.
        path: PathBuf,
        /// The other worker's process, if it said so.
        process: String,
    },
    /// Its directory cannot be made, or nothing can be written there.
    #[error(
        "cannot write the journal `{path}`: {cause}; make the directory writable for this user, or name another as `journal.path`, on a disk that outlives the container. `journal.mode = \"off\"` does without, and a kill then loses what is not stored"
    )]
    Write {
        /// Its directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// The name of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    /// Counts up.
    pub(crate) number: u64,
    pub(crate) salt: u32,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:010}-{:08x}{SUFFIX}", self.number, self.salt)
    }
}

impl SegmentName {
    /// The next segment, with a salt of its own.
    pub(crate) fn after(number: u64) -> Self {
        Self { number: number + 1, salt: fastrand::u32(..) }
    }

    fn parse(name: &OsStr) -> Option<Self> {
        let (number, salt) = name.to_str()?.strip_suffix(SUFFIX)?.split_once('-')?;
        let name = Self { number: number.parse().ok()?, salt: u32::from_str_radix(salt, 16).ok()? };
        // A number that nothing can follow would end the journal.
        (name.number < u64::MAX / 2).then_some(name)
    }
}

/// The directory of a journal, locked.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Holds the lock, until the process ends.
    _lock: File,
}

impl Directory {
    /// Makes the directory where it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, JournalError> {
        let unwritable = |cause| JournalError::Write { path: path.to_path_buf(), cause };
        fs::create_dir_all(path).map_err(unwritable)?;
        let lock = path.join(LOCK);
        let mut lock =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(lock).map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                let _ = lock.read_to_string(&mut process);
                let process =
                    process.trim().parse::<u32>().map_or_else(|_| String::new(), |id| format!(" (process {id})"));
                return Err(JournalError::InUse { path: path.to_path_buf(), process });
            }
            Err(TryLockError::Error(error)) => {
                warn!(path = %path.display(), %error, "the file system has no locks; see that no other worker uses this journal");
            }
        }
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
        // Only a courtesy, and a full disk is no reason not to start.
        let _ = written;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn segment_path(&self, name: SegmentName) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// The segments with their lengths, oldest first.
    pub(crate) fn segments(&self) -> io::Result<Vec<(SegmentName, u64)>> {
        segments(&self.path)
    }

    /// Creates a segment.
    pub(crate) fn create(&self, name: SegmentName) -> io::Result<File> {
        let path = self.segment_path(name);
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let file = match create() {
            // Somebody removed the directory while it was in use.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.path)?;
                create()?
            }
            created => created?,
        };
        // A new name is durable once its directory is.
        self.sync()?;
        Ok(file)
    }

    /// Syncs the names in it. It is made again, should somebody have removed it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        File::open(&self.path)?.sync_all()
    }

    pub(crate) fn remove(&self, name: SegmentName) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.segment_path(name)))
    }

    /// Moves a segment to the archive.
    pub(crate) fn archive(&self, name: SegmentName) -> io::Result<()> {
        let archive = archive_path(&self.path);
        fs::create_dir_all(&archive)?;
        ignore_missing(fs::rename(self.segment_path(name), archive.join(name.to_string())))
    }

    /// Removes the oldest segments of the archive, as many as its bounds ask for.
    pub(crate) fn prune_archive(&self, max_bytes: u64, oldest: SystemTime) -> io::Result<()> {
        let archive = archive_path(&self.path);
        let all = segments(&archive)?;
        let mut bytes: u64 = all.iter().map(|(_, length)| length).sum();
        for (name, length) in all {
            let path = archive.join(name.to_string());
            let is_old = || fs::metadata(&path).and_then(|metadata| metadata.modified()).is_ok_and(|at| at < oldest);
            if bytes <= max_bytes && !is_old() {
                break;
            }
            ignore_missing(fs::remove_file(&path))?;
            bytes -= length;
        }
        Ok(())
    }

    /// Up to where each segment is settled, as it was last written; none where that cannot be read.
    pub(crate) fn settled(&self) -> Option<BTreeMap<u64, u64>> {
        settled(&self.path)
    }

    /// Writes that anew. `durably` before a segment is removed, so that the next start does not miss it.
    pub(crate) fn write_settled(&self, settled: &[(u64, u64)], durably: bool) -> io::Result<()> {
        let json = serde_json::to_string(settled)?;
        let text = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        let new = self.path.join("settled.new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        if durably {
            file.sync_data()?;
        }
        fs::rename(&new, self.path.join(SETTLED))?;
        if durably { self.sync() } else { Ok(()) }
    }
}

pub(crate) fn archive_path(directory: &Path) -> PathBuf {
    directory.join(ARCHIVE)
}

/// The segments in a directory with their lengths, oldest first; none where there is no such directory.
pub(crate) fn segments(directory: &Path) -> io::Result<Vec<(SegmentName, u64)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (Some(name), Ok(metadata)) = (SegmentName::parse(&entry.file_name()), entry.metadata()) else { continue };
        if metadata.is_file() {
            found.push((name, metadata.len()));
        }
    }
    found.sort_unstable();
    // A copy that somebody left beside a segment under another salt cannot be read under it.
    found.dedup_by_key(|(name, _)| name.number);
    Ok(found)
}

pub(crate) fn settled(directory: &Path) -> Option<BTreeMap<u64, u64>> {
    let text = fs::read_to_string(directory.join(SETTLED)).ok()?;
    let (checksum, json) = text.trim_end().split_once(' ')?;
    let is_whole = u32::from_str_radix(checksum, 16).is_ok_and(|sum| sum == crc32fast::hash(json.as_bytes()));
    let settled: Vec<(u64, u64)> = serde_json::from_str(json).ok().filter(|_| is_whole)?;
    Some(settled.into_iter().collect())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// What the operator can do about a failed write.
pub(crate) fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, it goes on by itself",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "make it writable for this user",
        _ => "look at the disk and the kernel's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_worker_is_told_who_has_the_journal() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("deep/journal");
        let held = Directory::open(&path).expect("it is free");

        let refused = Directory::open(&path).expect_err("it is taken").to_string();

        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
        drop(held);
        Directory::open(&path).expect("it is free again");
    }

    #[test]
    fn what_is_settled_is_read_back_and_a_damaged_file_says_nothing() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(temporary.path()).expect("it is free");
        assert_eq!(directory.settled(), None);

        directory.write_settled(&[(3, 17), (5, 0)], true).expect("it is writable");

        assert_eq!(directory.settled(), Some(BTreeMap::from([(3, 17), (5, 0)])));
        let file = temporary.path().join(SETTLED);
        let whole = fs::read(&file).expect("it is there");
        for at in 0..whole.len() - 1 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file, &damaged).expect("it is writable");
            assert_eq!(directory.settled(), None, "byte {at}");
        }
    }

    #[test]
    fn only_segments_are_taken_for_segments() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name = SegmentName { number: 7, salt: 0xab };
        for file in ["dead-letters.jsonl", "lock", "x.segment", "1-zz.segment", "18446744073709551615-00000001.segment"]
        {
            fs::write(directory.path().join(file), "x").expect("it is writable");
        }
        fs::create_dir(directory.path().join("0000000001-00000001.segment")).expect("it is writable");
        fs::write(directory.path().join(name.to_string()), "xy").expect("it is writable");

        assert_eq!(segments(directory.path()).expect("it is readable"), [(name, 2)]);
    }
}
