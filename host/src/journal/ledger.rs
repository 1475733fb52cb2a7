//! The book that is kept of the segments: what of each was handed over, what of that is settled, and what may go.
//!
//! Pure bookkeeping, without files. Entries are settled in any order, so a segment is settled up to its oldest entry that
//! was handed over and is not settled, and is done when there is none and nothing is left to hand over.

use std::collections::VecDeque;

use super::directory::SegmentName;

/// Where an entry begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The number of the segment.
    pub segment: u64,
    /// The place in it, in bytes.
    pub at: u64,
}

/// The segments that are not done.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// In the order of their numbers; new entries go to the last one, unless it is closed.
    segments: VecDeque<Segment>,
    closed: bool,
    /// Segments that are done, and still on disk.
    done: Vec<(SegmentName, u64)>,
    /// Something was settled since [`Ledger::settled`] was called.
    changed: bool,
}

#[derive(Debug)]
struct Segment {
    name: SegmentName,
    /// Bytes that are written.
    length: u64,
    /// Entries that are written and not settled.
    entries: u64,
    /// Everything before it was handed over, or is damaged.
    handed_to: u64,
    /// When the first entry that is not handed over arrived, at the earliest.
    next_received_at: i64,
    /// What was handed over and is not settled, in order; settled ones leave from the front.
    out: VecDeque<Out>,
}

#[derive(Debug)]
struct Out {
    at: u64,
    received_at: i64,
    settled: bool,
}

impl Segment {
    fn settled_to(&self) -> u64 {
        self.out.front().map_or(self.handed_to, |out| out.at)
    }

    fn is_done(&self) -> bool {
        self.out.is_empty() && self.handed_to >= self.length
    }
}

impl Ledger {
    /// Adds the next segment. Of one from an earlier life it is known up to where it is settled.
    pub(crate) fn add(&mut self, name: SegmentName, length: u64, settled_to: u64) {
        let handed_to = settled_to.min(length);
        let segment = Segment { name, length, entries: 0, handed_to, next_received_at: 0, out: VecDeque::new() };
        self.segments.push_back(segment);
        self.closed = false;
        self.changed = true;
        self.sweep();
    }

    /// Notes that nothing more will be written to the last segment.
    pub(crate) fn close_last(&mut self) {
        self.closed = true;
        self.sweep();
    }

    /// The segments that are not done, and up to where each was handed over.
    pub(crate) fn names(&self) -> Vec<(SegmentName, u64)> {
        self.segments.iter().map(|segment| (segment.name, segment.handed_to)).collect()
    }

    /// Whether a segment is not done.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.segments.binary_search_by_key(&number, |segment| segment.name.number).is_ok()
    }

    /// Whether a segment has entries that are not settled.
    pub(crate) fn needs(&self, number: u64) -> bool {
        self.segments.iter().any(|segment| segment.name.number == number && !segment.is_done())
    }

    /// Notes what a segment of an earlier life holds beyond what is settled.
    pub(crate) fn counted(&mut self, number: u64, entries: u64, oldest: i64) {
        if let Some(segment) = self.find(number) {
            segment.entries = entries;
            segment.next_received_at = oldest;
        }
    }

    /// Forgets a segment that cannot be read; its file stays. True if it is the last one, which may be written to.
    pub(crate) fn forget(&mut self, number: u64) -> bool {
        let is_last = self.segments.back().is_some_and(|last| last.name.number == number);
        self.segments.retain(|segment| segment.name.number != number);
        is_last
    }

    /// Notes that entries were written to a segment, the last one unless that was forgotten meanwhile.
    pub(crate) fn wrote(&mut self, number: u64, bytes: u64, entries: u64, oldest: i64) {
        if let Some(segment) = self.find(number) {
            if segment.handed_to == segment.length {
                segment.next_received_at = oldest;
            }
            segment.length += bytes;
            segment.entries += entries;
        }
    }

    /// The segment to read on in, from where to where; none where everything was handed over.
    pub(crate) fn next_unread(&self) -> Option<(SegmentName, u64, u64)> {
        let segment = self.segments.iter().find(|segment| segment.handed_to < segment.length)?;
        Some((segment.name, segment.handed_to, segment.length))
    }

    /// Notes that an entry is handed over, and with it the way to its end.
    pub(crate) fn hand_over(&mut self, position: Position, end: u64, received_at: i64) {
        if let Some(segment) = self.find(position.segment) {
            segment.out.push_back(Out { at: position.at, received_at, settled: false });
            segment.handed_to = end;
            segment.next_received_at = received_at;
        }
    }

    /// Notes that there is nothing to hand over up to a place.
    pub(crate) fn pass_over(&mut self, number: u64, end: u64) {
        if let Some(segment) = self.find(number) {
            segment.handed_to = segment.handed_to.max(end);
            self.changed = true;
        }
        self.sweep();
    }

    /// Notes that entries are settled. What is unknown, or settled already, changes nothing.
    pub(crate) fn settle(&mut self, positions: impl Iterator<Item = Position>) {
        for position in positions {
            let Some(segment) = self.find(position.segment) else { continue };
            let Ok(index) = segment.out.binary_search_by_key(&position.at, |out| out.at) else { continue };
            if !std::mem::replace(&mut segment.out[index].settled, true) {
                segment.entries = segment.entries.saturating_sub(1);
                self.changed = true;
            }
            let segment = self.find(position.segment).expect("it was found above");
            while segment.out.front().is_some_and(|out| out.settled) {
                segment.out.pop_front();
            }
        }
        self.sweep();
    }

    /// Moves segments that are done to those that may go; the last one stays while it is written to.
    fn sweep(&mut self) {
        let last = self.segments.back().filter(|_| !self.closed).map(|segment| segment.name.number);
        let Self { segments, done, changed, .. } = self;
        if segments.iter().any(|segment| segment.is_done() && Some(segment.name.number) != last) {
            segments.retain(|segment| {
                let goes = segment.is_done() && Some(segment.name.number) != last;
                if goes {
                    done.push((segment.name, segment.length));
                }
                !goes
            });
            *changed = true;
        }
    }

    /// The segments that may go; they count until [`Ledger::removed`].
    pub(crate) fn done(&self) -> Vec<(SegmentName, u64)> {
        self.done.clone()
    }

    pub(crate) fn removed(&mut self, number: u64) {
        self.done.retain(|(name, _)| name.number != number);
    }

    /// Up to where each segment is settled, if that has changed since it was asked last.
    pub(crate) fn settled(&mut self) -> Option<Vec<(u64, u64)>> {
        let settled = || self.segments.iter().map(|segment| (segment.name.number, segment.settled_to())).collect();
        std::mem::take(&mut self.changed).then(settled)
    }

    /// What is to be written about settled segments must be written again.
    pub(crate) fn set_changed(&mut self) {
        self.changed = true;
    }

    pub(crate) fn has_changed(&self) -> bool {
        self.changed || !self.done.is_empty()
    }

    /// Entries that are not settled.
    pub(crate) fn entries(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries).sum()
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        let done: u64 = self.done.iter().map(|(_, length)| length).sum();
        self.segments.iter().map(|segment| segment.length).sum::<u64>() + done
    }

    /// Everything that was written is settled.
    pub(crate) fn is_settled(&self) -> bool {
        self.segments.iter().all(Segment::is_done)
    }

    /// When the oldest entry that is not settled arrived.
    pub(crate) fn oldest(&self) -> Option<i64> {
        let segment = self.segments.iter().find(|segment| segment.entries > 0)?;
        Some(segment.out.front().map_or(segment.next_received_at, |out| out.received_at))
    }

    fn find(&mut self, number: u64) -> Option<&mut Segment> {
        let index = self.segments.binary_search_by_key(&number, |segment| segment.name.number).ok()?;
        self.segments.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> SegmentName {
        SegmentName { number, salt: 0 }
    }

    fn at(segment: u64, at: u64) -> Position {
        Position { segment, at }
    }

    /// A first segment with entries of ten bytes, all handed over, and an empty second one.
    fn ledger(entries: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.add(name(1), 0, 0);
        ledger.wrote(1, 10 * entries, entries, 100);
        for entry in 0..entries {
            let received_at = 100 + i64::try_from(entry).expect("few");
            ledger.hand_over(at(1, 10 * entry), 10 * entry + 10, received_at);
        }
        ledger.add(name(2), 0, 0);
        ledger
    }

    #[test]
    fn a_segment_is_settled_up_to_its_oldest_unsettled_entry_and_goes_when_there_is_none() {
        let mut ledger = ledger(3);
        assert_eq!((ledger.entries(), ledger.oldest(), ledger.is_settled()), (3, Some(100), false));

        ledger.settle([at(1, 10), at(1, 10), at(1, 5), at(9, 0)].into_iter());
        assert_eq!((ledger.settled(), ledger.entries()), (Some(vec![(1, 0), (2, 0)]), 2));
        ledger.settle([at(1, 0)].into_iter());
        assert_eq!((ledger.settled(), ledger.oldest()), (Some(vec![(1, 20), (2, 0)]), Some(102)));
        assert!(ledger.settled().is_none() && ledger.done().is_empty());
        ledger.settle([at(1, 20)].into_iter());

        assert_eq!((ledger.settled(), ledger.done()), (Some(vec![(2, 0)]), vec![(name(1), 30)]));
        assert_eq!((ledger.entries(), ledger.bytes(), ledger.oldest(), ledger.is_settled()), (0, 30, None, true));
        ledger.removed(1);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn a_segment_goes_though_an_older_one_waits() {
        let mut ledger = ledger(1);
        ledger.wrote(2, 10, 1, 200);
        ledger.hand_over(at(2, 0), 10, 200);
        ledger.add(name(3), 0, 0);

        ledger.settle([at(2, 0)].into_iter());

        assert_eq!(ledger.done(), [(name(2), 10)]);
        assert_eq!(ledger.settled(), Some(vec![(1, 0), (3, 0)]));
    }

    #[test]
    fn the_segment_that_is_written_to_stays() {
        let mut ledger = Ledger::default();
        ledger.add(name(1), 0, 0);
        ledger.wrote(1, 10, 1, 100);
        ledger.hand_over(at(1, 0), 10, 100);

        ledger.settle([at(1, 0)].into_iter());

        assert!(ledger.is_settled() && ledger.done().is_empty());
        assert_eq!(ledger.settled(), Some(vec![(1, 10)]));
    }

    #[test]
    fn the_last_segment_goes_too_once_nothing_more_is_written_to_it() {
        let mut ledger = Ledger::default();
        ledger.add(name(1), 0, 0);
        ledger.wrote(1, 10, 1, 100);
        ledger.hand_over(at(1, 0), 10, 100);
        ledger.close_last();
        assert!(ledger.done().is_empty(), "it holds an entry that is not settled");

        ledger.settle([at(1, 0)].into_iter());

        assert_eq!((ledger.done(), ledger.settled()), (vec![(name(1), 10)], Some(vec![])));
        ledger.add(name(2), 0, 0);
        ledger.settle([].into_iter());
        assert_eq!(ledger.done(), [(name(1), 10)], "the next one is written to again");
    }

    #[test]
    fn reading_goes_on_where_an_earlier_life_was_settled_and_passes_over_damage() {
        let mut ledger = Ledger::default();
        ledger.add(name(4), 100, 100);
        ledger.add(name(5), 100, 40);
        ledger.add(name(6), 0, 0);
        assert_eq!(ledger.done(), [(name(4), 100)]);
        assert_eq!(ledger.next_unread(), Some((name(5), 40, 100)));

        ledger.hand_over(at(5, 40), 60, 7);
        ledger.pass_over(5, 100);

        assert_eq!((ledger.next_unread(), ledger.done().len()), (None, 1));
        ledger.settle([at(5, 40)].into_iter());
        assert_eq!(ledger.done().len(), 2);
    }
}
