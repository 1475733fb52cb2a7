//! The file of the dead letters: whole lines, synced, and one older file beside it.
//!
//! `dead_letter.rs` says what a line is, and tries again when this fails.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::config::DeadLettersConfig;

/// The file and its rotation.
#[derive(Debug)]
pub(super) struct LetterFile {
    path: PathBuf,
    /// Where a full file goes; what was there before is dropped.
    pub(super) rotated: PathBuf,
    max_bytes: u64,
    open: Option<(File, u64)>,
}

impl LetterFile {
    pub(super) fn new(config: &DeadLettersConfig) -> Self {
        let mut rotated = config.path.clone().into_os_string();
        rotated.push(".1");
        Self { path: config.path.clone(), rotated: rotated.into(), max_bytes: config.max_bytes, open: None }
    }

    /// Appends whole lines and syncs them. Returns how many older letters a rotation dropped.
    pub(super) fn append(&mut self, lines: &str) -> io::Result<usize> {
        let appended = self.try_append(lines);
        if appended.is_err() {
            // The file may be gone, or end in half a line: opening it again finds out.
            self.open = None;
        }
        appended
    }

    fn try_append(&mut self, lines: &str) -> io::Result<usize> {
        let (_, length) = self.open()?;
        let mut dropped = 0;
        if *length > 0 && *length + lines.len() as u64 > self.max_bytes {
            dropped = self.rotate()?;
        }
        let (file, length) = self.open()?;
        let written = file.write_all(lines.as_bytes()).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Whole lines or nothing. Where that fails too, opening ends the half line.
            let _ = file.set_len(*length);
            return Err(error);
        }
        *length += lines.len() as u64;
        Ok(dropped)
    }

    /// Opens the file at its end, and ends a line that a crash cut short.
    pub(super) fn open(&mut self) -> io::Result<&mut (File, u64)> {
        if self.open.is_none() {
            let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if let Some(directory) = directory {
                std::fs::create_dir_all(directory)?;
            }
            let mut file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
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
            sync_directory(directory.unwrap_or(Path::new(".")))?;
            self.open = Some((file, length));
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("the file was opened above"))
    }

    fn rotate(&mut self) -> io::Result<usize> {
        let dropped = match File::open(&self.rotated) {
            Ok(file) => count_lines(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        self.open = None;
        std::fs::rename(&self.path, &self.rotated)?;
        Ok(dropped)
    }
}

fn count_lines(file: File) -> io::Result<usize> {
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut lines = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(lines);
        }
        lines += buffer.iter().filter(|byte| **byte == b'\n').count();
        let read = buffer.len();
        reader.consume(read);
    }
}

/// A new name is durable once its directory is.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_rotated_and_what_that_drops_is_counted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("deep/er/dead.jsonl");
        let mut file = LetterFile::new(&DeadLettersConfig { path: path.clone(), max_bytes: 10 });

        let dropped: Vec<usize> =
            ["a\nb\n", "c\n", "ddddddddd\n", "e\n"].map(|lines| file.append(lines).expect("it is writable")).into();

        assert_eq!(dropped, [0, 0, 0, 3]);
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "e\n");
        assert_eq!(std::fs::read_to_string(&file.rotated).expect("it is there"), "ddddddddd\n");
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_ended() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("dead.jsonl");
        std::fs::write(&path, "{\"channel\":\"ev").expect("it is writable");
        let mut file = LetterFile::new(&DeadLettersConfig { path: path.clone(), max_bytes: 1000 });

        file.append("whole\n").expect("it is writable");

        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "{\"channel\":\"ev\nwhole\n");
    }
}
