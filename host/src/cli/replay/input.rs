//! Where replayed events come from: lines of a file or of standard input, a range of a stream, or a journal.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail};

use super::super::UsageError;
use crate::journal::Position;
use crate::journal::archive::{Archive, Archived};
use crate::replay::record::Record;
use crate::source::streams::Range;

/// Longest line that is read; a longer one is no event.
const MAX_LINE_BYTES: u64 = 64 * 1024 * 1024;
/// About so many bytes are taken at once.
pub(super) const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// So many entries of a stream are read before it is known how large they are.
const FIRST_ENTRIES: usize = 16;

/// Where in the input something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// For people: `line 7`, `entry 1700-0`, `segment 12 at 345`.
    pub(super) name: String,
    /// Where to go on behind it.
    pub(super) next: String,
}

/// One thing that was read: an event, or why it is none.
pub(super) type Found = (Place, Result<Record, String>);

/// An input, read from its beginning or from where a replay before ended.
pub(super) enum Input {
    Lines {
        reader: BufReader<File>,
        offset: u64,
        line: u64,
    },
    /// With how many entries are read at once, so that they are about as many bytes as a batch may have.
    Stream {
        range: Box<Range>,
        count: usize,
    },
    Journal(Box<Archive>),
}

impl Input {
    /// Lines of a file.
    pub(super) fn file(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        Ok(Self::lines(file))
    }

    /// Lines of standard input, which are kept in a temporary file, so that all can be looked at before any is stored.
    pub(super) fn standard() -> anyhow::Result<Self> {
        let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
        std::io::copy(&mut std::io::stdin().lock(), &mut file).context("cannot read standard input")?;
        file.flush()?;
        file.rewind()?;
        Ok(Self::lines(file))
    }

    /// A range of a stream.
    pub(super) fn stream(range: Range) -> Self {
        Self::Stream { range: Box::new(range), count: FIRST_ENTRIES }
    }

    fn lines(file: File) -> Self {
        Self::Lines { reader: BufReader::with_capacity(256 * 1024, file), offset: 0, line: 0 }
    }

    /// Goes on behind a place: its `next`.
    pub(super) fn skip_to(&mut self, next: &str) -> anyhow::Result<()> {
        match self {
            Self::Stream { range, .. } => range.skip_to(next),
            Self::Journal(archive) => {
                let (segment, at) = next.split_once(':').context("the position to go on from is none")?;
                archive.skip_to(Position { segment: segment.parse()?, at: at.parse()? });
            }
            Self::Lines { reader, offset, line } => {
                let (at, lines) = next.split_once(':').context("the position to go on from is none")?;
                (*offset, *line) = (at.parse()?, lines.parse()?);
                let length = reader.get_ref().metadata()?.len();
                if *offset > length {
                    bail!(UsageError(format!(
                        "the position is behind {offset} bytes, and the file has {length}: it is not the one that was replayed; replay it from its beginning, with another file for the position"
                    )));
                }
                reader.seek(SeekFrom::Start(*offset))?;
            }
        }
        Ok(())
    }

    /// The next events, at most so many; none at the end.
    pub(super) fn read(&mut self, count: usize) -> anyhow::Result<Vec<Found>> {
        match self {
            Self::Stream { range, count: at_once } => {
                let entries = range.read(count.min(*at_once)).context("cannot read the stream")?;
                let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
                *at_once = (BATCH_BYTES * entries.len() / bytes.max(1)).clamp(1, FIRST_ENTRIES.max(2 * *at_once));
                let found = entries.into_iter().map(|entry| {
                    let place = Place { name: format!("entry {}", entry.id), next: entry.id };
                    let (channel, payload) = (entry.channel, entry.payload);
                    (place, Ok(Record { channel, payload, event_id: entry.event_id, time: entry.time }))
                });
                Ok(found.collect())
            }
            Self::Journal(archive) => {
                let (mut found, mut bytes) = (Vec::new(), 0);
                while found.len() < count
                    && bytes < BATCH_BYTES
                    && let Some(Archived { position: Position { segment, at }, entry }) = archive.next()
                {
                    let place = Place { name: format!("segment {segment} at {at}"), next: format!("{segment}:{at}") };
                    bytes += entry.as_ref().map_or(0, |entry| entry.payload.len());
                    let record = entry.map(|entry| Record {
                        channel: entry.channel,
                        payload: entry.payload,
                        event_id: None,
                        // What counts for an event that tells none itself, as it did when it arrived.
                        time: Some(entry.received_at),
                    });
                    found.push((place, record.map_err(|error| error.to_string())));
                }
                Ok(found)
            }
            Self::Lines { reader, offset, line } => {
                let (mut found, mut bytes) = (Vec::new(), 0);
                while found.len() < count && bytes < BATCH_BYTES {
                    let mut text = Vec::new();
                    let read = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
                    if read == 0 {
                        break;
                    }
                    *offset += read as u64;
                    let is_cut = read as u64 == MAX_LINE_BYTES && !text.ends_with(b"\n");
                    if is_cut {
                        *offset += reader.skip_until(b'\n')? as u64;
                    }
                    *line += 1;
                    if text.trim_ascii().is_empty() {
                        continue;
                    }
                    bytes += read;
                    let place = Place { name: format!("line {line}"), next: format!("{offset}:{line}") };
                    let record = if is_cut { Err("it is too long".to_owned()) } else { Record::parse(&text) };
                    found.push((place, record));
                }
                Ok(found)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Input {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(text.as_bytes()).and_then(|()| file.rewind()).expect("it is writable");
        Input::lines(file)
    }

    /// So many used to be a batch, and an empty batch the end.
    #[test]
    fn blank_lines_are_passed_over_however_many_there_are() {
        let mut input = input(&("\n".repeat(BATCH_BYTES + 1) + "{}\n"));

        let found = input.read(10).expect("it is readable");

        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.name, format!("line {}", BATCH_BYTES + 2));
        assert!(input.read(10).expect("it is readable").is_empty());
    }

    /// Of a shorter file nothing used to be read, and that passed for its end.
    #[test]
    fn a_position_beyond_the_file_is_refused() {
        let mut input = input("{}\n{}\n");

        let error = input.skip_to("7:3").expect_err("it has 6 bytes");

        assert!(error.is::<UsageError>() && error.to_string().contains("the file has 6"), "{error}");
        input.skip_to("6:2").expect("its end is a position");
        assert!(input.read(10).expect("it is readable").is_empty());
    }
}
