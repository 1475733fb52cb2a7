//! Single files, and the directory that has them.
//!
//! A file is the version (8 bytes) and then the document. It is written under another name and renamed, so that the
//! end of the process leaves the old document or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use storage_plugin_api::{Document, Error, Result};

use crate::failed;

const ENDING: &str = ".document";
/// Longest name without its ending; file systems take 255 bytes.
const MAX_NAME: usize = 240;
const UNFINISHED: &str = "unfinished";

/// A directory that no other process has open to write.
pub(crate) struct Directory {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Directory {
    /// A command that only reads makes no directory.
    pub(crate) fn open(path: &Path, read_only: bool) -> Result<Self> {
        if !read_only {
            fs::create_dir_all(path).map_err(|error| failed("make the directory", error))?;
        } else if !path.is_dir() {
            return Err(Error::configuration(format_args!(
                "nothing is stored in `{}`",
                path.display()
            )));
        }
        let handle = File::open(path).map_err(|error| failed("open the directory", error))?;
        match handle.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: handle,
            }),
            Err(TryLockError::WouldBlock) => {
                let path = path.display();
                Err(Error::unavailable(format_args!(
                    "another process has `{path}` open; end it first"
                )))
            }
            Err(TryLockError::Error(error)) => Err(failed("lock the directory", error)),
        }
    }

    /// The version of every document.
    pub(crate) fn versions(&self) -> Result<BTreeMap<String, u64>> {
        let mut versions = BTreeMap::new();
        for entry in
            fs::read_dir(&self.path).map_err(|error| failed("list the directory", error))?
        {
            let entry = entry.map_err(|error| failed("list the directory", error))?;
            let name = entry.file_name();
            if let Some(id) = name
                .to_str()
                .and_then(|name| decode(name.strip_suffix(ENDING)?))
            {
                let mut version = [0; 8];
                let read =
                    File::open(entry.path()).and_then(|mut file| file.read_exact(&mut version));
                match read {
                    Ok(()) => drop(versions.insert(id, u64::from_le_bytes(version))),
                    // A crash of the machine has left a part of what was never synced.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
                    Err(error) => {
                        return Err(failed(&format!("read `{}`", entry.path().display()), error));
                    }
                }
            }
        }
        Ok(versions)
    }

    pub(crate) fn read(&self, id: &str) -> Result<Document> {
        let bytes = fs::read(self.file(id)).map_err(|error| failed("read a document", error))?;
        match bytes.split_first_chunk() {
            Some((version, bytes)) => Ok(Document {
                version: u64::from_le_bytes(*version),
                bytes: bytes.to_vec(),
            }),
            None => Err(Error::unavailable(format_args!(
                "`{}` is damaged",
                self.file(id).display()
            ))),
        }
    }

    /// Not synced: a crash of the machine may lose it, and `check` says so.
    pub(crate) fn write(&self, id: &str, version: u64, bytes: &[u8]) -> Result<()> {
        if encode(id).len() > MAX_NAME {
            return Err(Error::invalid_item(
                "the id is too long for the name of a file",
            ));
        }
        let unfinished = self.path.join(UNFINISHED);
        let write = || {
            let mut file = File::create(&unfinished)?;
            file.write_all(&version.to_le_bytes())?;
            file.write_all(bytes)?;
            fs::rename(&unfinished, self.file(id))
        };
        write().map_err(|error| failed("write a document", error))
    }

    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        fs::remove_file(self.file(id)).map_err(|error| failed("delete a document", error))
    }

    fn file(&self, id: &str) -> PathBuf {
        self.path.join(format!("{}{ENDING}", encode(id)))
    }
}

/// In hexadecimal, since some file systems take `a` and `A` for the same.
fn encode(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(name: &str) -> Option<String> {
    let pairs = (0..name.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(name.get(at..at + 2)?, 16).ok());
    String::from_utf8(pairs.collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_told_apart_and_read_back() {
        for id in ["a", "A", "x:1@host~2+b-c_d.e"] {
            assert_eq!(decode(&encode(id)).as_deref(), Some(id));
        }
        assert_ne!(encode("a").to_lowercase(), encode("A").to_lowercase());
        assert_eq!(decode("unfinished"), None);
    }
}
