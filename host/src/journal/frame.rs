//! The form of an entry in a segment, and how entries are found again in bytes that may be damaged.
//!
//! ```text
//! mark (4) | checksum of the length (4) | length of the rest (8) | checksum of the rest (4) | rest
//! rest: received_at (8) | length of the channel (4) | channel | payload          numbers are little-endian
//! ```
//! The checksums (CRC-32) begin with a salt of the segment, so that no payload can hold what passes for an entry. Behind
//! a damaged place the next entry is found by its mark. Everything here is a pure function of bytes.

use crc32fast::Hasher;

const MARK: [u8; 4] = [0xd7, b'J', 0x0e, 0x91];
const HEADER_BYTES: usize = 20;
const FIXED_BYTES: usize = 12;

/// What is kept of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The channel it arrived on.
    pub channel: &'a str,
    /// The message.
    pub payload: &'a [u8],
    /// When it arrived, in microseconds since 1970.
    pub received_at: i64,
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole entry from `at` to `end`.
    Entry {
        /// Where it begins.
        at: usize,
        /// Where it ends.
        end: usize,
        /// The entry.
        entry: Entry<'a>,
    },
    /// Bytes that are no entry.
    Damage {
        /// Where they begin.
        at: usize,
        /// Where the next entry begins, or the bytes end.
        end: usize,
        /// No entry follows: a write was cut short, most likely.
        is_tail: bool,
    },
}

/// Appends an entry.
pub fn push(out: &mut Vec<u8>, salt: u32, entry: &Entry<'_>) {
    let channel = u32::try_from(entry.channel.len()).unwrap_or(u32::MAX).to_le_bytes();
    let received_at = entry.received_at.to_le_bytes();
    let length = ((FIXED_BYTES + entry.channel.len() + entry.payload.len()) as u64).to_le_bytes();
    let parts: [&[u8]; 4] = [&received_at, &channel, entry.channel.as_bytes(), entry.payload];
    let mut rest = Hasher::new_with_initial(salt);
    parts.iter().for_each(|part| rest.update(part));
    out.reserve(frame_bytes(entry.channel.len(), entry.payload.len()));
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&checksum(salt, &length).to_le_bytes());
    out.extend_from_slice(&length);
    out.extend_from_slice(&rest.finalize().to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// How many bytes an entry takes in a segment.
pub(crate) fn frame_bytes(channel: usize, payload: usize) -> usize {
    HEADER_BYTES + FIXED_BYTES + channel + payload
}

/// Everything that stands in the bytes of a segment, in order: together it covers every byte once.
#[must_use]
pub fn recover(bytes: &[u8], salt: u32) -> Frames<'_> {
    Frames { bytes, salt, at: 0 }
}

/// See [`recover`].
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    salt: u32,
    at: usize,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let at = self.at;
        if at >= self.bytes.len() {
            return None;
        }
        if let Some((entry, end)) = frame_at(self.bytes, at, self.salt) {
            self.at = end;
            return Some(Found::Entry { at, end, entry });
        }
        let mut end = at + 1;
        while let Some(offset) = find_mark(&self.bytes[end..]) {
            end += offset;
            if frame_at(self.bytes, end, self.salt).is_some() {
                self.at = end;
                return Some(Found::Damage { at, end, is_tail: false });
            }
            end += 1;
        }
        self.at = self.bytes.len();
        Some(Found::Damage { at, end: self.at, is_tail: true })
    }
}

/// The entry that begins at a place, and where it ends.
fn frame_at(bytes: &[u8], at: usize, salt: u32) -> Option<(Entry<'_>, usize)> {
    let header = bytes.get(at..at.checked_add(HEADER_BYTES)?)?;
    let (mark, header) = header.split_first_chunk::<4>()?;
    let (length_checksum, header) = header.split_first_chunk::<4>()?;
    let (length, header) = header.split_first_chunk::<8>()?;
    let (rest_checksum, _) = header.split_first_chunk::<4>()?;
    if *mark != MARK || checksum(salt, length) != u32::from_le_bytes(*length_checksum) {
        return None;
    }
    let start = at + HEADER_BYTES;
    let end = start.checked_add(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let rest = bytes.get(start..end)?;
    if checksum(salt, rest) != u32::from_le_bytes(*rest_checksum) {
        return None;
    }
    let (received_at, rest) = rest.split_first_chunk::<8>()?;
    let (channel_length, rest) = rest.split_first_chunk::<4>()?;
    let (channel, payload) = rest.split_at_checked(u32::from_le_bytes(*channel_length) as usize)?;
    let channel = std::str::from_utf8(channel).ok()?;
    Some((Entry { channel, payload, received_at: i64::from_le_bytes(*received_at) }, end))
}

fn find_mark(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARK.len()).position(|window| window == MARK)
}

fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: u32 = 0x1234_5678;

    type Owned = (String, Vec<u8>, i64);

    fn segment(entries: &[Owned]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (channel, payload, received_at) in entries {
            push(&mut bytes, SALT, &Entry { channel, payload, received_at: *received_at });
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    /// The entries that are found, and how many bytes are none; what is found covers every byte once.
    fn read(bytes: &[u8]) -> (Vec<Owned>, usize) {
        let (mut entries, mut damaged, mut covered) = (Vec::new(), 0, 0);
        for found in recover(bytes, SALT) {
            match found {
                Found::Entry { at, end, entry } => {
                    assert_eq!(at, covered);
                    covered = end;
                    entries.push((entry.channel.to_owned(), entry.payload.to_vec(), entry.received_at));
                }
                Found::Damage { at, end, is_tail } => {
                    assert!(at == covered && end > at);
                    assert_eq!(is_tail, end == bytes.len());
                    covered = end;
                    damaged += end - at;
                }
            }
        }
        assert_eq!(covered, bytes.len());
        (entries, damaged)
    }

    fn entries() -> impl Strategy<Value = Vec<Owned>> {
        let payload = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            // A payload that holds what looks like an entry, of another segment.
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|payload| {
                let mut bytes = Vec::new();
                push(&mut bytes, SALT ^ 1, &Entry { channel: "c", payload: &payload, received_at: 1 });
                bytes.extend_from_slice(&MARK);
                bytes
            }),
        ];
        prop::collection::vec(("[a-z:é]{0,8}", payload, any::<i64>()), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_cut_anywhere_gives_the_whole_entries_before_the_cut(entries in entries()) {
            let (bytes, ends) = segment(&entries);
            for cut in 0..=bytes.len() {
                let whole = ends.iter().filter(|end| **end <= cut).count();
                let kept = whole.checked_sub(1).map_or(0, |last| ends[last]);
                prop_assert_eq!(read(&bytes[..cut]), (entries[..whole].to_vec(), cut - kept));
            }
        }

        #[test]
        fn a_flipped_byte_anywhere_costs_the_entry_that_it_is_in_and_no_other(entries in entries(), flip in 1..=255_u8) {
            let (mut bytes, ends) = segment(&entries);
            for at in 0..bytes.len() {
                bytes[at] ^= flip;
                let hit = ends.iter().filter(|end| **end <= at).count();
                let mut expected = entries.clone();
                expected.remove(hit);
                let begin = hit.checked_sub(1).map_or(0, |last| ends[last]);
                prop_assert_eq!(read(&bytes), (expected, ends[hit] - begin));
                bytes[at] ^= flip;
            }
        }

        #[test]
        fn any_bytes_between_entries_are_skipped(entries in entries(), garbage in prop::collection::vec(any::<u8>(), 1..80)) {
            let (bytes, ends) = segment(&entries);
            for place in ends.into_iter().chain([0]) {
                let damaged = [&bytes[..place], &garbage, &bytes[place..]].concat();
                prop_assert_eq!(read(&damaged), (entries.clone(), garbage.len()));
            }
        }
    }

    #[test]
    fn entries_of_another_segment_are_damage() {
        let (bytes, _) = segment(&[("channel".to_owned(), b"payload".to_vec(), 7)]);

        let found: Vec<_> = recover(&bytes, SALT + 1).collect();

        assert_eq!(found, [Found::Damage { at: 0, end: bytes.len(), is_tail: true }]);
    }

    #[test]
    fn a_length_beyond_every_memory_is_damage() {
        let mut bytes = MARK.to_vec();
        let length = u64::MAX.to_le_bytes();
        bytes.extend_from_slice(&checksum(SALT, &length).to_le_bytes());
        bytes.extend_from_slice(&length);
        bytes.extend_from_slice(&[0; 40]);

        assert_eq!(read(&bytes), (Vec::new(), 56));
    }
}
