//! The files of a database: the directory that they are in, and whether those that are open still have their names.
//!
//! SQLite goes on writing to a database that somebody moved away or removed, and what it says is stored is gone. The files
//! are only looked at, never opened: closing one would drop the locks that SQLite of this process holds on it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files of a database, as they were at some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files {
    database: Option<File>,
    log: Option<File>,
}

#[derive(Clone, Copy, Debug)]
struct File {
    device: u64,
    inode: u64,
    bytes: u64,
}

impl Files {
    pub(crate) fn of(path: &Path) -> Self {
        Self { database: File::of(path), log: File::of(&log_of(path)) }
    }

    /// True if these are the same files, whatever was written to them.
    pub(crate) fn are_those_of(&self, other: &Self) -> bool {
        let identity = |file: Option<File>| file.map(|file| (file.device, file.inode));
        identity(self.database) == identity(other.database) && identity(self.log) == identity(other.log)
    }

    pub(crate) fn database_bytes(&self) -> u64 {
        self.database.map_or(0, |file| file.bytes)
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.log.map_or(0, |file| file.bytes)
    }
}

impl File {
    fn of(path: &Path) -> Option<Self> {
        let identify = |file: Metadata| Self { device: file.dev(), inode: file.ino(), bytes: file.len() };
        std::fs::metadata(path).ok().map(identify)
    }
}

/// Makes the directory of a database, so that it is there after a crash of the machine too.
pub(crate) fn make_directory_of(path: &Path) -> io::Result<()> {
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|directory| !directory.exists()).collect();
    while let Some(directory) = missing.pop() {
        match std::fs::create_dir(directory) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => directory.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())?,
        }
    }
    Ok(())
}

/// The write-ahead log of a database.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}
