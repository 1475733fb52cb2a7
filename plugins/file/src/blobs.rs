//! Blobs: one file each, named by the key.
//!
//! A key may be any text; what is no plain character of a file name is written as `%` and two hex digits. The time of a
//! blob is its file's. `backend.rs` offers them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use storage_plugin_api::{BlobEntry, BlobPage, Error, Result};

use crate::checkpoint::nanoseconds;
use crate::directory::Directory;
use crate::log::remedy;

/// Most characters of a file name.
const MAX_NAME: usize = 255;

/// The blobs of a directory.
pub(crate) struct Blobs<'a> {
    pub(crate) directory: &'a Directory,
    /// Nothing is stored and removed at the same time.
    pub(crate) lock: &'a Mutex<()>,
    pub(crate) sync: bool,
}

impl Blobs<'_> {
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let name = name_of(key)?;
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.touch_or_write(&name, bytes).map_err(|cause| self.failed("store", &name, &cause))
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let name = name_of(key)?;
        self.directory.read(&name).map_err(|cause| self.failed("read", &name, &cause))
    }

    /// A page of blobs. Reads all names for each page, but keeps only those of the page.
    pub(crate) fn scan(&self, after: &str, limit: usize) -> Result<BlobPage> {
        let mut keys = BTreeMap::new();
        let names = self.directory.names().map_err(|cause| self.failed("list", "", &cause))?;
        for name in names {
            let Some(key) = key_of(&name).filter(|key| &**key > after) else { continue };
            keys.insert(key, name);
            if keys.len() > limit.max(1) + 1 {
                keys.pop_last();
            }
        }
        let more = keys.len() > limit.max(1);
        let mut page = BlobPage { blobs: Vec::new(), more };
        for (key, name) in keys.into_iter().take(limit.max(1)) {
            match std::fs::metadata(self.directory.path_of(&name)) {
                Ok(file) => page.blobs.push(BlobEntry { key, size: file.len(), touched_at: touched_at(&file) }),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(self.failed("look at", &name, &cause)),
            }
        }
        Ok(page)
    }

    /// Removes a blob that was not stored again since a time in microseconds. True if it is gone.
    pub(crate) fn delete(&self, key: &str, untouched_since: i64) -> Result<bool> {
        let name = name_of(key)?;
        let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::metadata(self.directory.path_of(&name)) {
            Ok(file) if touched_at(&file) >= untouched_since => return Ok(false),
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(cause) => return Err(self.failed("look at", &name, &cause)),
        }
        self.directory.remove(&name).map_err(|cause| self.failed("remove", &name, &cause))?;
        Ok(true)
    }

    fn touch_or_write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match File::options().append(true).open(self.directory.path_of(name)) {
            // One that a crash left shorter is written again.
            Ok(file) if file.metadata()?.len() == bytes.len() as u64 => {
                file.set_modified(SystemTime::now())?;
                if self.sync { file.sync_all() } else { Ok(()) }
            }
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            Ok(_) | Err(_) => {
                let writing = ".writing.tmp";
                self.directory.write(writing, bytes, self.sync)?;
                self.directory.rename(writing, name)?;
                if self.sync { self.directory.sync() } else { Ok(()) }
            }
        }
    }

    fn failed(&self, what: &str, name: &str, cause: &io::Error) -> Error {
        let path = self.directory.path_of(name);
        Error::unavailable(format_args!("cannot {what} `{}`: {cause}; {}", path.display(), remedy(cause)))
    }
}

fn touched_at(file: &std::fs::Metadata) -> i64 {
    file.modified().map_or(0, |time| nanoseconds(time) / 1000)
}

/// The file name of a key.
fn name_of(key: &str) -> Result<String> {
    let mut name = String::with_capacity(key.len());
    for (index, byte) in key.bytes().enumerate() {
        match byte {
            b'.' if index > 0 => name.push('.'),
            b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => name.push(char::from(byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::invalid_item(format_args!(
            "the key of a blob has {} bytes, which make no file name; give it 1 to {MAX_NAME}",
            key.len()
        )));
    }
    Ok(name)
}

/// The key of a file name; none if it is none of ours.
fn key_of(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'.' if bytes.is_empty() => return None,
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = after;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_becomes_one_file_name() {
        for key in ["a", "sha256/ab", "../escape", ".hidden", "ü%41", "a.b"] {
            let name = name_of(key).expect("a name");
            assert!(!name.contains('/') && !name.starts_with('.'), "{name}");
            assert_eq!(key_of(&name).as_deref(), Some(key));
        }
        assert!(name_of("").is_err());
        assert!(name_of(&"x".repeat(256)).is_err());
    }
}
