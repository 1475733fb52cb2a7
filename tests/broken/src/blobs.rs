//! Blobs, a synced file for each in the directory `blobs`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use storage_plugin_api::{BlobEntry, BlobPage, Error, Result};

pub(crate) fn directory(place: &Path) -> PathBuf {
    place.join("blobs")
}

pub(crate) fn put(place: &Path, key: &str, bytes: &[u8]) -> Result<()> {
    let path = path(place, key).ok_or_else(|| Error::invalid_item("a key is the SHA-256 of the blob"))?;
    let write = || -> io::Result<()> {
        fs::create_dir_all(directory(place))?;
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        File::open(directory(place))?.sync_all()
    };
    write().map_err(Error::unavailable)
}

pub(crate) fn get(place: &Path, key: &str) -> Result<Option<Vec<u8>>> {
    let Some(path) = path(place, key) else { return Ok(None) };
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::unavailable(error)),
    }
}

pub(crate) fn scan(place: &Path, after: &str, limit: usize, is_unordered: bool) -> Result<BlobPage> {
    let files = fs::read_dir(directory(place)).into_iter().flatten().flatten();
    let mut keys: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    keys.sort();
    keys.retain(|key| key.as_str() > after);
    let more = keys.len() > limit;
    keys.truncate(limit);
    if is_unordered {
        keys.reverse();
    }
    let entry = |key: String| {
        let touched_at = touched_at(place, &key)?;
        let size = get(place, &key)?.map_or(0, |bytes| bytes.len() as u64);
        Ok(BlobEntry { key, size, touched_at })
    };
    Ok(BlobPage { blobs: keys.into_iter().map(entry).collect::<Result<_>>()?, more })
}

pub(crate) fn delete(place: &Path, key: &str, untouched_since: i64) -> Result<bool> {
    let Some(path) = path(place, key).filter(|path| path.exists()) else { return Ok(true) };
    if touched_at(place, key)? >= untouched_since {
        return Ok(false);
    }
    fs::remove_file(path).map_err(Error::unavailable)?;
    Ok(true)
}

fn touched_at(place: &Path, key: &str) -> Result<i64> {
    let modified =
        fs::metadata(directory(place).join(key)).and_then(|file| file.modified()).map_err(Error::unavailable)?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn path(place: &Path, key: &str) -> Option<PathBuf> {
    let is_key = key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_key.then(|| directory(place).join(key))
}
