//! The file of the dead letters: whole lines, synced, of letters and of actions; compacted when it is full.
//!
//! Every process that changes the files holds the lock beside them meanwhile, for a few milliseconds: the worker, and the
//! commands where no worker runs. Who reads holds it only until the files are open; they are replaced, never rewritten.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::fold::Snapshot;
use super::line;

/// How long to wait for the lock, which others hold for some milliseconds, or for a compaction.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The files of the dead letters.
#[derive(Debug)]
pub(crate) struct FileLog {
    path: PathBuf,
    /// What was open at the last compaction.
    older: PathBuf,
    max_bytes: u64,
    open: Option<(File, u64)>,
    /// Letters that compactions dropped and nobody was told of yet, since what followed failed.
    dropped: usize,
}

impl FileLog {
    pub(super) fn new(path: &Path, max_bytes: u64) -> Self {
        Self { path: path.to_owned(), older: beside(path, ".1"), max_bytes, open: None, dropped: 0 }
    }

    /// Appends whole lines and syncs them. Returns how many old letters were dropped, since the file was full of others.
    pub(super) fn append(&mut self, lines: &str) -> io::Result<usize> {
        let appended = self.try_append(lines);
        if appended.is_err() {
            // The file may be gone, or end in half a line: opening it again finds out.
            self.open = None;
        }
        appended
    }

    /// Opens the file, so that a place that cannot be written is known before there is a letter.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        let _lock = self.lock()?;
        self.open().map(|_| ())
    }

    /// The open letters. Makes no file that was not there.
    pub(super) fn snapshot(&self) -> io::Result<Snapshot> {
        if !self.path.exists() && !self.older.exists() {
            return Ok(Snapshot::default());
        }
        let files = {
            let _lock = self.lock_to_read()?;
            self.files()?
        };
        Snapshot::of_files(files)
    }

    /// Who may only read does without the lock, and at worst meets a compaction: then some letters are missing once.
    fn lock_to_read(&self) -> io::Result<Option<File>> {
        match self.lock() {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn files(&self) -> io::Result<Vec<(File, u64)>> {
        let mut files = Vec::new();
        for path in [&self.older, &self.path] {
            match File::open(path) {
                Ok(file) => {
                    let length = file.metadata()?.len();
                    files.push((file, length));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    fn try_append(&mut self, lines: &str) -> io::Result<usize> {
        let _lock = self.lock()?;
        let (_, length) = self.open()?;
        if *length > 0 && *length + lines.len() as u64 > self.max_bytes {
            self.compact()?;
        }
        let (file, length) = self.open()?;
        let written = file.write_all(lines.as_bytes()).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Whole lines or nothing. Where that fails too, opening ends the half line.
            let _ = file.set_len(*length);
            return Err(error);
        }
        *length += lines.len() as u64;
        Ok(std::mem::take(&mut self.dropped))
    }

    /// The lock is let go of when the file is dropped.
    fn lock(&self) -> io::Result<File> {
        self.lock_within(LOCK_PATIENCE)
    }

    fn lock_within(&self, patience: Duration) -> io::Result<File> {
        if let Some(directory) = directory(&self.path) {
            std::fs::create_dir_all(directory)?;
        }
        let path = beside(&self.path, ".lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let until = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    let (path, seconds) = (path.display(), patience.as_secs());
                    let reason =
                        format!("somebody else has held `{path}` for {seconds} s; find out who: `fuser {path}`");
                    return Err(io::Error::new(ErrorKind::TimedOut, reason));
                }
                Err(TryLockError::WouldBlock) => sleep(LOCK_PAUSE),
            }
        }
    }

    /// The file at its end, opened again if somebody else replaced it or appended.
    fn open(&mut self) -> io::Result<&mut (File, u64)> {
        let is_current = match (&self.open, std::fs::metadata(&self.path)) {
            (Some((file, length)), Ok(at_path)) => {
                let held = file.metadata()?;
                held.ino() == at_path.ino() && held.dev() == at_path.dev() && held.len() == *length
            }
            _ => false,
        };
        if !is_current {
            self.open = Some(open_at_end(&self.path)?);
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("the file was opened above"))
    }

    /// Writes what is open to the older file, the newest letters first if there is not room for all, and begins a new one.
    fn compact(&mut self) -> io::Result<()> {
        let snapshot = Snapshot::of_files(self.files()?)?;
        snapshot.tell_too_large(self.max_bytes);
        let kept = snapshot.fitting(self.max_bytes);
        let dropped = snapshot.entries().count() - kept.len();
        let new = beside(&self.path, ".new");
        let mut file = io::BufWriter::new(File::create(&new)?);
        for entry in kept {
            let letter = snapshot.read(entry)?.ok_or_else(|| io::Error::other("a file does not lose its letters"))?;
            file.write_all(line::letter_text(&letter).as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        // From here on the older file says it all, and the lines of the present one once more do no harm.
        std::fs::rename(&new, &self.older)?;
        sync_directory(&self.path)?;
        self.dropped += dropped;
        self.open = None;
        File::create(&new)?.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        sync_directory(&self.path)
    }

    /// Appends lines to the file that holds what was done with letters, for people: `….audit.jsonl` beside it.
    pub(super) fn audit(&self, lines: &str) -> io::Result<()> {
        let path = self.path.with_extension("audit.jsonl");
        let _lock = self.lock()?;
        let is_full =
            std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() + lines.len() as u64 > self.max_bytes);
        if is_full {
            std::fs::rename(&path, beside(&path, ".1"))?;
        }
        let (mut file, _) = open_at_end(&path)?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()
    }
}

/// Opens a file at its end, and ends a line that a crash cut short.
fn open_at_end(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let mut length = file.seek(SeekFrom::End(0))?;
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            length += 1;
        }
    }
    sync_directory(path)?;
    Ok((file, length))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(end);
    path.into()
}

fn directory(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

/// A new name is durable once its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path).unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letters::line::tests::letter;
    use crate::letters::line::{Action, action_text, letter_text};
    use crate::letters::{Letter, LetterState};

    fn log(directory: &tempfile::TempDir, max_bytes: u64) -> FileLog {
        FileLog::new(&directory.path().join("deep/er/dead.jsonl"), max_bytes)
    }

    fn append(log: &mut FileLog, text: &str) -> usize {
        log.append(&format!("{text}\n")).expect("it is writable")
    }

    fn open(log: &FileLog) -> Vec<Letter> {
        let snapshot = log.snapshot().expect("it is readable");
        snapshot.entries().map(|entry| snapshot.read(entry).expect("it is readable").expect("it is there")).collect()
    }

    #[test]
    fn actions_change_the_letters_before_them() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut log = log(&directory, 1 << 20);
        assert!(open(&log).is_empty() && !directory.path().join("deep").exists(), "reading makes nothing");
        let [a, b, c] = [b"a", b"b", b"c"].map(|payload| letter(payload));
        for letter in [&a, &b, &c, &b] {
            append(&mut log, &letter_text(letter));
        }

        append(&mut log, &action_text(&Action::Edit { id: a.id.clone(), edited: "new".to_owned() }));
        let (reason, error) = ("missing_field".to_owned(), "again".to_owned());
        append(&mut log, &action_text(&Action::Park { id: a.id.clone(), attempts: 3, reason, error, last_at: 9 }));
        append(&mut log, &action_text(&Action::Remove { id: b.id.clone() }));

        let parked = Letter {
            edited: Some("new".to_owned()),
            attempts: 3,
            reason: "missing_field".to_owned(),
            error: "again".to_owned(),
            last_at: 9,
            state: LetterState::Parked,
            ..a
        };
        assert_eq!(open(&log), [parked, c]);
        append(&mut log, &letter_text(&b));
        assert_eq!(open(&log).last(), Some(&b), "one that was removed and came again is new");
    }

    #[test]
    fn a_full_file_is_compacted_and_what_that_drops_is_counted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let line = letter_text(&letter(b"00")).len() as u64 + 1;
        let mut log = log(&directory, 3 * line);
        let mut dropped = 0;
        for number in 10..40 {
            let letter = letter(number.to_string().as_bytes());
            dropped += append(&mut log, &letter_text(&letter));
            if number % 2 == 0 {
                dropped += append(&mut log, &action_text(&Action::Remove { id: letter.id }));
            }
        }

        let payloads: Vec<Vec<u8>> = open(&log).into_iter().map(|letter| letter.payload).collect();
        assert_eq!(payloads.len() + dropped, 15, "{dropped} dropped");
        assert!(payloads.len() >= 3 && payloads.last().is_some_and(|last| last == b"39"), "{payloads:?}");
    }

    /// It used to take all others along.
    #[test]
    fn one_letter_that_is_too_large_costs_no_other() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let line = letter_text(&letter(b"00")).len() as u64 + 1;
        let mut log = log(&directory, 5 * line);
        let large = vec![b'x'; usize::try_from(6 * line).expect("small")];
        let payloads = [b"10", b"11", &large[..], b"12", b"13"];

        let dropped: usize = payloads.iter().map(|payload| append(&mut log, &letter_text(&letter(payload)))).sum();

        let kept: Vec<Vec<u8>> = open(&log).into_iter().map(|letter| letter.payload).collect();
        assert_eq!((kept, dropped), (vec![b"10".to_vec(), b"11".to_vec(), b"12".to_vec(), b"13".to_vec()], 1));
    }

    /// Whoever was stopped with the lock held used to stop everybody else.
    #[test]
    fn who_does_not_get_the_lock_in_time_is_told_who_has_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = log(&directory, 1 << 20);
        let held = log.lock().expect("it is free");

        let error = log.lock_within(Duration::from_millis(20)).expect_err("it is held");

        assert!(error.kind() == ErrorKind::TimedOut && error.to_string().contains("dead.jsonl.lock"), "{error}");
        drop(held);
        log.lock_within(Duration::ZERO).expect("it is free again");
    }

    #[test]
    fn a_compaction_that_was_cut_short_changes_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut log = log(&directory, 1 << 20);
        for payload in [b"a", b"b", b"c"] {
            append(&mut log, &letter_text(&letter(payload)));
        }
        append(&mut log, &action_text(&Action::Edit { id: letter(b"a").id, edited: "new".to_owned() }));
        append(&mut log, &action_text(&Action::Remove { id: letter(b"b").id }));
        let (before, whole) = (open(&log), std::fs::read(&log.path).expect("it is there"));

        log.compact().expect("it is writable");
        assert_eq!(open(&log), before);
        std::fs::write(&log.path, whole).expect("as before the last step");

        assert_eq!(open(&log), before);
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_ended_and_skipped() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut log = log(&directory, 1 << 20);
        append(&mut log, &letter_text(&letter(b"a")));
        std::fs::write(&log.path, "{\"channel\":\"ev").expect("it is writable");

        append(&mut log, &letter_text(&letter(b"b")));

        assert_eq!(open(&log), [letter(b"b")]);
        assert_eq!(log.snapshot().expect("it is readable").unreadable, 1);
    }

    /// It used to go on in the middle of the line, and garbled both.
    #[test]
    fn an_audit_line_that_a_crash_cut_short_is_ended() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = log(&directory, 1 << 20);
        log.audit("{\"one\":1}\n").expect("it is writable");
        let path = log.path.with_extension("audit.jsonl");
        std::fs::write(&path, "{\"one\":1}\n{\"tw").expect("it is writable");

        log.audit("{\"three\":3}\n").expect("it is writable");

        let text = std::fs::read_to_string(&path).expect("it is readable");
        assert_eq!(text.lines().collect::<Vec<_>>(), ["{\"one\":1}", "{\"tw", "{\"three\":3}"]);
    }

    /// Each used to move the file aside when it was full, so that the second moved the first one's new lines over the old.
    #[test]
    fn two_who_find_the_audit_full_lose_none_of_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let audit_some = |name: &str| {
            let log = log(&directory, 10 * 100);
            (0..90).for_each(|_| log.audit(&format!("{name}{}\n", "x".repeat(8))).expect("it is writable"));
        };

        std::thread::scope(|scope| {
            let both = ["a", "b"].map(|name| scope.spawn(move || audit_some(name)));
            both.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
        });

        let path = log(&directory, 1).path.with_extension("audit.jsonl");
        let lines = |path: &Path| std::fs::read_to_string(path).expect("it is readable").lines().count();
        assert_eq!((lines(&beside(&path, ".1")), lines(&path)), (100, 80));
    }

    #[test]
    fn two_who_append_do_not_disturb_each_other() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let line = letter_text(&letter(b"00")).len() as u64 + 1;
        let append_some = |range: std::ops::Range<u32>| {
            let mut log = log(&directory, 10 * line);
            range.map(|number| append(&mut log, &letter_text(&letter(number.to_string().as_bytes())))).sum::<usize>()
        };

        let dropped = std::thread::scope(|scope| {
            let both = [10..40, 50..80].map(|range| scope.spawn(move || append_some(range)));
            both.into_iter().map(|thread| thread.join().expect("it does not panic")).sum::<usize>()
        });

        assert_eq!(open(&log(&directory, 10 * line)).len() + dropped, 60);
    }
}
