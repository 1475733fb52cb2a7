//! The files of the log: how they are named, made ahead of time and used again.
//!
//! A sync of a file that grows, or of one of fresh blocks, waits for the journal of the file system, which a checkpoint
//! keeps busy. So the next segment is made ahead, all zeros, and those that are done with are used again: to append
//! then only changes blocks that are there. `log.rs` decides when.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a segment begins with; the digit is the version of its format. Its number follows.
pub(crate) const MAGIC: [u8; 8] = *b"SWFLOG 1";
/// Bytes before the first frame.
pub(crate) const HEADER_BYTES: usize = 16;
/// A segment that has this many bytes gets no more.
pub(crate) const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// A segment that is done with, kept to be used again.
const SPARE: &str = "spare";

/// A segment that was there when the log was opened.
#[derive(Clone, Debug)]
pub(crate) struct OldSegment {
    pub(crate) path: PathBuf,
    pub(crate) number: u64,
    /// The position behind its last byte.
    pub(crate) end: u64,
}

/// The segments of a directory, oldest first.
///
/// They are removed oldest first. One before a gap is left over from a crash that lost only its removal; to replay it
/// would repeat deletes of what was stored again since.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<OldSegment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
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
        fs::remove_file(&left_over.path)?;
    }
    let mut end = 0;
    for segment in &mut segments {
        end += segment.end;
        segment.end = end;
    }
    Ok(segments)
}

/// Makes a segment that grows as it is appended to; quick.
pub(crate) fn create(directory: &Path, number: u64, sync: bool) -> io::Result<Arc<File>> {
    let path = path(directory, number);
    let create = || {
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        begin(&file, directory, number, sync)?;
        Ok(Arc::new(file))
    };
    // An empty segment is of no use; the next attempt makes it anew.
    create().inspect_err(|_| drop(fs::remove_file(&path)))
}

/// Makes a segment of full length, of the spare one if there is one.
pub(crate) fn prepare(directory: &Path, number: u64, sync: bool) -> io::Result<Arc<File>> {
    let path = path(directory, number);
    let prepare = || {
        let is_recycled = fs::rename(directory.join(SPARE), &path).is_ok();
        let file = File::options().write(true).create(true).truncate(false).open(&path)?;
        let zeros = vec![0; 256 * 1024];
        let mut length = if is_recycled { file.metadata()?.len() } else { 0 };
        while length < SEGMENT_BYTES {
            file.write_all_at(&zeros, length)?;
            length += zeros.len() as u64;
        }
        begin(&file, directory, number, sync)?;
        Ok(Arc::new(file))
    };
    prepare().inspect_err(|_| drop(fs::remove_file(&path)))
}

/// Takes a segment out of the log: it becomes the spare one, or goes.
pub(crate) fn retire(directory: &Path, number: u64) -> io::Result<()> {
    let (path, spare) = (path(directory, number), directory.join(SPARE));
    let is_full = fs::metadata(&path).is_ok_and(|file| file.len() >= SEGMENT_BYTES && file.len() < 2 * SEGMENT_BYTES);
    let retired = if is_full && !spare.exists() { fs::rename(&path, &spare) } else { fs::remove_file(&path) };
    retired.or_else(|cause| if cause.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(cause) })
}

/// True if these are the first bytes of the segment of a number.
pub(crate) fn is_header_of(header: &[u8; HEADER_BYTES], number: u64) -> bool {
    *header == header_of(number)
}

pub(crate) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:012}.log"))
}

/// Writes the header and the mark that no frame follows.
fn begin(file: &File, directory: &Path, number: u64, sync: bool) -> io::Result<()> {
    let mut bytes = [0; HEADER_BYTES + crate::entry::FRAME_HEADER];
    bytes[..HEADER_BYTES].copy_from_slice(&header_of(number));
    file.write_all_at(&bytes, 0)?;
    if sync {
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

fn header_of(number: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[MAGIC.len()..].copy_from_slice(&number.to_le_bytes());
    header
}
