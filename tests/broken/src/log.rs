//! The log of merges and deletes, one JSON array a line, synced before anything is answered.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use storage_plugin_api::State;

use crate::rules::Rule;

/// Written when an instance was closed as it should: how often in a row.
const CLOSED: &str = "closed";

pub(crate) struct Log {
    file: File,
    closed_before: usize,
    directory: PathBuf,
    _lock: Option<File>,
}

/// A line: a state after a merge, or none after a delete.
pub(crate) type Line = (String, Option<String>);

impl Log {
    /// Opens the log of a directory; none if another instance has it.
    pub(crate) fn open(
        directory: &Path,
        is_locked: bool,
        broken: Option<Rule>,
    ) -> io::Result<Option<(Self, Vec<Line>)>> {
        std::fs::create_dir_all(directory)?;
        let lock = match is_locked {
            true => {
                let lock = File::options().create(true).truncate(false).write(true).open(directory.join("lock"))?;
                match lock.try_lock() {
                    Ok(()) => Some(lock),
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(error)) => return Err(error),
                }
            }
            false => None,
        };
        let path = directory.join("log");
        let text = std::fs::read(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(Vec::new()),
            _ => Err(error),
        })?;
        // What a crash cut off was never answered.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let mut lines: Vec<Line> = text[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).map_err(io::Error::other))
            .collect::<io::Result<_>>()?;
        let closed = std::fs::read_to_string(directory.join(CLOSED));
        let closed_before = closed.ok().and_then(|times| times.parse().ok()).unwrap_or(0);
        let _ = std::fs::remove_file(directory.join(CLOSED));
        if broken == Some(Rule::LosesLastBatch) && closed_before == 0 {
            lines.truncate(lines.len().saturating_sub(3));
        }
        if broken == Some(Rule::ThirdOpening) && closed_before >= 2 {
            lines.clear();
        }
        let file = File::options().create(true).append(true).open(&path)?;
        file.set_len(whole as u64)?;
        File::open(directory)?.sync_all()?;
        Ok(Some((Self { file, closed_before, directory: directory.to_owned(), _lock: lock }, lines)))
    }

    pub(crate) fn append(&mut self, lines: &[(&str, Option<&State>)], is_synced: bool) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for (id, state) in lines {
            serde_json::to_writer(&mut bytes, &(id, state.map(State::to_canonical_json)))?;
            bytes.push(b'\n');
        }
        self.file.write_all(&bytes)?;
        if is_synced { self.file.sync_data() } else { Ok(()) }
    }

    pub(crate) fn close(&self) -> io::Result<()> {
        std::fs::write(self.directory.join(CLOSED), (self.closed_before + 1).to_string())
    }
}
