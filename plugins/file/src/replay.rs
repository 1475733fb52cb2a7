//! Reads the segments that an earlier process left, in order.
//!
//! A crash may tear the last entries of a segment: nobody was told that they are durable. They are cut off and said so.
//! A damaged entry before whole ones is something else: the disk lost what was stored. It is left out and the segment is
//! kept beside it, for whoever can make something of it. What follows is found by the length of the damaged entry alone:
//! to search for it would find what looks like an entry in the text of an evaluation.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use tracing::{error, warn};

use crate::entry::{self, Entry, HEADER_BYTES};
use crate::log::MAGIC;

/// Hands every whole entry of a segment to a function, in order. Answers how many there were.
pub(crate) fn replay(path: &Path, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<u64> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut entries = 0;
    let mut offset = 0;
    // Where the first of the entries before `offset` stands that cannot be read and have no whole one behind them.
    let mut unread = None;
    let mut damaged = None;
    let mut magic = [0; MAGIC.len()];
    if length >= MAGIC.len() as u64 {
        reader.read_exact(&mut magic)?;
        offset = MAGIC.len() as u64;
        if magic != MAGIC && magic != [0; MAGIC.len()] {
            let found = String::from_utf8_lossy(&magic).into_owned();
            let text = format!("`{}` is no log of this version (it begins with `{found}`)", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    while offset + (HEADER_BYTES as u64) <= length {
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header)?;
        let (body_length, checksum) = entry::read_header(header);
        // Checked before anything is allocated: a torn length may be anything.
        if body_length == 0 || offset + (HEADER_BYTES + body_length) as u64 > length {
            break;
        }
        let mut body = vec![0; body_length];
        reader.read_exact(&mut body)?;
        if let Some(read) = entry::read_body(&body, checksum) {
            damaged = damaged.or(unread.take());
            each(read)?;
            entries += 1;
        } else {
            unread = unread.or(Some(offset));
        }
        offset += (HEADER_BYTES + body_length) as u64;
    }
    if let Some(offset) = damaged {
        set_aside(path, offset)?;
    }
    let offset = unread.unwrap_or(offset);
    if offset < length {
        let bytes = length - offset;
        warn!(path = %path.display(), offset, bytes, "the log ends in a torn entry, which is cut off: nobody was told that it is stored");
    }
    Ok(entries)
}

/// Keeps a copy of a damaged segment, which itself goes with the next checkpoint.
fn set_aside(path: &Path, offset: u64) -> io::Result<()> {
    let copy = path.with_extension("log.damaged");
    std::fs::copy(path, &copy)?;
    error!(
        path = %path.display(),
        set_aside = %copy.display(),
        offset,
        "the log is damaged before its end, so events that were confirmed may be missing; what could be read is kept, publish the rest again"
    );
    Ok(())
}
