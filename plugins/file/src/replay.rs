//! Reads the segments that an earlier process left, in order.
//!
//! A crash may tear the last entries of a segment: nobody was told that they are durable. They are cut off and said so.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use tracing::warn;

use crate::entry::{self, Entry, HEADER_BYTES};
use crate::log::MAGIC;

/// Hands every whole entry of a segment to a function, in order. Answers how many there were.
pub(crate) fn replay(path: &Path, mut each: impl FnMut(Entry) -> io::Result<()>) -> io::Result<u64> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut entries = 0;
    let mut offset = 0;
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
        let Some(read) = entry::read_body(&body, checksum) else { break };
        each(read)?;
        entries += 1;
        offset += (HEADER_BYTES + body_length) as u64;
    }
    if offset < length {
        let bytes = length - offset;
        warn!(path = %path.display(), offset, bytes, "the log ends in a torn entry, which is cut off: nobody was told that it is stored");
    }
    Ok(entries)
}
