//! Reads the segments that an earlier process left, in order.
//!
//! A crash may tear the last frames of a segment: nobody was told that they are durable. They are cut off and said so.
//! A damaged frame before whole ones is something else: the disk lost what was stored. It is left out and the segment is
//! kept beside it, for whoever can make something of it. What follows is found by the length of the damaged frame alone:
//! to search for it would find what looks like a frame in the text of an evaluation.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use tracing::{error, warn};

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
    // Where the first frame stands that cannot be read and has no whole one behind it so far.
    let mut unread = None;
    let mut damaged = None;
    while offset < length {
        match read_frame(&mut reader, length - offset, segment.number)? {
            Frame::Whole(read, bytes) => {
                damaged = damaged.or(unread.take());
                read.iter().try_for_each(&mut each)?;
                entries += read.len() as u64;
                offset += bytes;
            }
            Frame::Unreadable(bytes) => {
                unread = unread.or(Some(offset));
                offset += bytes;
            }
            Frame::End => break,
            Frame::Torn => {
                unread = unread.or(Some(offset));
                break;
            }
        }
    }
    if let Some(offset) = damaged {
        set_aside(&segment.path, offset)?;
    }
    if let Some(offset) = unread {
        let (path, bytes) = (segment.path.display(), length - offset);
        warn!(%path, offset, bytes, "the log ends in a torn frame, cut off: nobody was told that it is stored");
    }
    Ok(entries)
}

enum Frame {
    /// Its entries, and its length.
    Whole(Vec<Entry>, u64),
    /// Its checksum is wrong; its length may be right.
    Unreadable(u64),
    /// The mark that none follows.
    End,
    /// Cut short, or its length is nonsense.
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
    Ok(read_entries(&entries, checksum, segment)
        .map_or(Frame::Unreadable(bytes), |entries| Frame::Whole(entries, bytes)))
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
