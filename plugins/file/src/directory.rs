//! The directories of a store, and how a file in them is read, replaced and set aside.
//!
//! Readers of a directory never see a half-written file: it is written elsewhere and moved.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

/// The name under which a file is written before it takes its place.
const WRITING: &str = ".writing.tmp";

/// A directory that is kept open, so that its path is looked up once and not for every file.
pub(crate) struct Directory {
    path: PathBuf,
    handle: OwnedFd,
}

/// Every directory of a store.
pub(crate) struct Directories {
    pub(crate) root: PathBuf,
    pub(crate) evaluations: Directory,
    pub(crate) events: Directory,
    pub(crate) corrupt: Directory,
    pub(crate) blobs: Directory,
    /// Where files are written before they are put in their places; those that take the places of others wait there until
    /// they are durable.
    pub(crate) writing: Directory,
}

impl Directories {
    /// Opens the directories below a path; makes those that are missing.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        create_durably(&root.join("log"))?;
        let open = |name: &str| Directory::open(root.join(name));
        let directories = Self {
            root: root.to_owned(),
            evaluations: open("evaluations")?,
            events: open("events")?,
            corrupt: open("corrupt")?,
            blobs: open("blobs")?,
            writing: open("writing")?,
        };
        // What a crash left there has not taken its place, so the log has it.
        for name in directories.writing.names()? {
            directories.writing.remove(&name)?;
        }
        File::open(root)?.sync_all()?;
        Ok(directories)
    }

    /// Writes a file and puts it in its place in a directory. Only one thread may do so at a time.
    pub(crate) fn put(&self, directory: &Directory, name: &str, bytes: &[u8]) -> io::Result<()> {
        // Not beside its place: a name that comes and goes costs more where there are many.
        self.writing.write(WRITING, bytes, false)?;
        self.writing.move_to(WRITING, directory, name)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }
}

/// Makes a directory and those above it that are missing, each durable in the one above.
pub(crate) fn create_durably(path: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.is_dir();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => {}
        }
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

impl Directory {
    fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let handle = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let directory = Self { path, handle };
        directory.remove(WRITING)?;
        Ok(directory)
    }

    /// The path of a file, for messages and for calls that need one.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; none if there is none of that name.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // Not blocking, since a pipe would wait for a writer for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut file = match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file"));
        }
        let mut bytes = Vec::with_capacity(8 * 1024);
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        rustix::fs::statat(&self.handle, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Writes a file, synced if asked or where the whole file system cannot be synced at once.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], sync: bool) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let mut file = File::from(rustix::fs::openat(&self.handle, name, flags, mode)?);
        let written = file.write_all(bytes).and_then(|()| match sync || !cfg!(target_os = "linux") {
            true => file.sync_all(),
            false => Ok(()),
        });
        if written.is_err() {
            // On a full disk the half of a file would only be in the way.
            let _ = self.remove(name);
        }
        written
    }

    /// Renames a file within the directory.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Moves a file into another directory.
    pub(crate) fn move_to(&self, name: &str, target: &Self, new_name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.handle, name, &target.handle, new_name)?)
    }

    /// Removes a file. True if there was one.
    pub(crate) fn remove(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.handle, name, rustix::fs::AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.handle)?)
    }

    /// Makes everything that was written to the directory's file system durable.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        return Ok(rustix::fs::syncfs(&self.handle)?);
        #[cfg(not(target_os = "linux"))]
        return self.sync();
    }

    /// When a name in the directory last changed.
    pub(crate) fn modified(&self) -> io::Result<SystemTime> {
        fs::metadata(&self.path)?.modified()
    }

    /// Every name in the directory, in no order.
    pub(crate) fn names(&self) -> io::Result<impl Iterator<Item = String> + use<>> {
        // A name that is no UTF-8 is none of ours.
        Ok(fs::read_dir(&self.path)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()))
    }
}

/// The name of the file of an evaluation.
pub(crate) fn file_name(id: &str) -> String {
    let mut name = String::with_capacity(id.len() + 5);
    name.push_str(id);
    name.push_str(".json");
    name
}

/// True for `[A-Za-z0-9][A-Za-z0-9._:@~+-]{0,63}`: such an id is a file name and never a path.
pub(crate) fn is_valid_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    id.len() <= 64
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._:@~+-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_the_grammar_become_file_names() {
        for id in ["a", "20250101_000000_abcdef01", "A.b:c@d~e+f-g", &"x".repeat(64)] {
            assert!(is_valid_id(id), "{id}");
        }
        for id in ["", ".", "..", "../escape", "a/b", "-a", ".a", "a\0", "a b", "ü", &"x".repeat(65)] {
            assert!(!is_valid_id(id), "{id}");
        }
    }
}
