//! Reads the segments that an earlier process left, in order.
//!
//! A crash may tear the last frame of a segment: nobody was told that it is durable. It is cut off and said so.

use std::fs::File;
use std::io::{self, BufReader, Read};

use tracing::warn;

use crate::entry::{Entry, FRAME_HEADER, read_entries, read_header};
use crate::segment::{HEADER_BYTES, MAGIC, OldSegment, is_header_of};

/// Hands every entry of a segment's whole frames to a function, in order. Answers how many there were.
pub(crate) fn replay(segment: &OldSegment, mut each: impl FnMut(&Entry) -> io::Result<()>) -> io::Result<u64> {
    let file = File::open(&segment.path)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut header = [0; HEADER_BYTES];
    // Without its header a segment was made and never appended to.
    if length < HEADER_BYTES as u64 {
        return Ok(0);
    }
    reader.read_exact(&mut header)?;
    if !header.starts_with(&MAGIC) && header != [0; HEADER_BYTES] {
        let found = String::from_utf8_lossy(&header[..MAGIC.len()]).into_owned();
        let text = format!("`{}` is no log of this version (it begins with `{found}`)", segment.path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if !is_header_of(&header, segment.number) {
        return Ok(0);
    }
    let mut entries = 0;
    let mut offset = HEADER_BYTES as u64;
    while offset < length {
        match read_frame(&mut reader, length - offset, segment.number)? {
            Frame::Whole(read, bytes) => {
                read.iter().try_for_each(&mut each)?;
                entries += read.len() as u64;
                offset += bytes;
            }
            Frame::End => return Ok(entries),
            Frame::Torn => {
                let (path, bytes) = (segment.path.display(), length - offset);
                warn!(%path, offset, bytes, "the log ends in a torn frame, cut off: nobody was told that it is stored");
                return Ok(entries);
            }
        }
    }
    Ok(entries)
}

enum Frame {
    /// Its entries, and its length.
    Whole(Vec<Entry>, u64),
    /// The mark that none follows.
    End,
    Torn,
}

fn read_frame(reader: &mut impl Read, left: u64, segment: u64) -> io::Result<Frame> {
    if left < FRAME_HEADER as u64 {
        return Ok(Frame::Torn);
    }
    let mut header = [0; FRAME_HEADER];
    reader.read_exact(&mut header)?;
    if header == [0; FRAME_HEADER] {
        return Ok(Frame::End);
    }
    let (length, checksum) = read_header(header);
    let bytes = (FRAME_HEADER + length) as u64;
    // Checked before anything is allocated: a torn length may be anything.
    if bytes > left {
        return Ok(Frame::Torn);
    }
    let mut entries = vec![0; length];
    reader.read_exact(&mut entries)?;
    Ok(read_entries(&entries, checksum, segment).map_or(Frame::Torn, |entries| Frame::Whole(entries, bytes)))
}
