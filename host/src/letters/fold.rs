//! What the lines of the log come to: the letters that are open, in the order in which they came.
//!
//! Payloads stay in the file until a letter is read. Folding what was folded and compacted before, and then the same lines
//! once more, comes to the same: so a crash in the middle of a compaction does no harm.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::line::{self, Action, Said};
use super::{Letter, LetterState};

/// A letter without its payloads.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its payloads are empty.
    pub(crate) letter: Letter,
    place: Place,
    edited: Option<Place>,
}

/// Where a line is.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    offset: u64,
    bytes: usize,
}

/// The open letters as of one moment; what is appended later is not in it.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    files: Vec<File>,
    entries: Vec<Option<Entry>>,
    places: HashMap<String, usize>,
    /// Lines that are neither letters nor actions, such as one that a crash cut short.
    pub(crate) unreadable: usize,
}

impl Snapshot {
    /// Folds files, each up to a length, in order.
    pub(super) fn fold(files: Vec<(File, u64)>) -> io::Result<Self> {
        let mut snapshot = Self::default();
        for (index, (file, length)) in files.into_iter().enumerate() {
            snapshot.fold_file(index, &file, length)?;
            snapshot.files.push(file);
        }
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

    /// A letter as a whole.
    pub(crate) fn read(&self, entry: &Entry) -> io::Result<Letter> {
        let broken = || io::Error::other("a line of the dead letters was changed while it was read");
        let Some(Said::Letter(original)) = line::read(&self.line(entry.place)?) else { return Err(broken()) };
        let edited = match entry.edited {
            None => original.edited,
            Some(place) => match line::read(&self.line(place)?) {
                Some(Said::Action(Action::Edit { edited, .. })) => Some(edited),
                Some(Said::Letter(letter)) => letter.edited,
                _ => return Err(broken()),
            },
        };
        Ok(Letter { payload: original.payload, edited, ..entry.letter.clone() })
    }

    /// About how many bytes a letter takes when it is written anew.
    pub(super) fn size(entry: &Entry) -> u64 {
        (entry.place.bytes + entry.edited.map_or(0, |place| place.bytes)) as u64
    }

    fn line(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut line = vec![0; place.bytes];
        self.files[place.file].read_exact_at(&mut line, place.offset)?;
        Ok(line)
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
            let place = Place { file, offset, bytes };
            offset += bytes as u64;
            match line::read(&line) {
                Some(Said::Letter(letter)) => self.add(*letter, place),
                Some(Said::Action(action)) => self.act(action, place),
                None if line.trim_ascii().is_empty() => {}
                None => self.unreadable += 1,
            }
        }
        Ok(())
    }

    fn add(&mut self, letter: Letter, place: Place) {
        let edited = letter.edited.is_some().then_some(place);
        let letter = Letter { payload: Vec::new(), edited: None, ..letter };
        if let Some(held) = self.places.get(&letter.id).and_then(|index| self.entries[*index].as_mut()) {
            // The same event came once more, or the same line after a compaction: what was done with it holds.
            held.letter.attempts = held.letter.attempts.max(letter.attempts);
            held.letter.last_at = held.letter.last_at.max(letter.last_at);
            return;
        }
        self.places.insert(letter.id.clone(), self.entries.len());
        self.entries.push(Some(Entry { letter, place, edited }));
    }

    fn act(&mut self, action: Action, place: Place) {
        let (Action::Edit { id, .. } | Action::Park { id, .. } | Action::Remove { id }) = &action;
        let Some(&index) = self.places.get(id) else { return };
        let Some(entry) = self.entries[index].as_mut() else { return };
        match action {
            Action::Edit { .. } => {
                entry.edited = Some(place);
                entry.letter.state = LetterState::Dead;
            }
            Action::Park { attempts, reason, error, last_at, .. } => {
                let state = LetterState::Parked;
                entry.letter = Letter { attempts, reason, error, last_at, state, ..entry.letter.clone() };
            }
            Action::Remove { id } => {
                self.entries[index] = None;
                self.places.remove(&id);
            }
        }
    }
}
