//! What the lines of the log come to: the letters that are open, in the order in which they came.
//!
//! Payloads stay where they are kept until a letter is read. Folding what was folded and compacted before, and then the
//! same lines once more, comes to the same: so a crash in the middle of a compaction does no harm.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::line::{self, Action, Said};
use super::stream::Lines;
use super::{Letter, LetterState};

/// A letter without its payloads.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its payloads are empty.
    pub(crate) letter: Letter,
    place: Place,
    edited: Option<Place>,
    parked: Option<Place>,
    /// The line that says why it came last, if it came more than once.
    news: Option<Place>,
    /// In a stream: further lines about it, which say nothing that the others do not.
    spare: Vec<String>,
}

/// Where a line is.
#[derive(Clone, Debug)]
struct Place {
    at: At,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum At {
    File {
        file: usize,
        offset: u64,
    },
    /// The id of an entry of the stream.
    Stream(String),
}

/// The open letters as of one moment; what is appended later is not in it.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    kept: Kept,
    entries: Vec<Option<Entry>>,
    places: HashMap<String, usize>,
    /// Lines that are neither letters nor actions, such as one that a crash cut short.
    pub(crate) unreadable: usize,
    /// In a stream: lines that are about no open letter.
    stray: Vec<String>,
    bytes: u64,
}

/// Where the lines are read again.
#[derive(Debug)]
enum Kept {
    Files(Vec<File>),
    Stream(Mutex<Lines>),
}

impl Default for Kept {
    fn default() -> Self {
        Self::Files(Vec::new())
    }
}

impl Snapshot {
    /// Folds files, each up to a length, in order.
    pub(super) fn of_files(files: Vec<(File, u64)>) -> io::Result<Self> {
        let mut snapshot = Self::default();
        let mut kept = Vec::with_capacity(files.len());
        for (index, (file, length)) in files.into_iter().enumerate() {
            snapshot.fold_file(index, &file, length)?;
            kept.push(file);
        }
        snapshot.kept = Kept::Files(kept);
        Ok(snapshot)
    }

    /// Folds a stream.
    pub(super) fn of_stream(mut lines: Lines) -> io::Result<Self> {
        let mut snapshot = Self::default();
        while let Some(some) = lines.next()? {
            for (id, line) in some {
                snapshot.fold_line(&line, At::Stream(id));
            }
        }
        snapshot.kept = Kept::Stream(Mutex::new(lines));
        Ok(snapshot)
    }

    /// The open letters, oldest first.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// The open letter of an id.
    pub(crate) fn find(&self, id: &str) -> Option<&Entry> {
        self.entries[*self.places.get(id)?].as_ref()
    }

    /// A letter as a whole; none if somebody removed it from the stream meanwhile.
    pub(crate) fn read(&self, entry: &Entry) -> io::Result<Option<Letter>> {
        let broken = || io::Error::other("a line of the dead letters was changed while it was read");
        let Some(line) = self.line(&entry.place)? else { return Ok(None) };
        let Some(Said::Letter(original)) = line::read(&line) else { return Err(broken()) };
        let edited = match &entry.edited {
            None => original.edited,
            Some(place) => {
                let Some(line) = self.line(place)? else { return Ok(None) };
                match line::read(&line) {
                    Some(Said::Action(Action::Edit { edited, .. })) => Some(edited),
                    Some(Said::Letter(letter)) => letter.edited,
                    _ => return Err(broken()),
                }
            }
        };
        Ok(Some(Letter { payload: original.payload, edited, ..entry.letter.clone() }))
    }

    /// About how many bytes a letter takes when it is written anew.
    pub(super) fn size(entry: &Entry) -> u64 {
        // After a compaction an edited letter is one line.
        let edited = entry.edited.as_ref().filter(|place| place.at != entry.place.at);
        // In a stream this line stays beside them.
        let news = entry.news.as_ref().filter(|place| place.id().is_some());
        (entry.place.bytes + [edited, news].into_iter().flatten().map(|place| place.bytes).sum::<usize>()) as u64
    }

    /// The letters, oldest first, that are kept where there is no more room than that: the newest, as far as they fit. One
    /// for which there is no room left costs no older one that is smaller.
    pub(super) fn fitting(&self, room: u64) -> Vec<&Entry> {
        let mut left = room;
        let fits = |entry: &&Entry| {
            let rest = left.checked_sub(Self::size(entry));
            left = rest.unwrap_or(left);
            rest.is_some()
        };
        let mut kept: Vec<&Entry> = self.entries().rev().filter(fits).collect();
        kept.reverse();
        kept
    }

    /// Says of each letter that is larger than all may be together that it is dropped for that.
    pub(super) fn tell_too_large(&self, max_bytes: u64) {
        for entry in self.entries().filter(|entry| Self::size(entry) > max_bytes) {
            let (id, bytes) = (&entry.letter.id, Self::size(entry));
            warn!(
                id,
                bytes, max_bytes, "a dead letter is larger than `dead_letters.max_bytes`, it is dropped to make room"
            );
        }
    }

    /// How many bytes all lines take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// In a stream: every line about a letter.
    pub(super) fn lines_of(entry: &Entry) -> impl Iterator<Item = &str> {
        let places = [Some(&entry.place), entry.edited.as_ref(), entry.parked.as_ref(), entry.news.as_ref()];
        places.into_iter().flatten().filter_map(Place::id).chain(entry.spare.iter().map(String::as_str))
    }

    /// In a stream: the lines that nothing is lost with.
    pub(super) fn spare(&self) -> impl Iterator<Item = &str> {
        self.stray.iter().chain(self.entries().flat_map(|entry| &entry.spare)).map(String::as_str)
    }

    fn line(&self, place: &Place) -> io::Result<Option<Vec<u8>>> {
        match (&self.kept, &place.at) {
            (Kept::Files(files), At::File { file, offset }) => {
                let mut line = vec![0; place.bytes];
                files[*file].read_exact_at(&mut line, *offset)?;
                Ok(Some(line))
            }
            (Kept::Stream(lines), At::Stream(id)) => lines.lock().unwrap_or_else(PoisonError::into_inner).read(id),
            (Kept::Files(_), At::Stream(_)) | (Kept::Stream(_), At::File { .. }) => {
                Err(io::Error::other("a letter is where its snapshot was taken"))
            }
        }
    }

    fn fold_file(&mut self, file: usize, source: &File, length: u64) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(256 * 1024, source);
        reader.seek(SeekFrom::Start(0))?;
        let mut line = Vec::new();
        let mut offset = 0;
        while offset < length {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line)?;
            if bytes == 0 {
                break;
            }
            self.fold_line(&line, At::File { file, offset });
            offset += bytes as u64;
        }
        Ok(())
    }

    fn fold_line(&mut self, line: &[u8], at: At) {
        let place = Place { at, bytes: line.len() };
        self.bytes += line.len() as u64;
        match line::read(line) {
            Some(Said::Letter(letter)) => self.add(*letter, place),
            Some(Said::Action(action)) => self.act(action, place),
            None if line.trim_ascii().is_empty() => self.stray.extend(place.into_id()),
            None => {
                self.unreadable += 1;
                self.stray.extend(place.into_id());
            }
        }
    }

    fn add(&mut self, letter: Letter, place: Place) {
        let edited = letter.edited.is_some().then(|| place.clone());
        let letter = Letter { payload: Vec::new(), edited: None, ..letter };
        if let Some(held) = self.places.get(&letter.id).and_then(|index| self.entries[*index].as_mut()) {
            // The same event came once more, or the same line after a compaction: what was done with it holds.
            let is_news = letter.last_at > held.letter.last_at && held.letter.state != LetterState::Parked;
            held.letter.attempts = held.letter.attempts.max(letter.attempts);
            held.letter.last_at = held.letter.last_at.max(letter.last_at);
            let spare = if is_news {
                let Letter { reason, error, generation, .. } = letter;
                held.letter = Letter { reason, error, generation, ..held.letter.clone() };
                held.news.replace(place)
            } else {
                Some(place)
            };
            held.spare.extend(spare.and_then(Place::into_id));
            return;
        }
        self.places.insert(letter.id.clone(), self.entries.len());
        self.entries.push(Some(Entry { letter, place, edited, parked: None, news: None, spare: Vec::new() }));
    }

    fn act(&mut self, action: Action, place: Place) {
        let (Action::Edit { id, .. } | Action::Park { id, .. } | Action::Remove { id }) = &action;
        let Some(&index) = self.places.get(id) else {
            self.stray.extend(place.into_id());
            return;
        };
        let Some(entry) = self.entries[index].as_mut() else { return };
        let before = match action {
            Action::Edit { .. } => {
                entry.letter.state = LetterState::Dead;
                entry.edited.replace(place)
            }
            Action::Park { attempts, reason, error, last_at, .. } => {
                let state = LetterState::Parked;
                entry.letter = Letter { attempts, reason, error, last_at, state, ..entry.letter.clone() };
                entry.parked.replace(place)
            }
            Action::Remove { id } => {
                self.stray.extend(Self::lines_of(entry).map(str::to_owned));
                self.stray.extend(place.into_id());
                self.entries[index] = None;
                self.places.remove(&id);
                return;
            }
        };
        // The line of the letter itself may hold an edit; it stays.
        let spare = before.and_then(Place::into_id).filter(|id| entry.place.id() != Some(id.as_str()));
        entry.spare.extend(spare);
    }
}

impl Entry {
    /// It has a payload of somebody's own.
    pub(crate) fn is_edited(&self) -> bool {
        self.edited.is_some()
    }
}

impl Place {
    fn id(&self) -> Option<&str> {
        match &self.at {
            At::Stream(id) => Some(id),
            At::File { .. } => None,
        }
    }

    fn into_id(self) -> Option<String> {
        match self.at {
            At::Stream(id) => Some(id),
            At::File { .. } => None,
        }
    }
}
