//! How far a replay is: what was counted, what is told meanwhile, and the file that keeps the position.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::super::output::plain;
use super::super::{UsageError, progress};
use super::Fared;
use super::input::Place;

/// So many lines that were refused are named.
const MOST_NAMED: u64 = 20;

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    /// What was replayed, and where to.
    input: String,
    next: Option<String>,
    stored: u64,
    refused: u64,
    unreadable: u64,
}

/// See the head of this file.
pub(super) struct Progress {
    file: Option<PathBuf>,
    position: Position,
    named: u64,
    shown: progress::Progress,
}

impl Progress {
    /// Where a replay of this name ended before, if a file says so.
    pub(super) fn load(file: Option<&Path>, input: &str) -> anyhow::Result<Self> {
        let new = || Position { input: input.to_owned(), ..Position::default() };
        let position = match file.map(|path| (path, std::fs::read(path))) {
            Some((path, Ok(bytes))) => {
                let shown = path.display();
                let position: Position = serde_json::from_slice(&bytes)
                    .map_err(|error| UsageError(format!("`{shown}` holds no position of a replay: {error}")))?;
                if position.input != input {
                    let message = format!(
                        "`{shown}` holds the position of another replay, {}; this one is {input}; name another file",
                        position.input
                    );
                    return Err(UsageError(message).into());
                }
                position
            }
            Some((path, Err(error))) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(anyhow::Error::new(error).context(format!("cannot read `{}`", path.display())));
            }
            Some(_) | None => new(),
        };
        let shown = progress::Progress::start("replayed", None, 0);
        Ok(Self { file: file.map(Path::to_owned), position, named: 0, shown })
    }

    /// Where to go on.
    pub(super) fn next(&self) -> Option<&str> {
        self.position.next.as_deref()
    }

    /// Stored, refused, and what was no event of a replay at all.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.position.stored, self.position.refused, self.position.unreadable)
    }

    pub(super) fn count(&mut self, place: &Place, fared: Fared) {
        let reason = match fared {
            Fared::Stored => {
                self.position.stored += 1;
                return;
            }
            Fared::Refused(reason) => {
                self.position.refused += 1;
                reason
            }
            Fared::Unreadable(reason) => {
                self.position.unreadable += 1;
                reason
            }
        };
        self.named += 1;
        if self.named <= MOST_NAMED {
            self.shown.say(&format!("note: {}: {}", place.name, plain(&reason)));
        } else if self.named == MOST_NAMED + 1 {
            self.shown.say("note: further ones are only counted");
        }
    }

    /// Everything up to here is settled.
    pub(super) fn save(&mut self, next: String) -> anyhow::Result<()> {
        self.position.next = Some(next);
        if let Some(path) = &self.file {
            let mut new = path.clone().into_os_string();
            new.push(".new");
            let text = serde_json::to_string(&self.position)? + "\n";
            let written = File::create(&new).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_data()
            });
            written
                .and_then(|()| std::fs::rename(&new, path))
                .with_context(|| format!("cannot keep the position in `{}`", path.display()))?;
        }
        let (stored, refused, unreadable) = self.counts();
        self.shown.at(stored + refused + unreadable);
        Ok(())
    }

    /// The answer follows.
    pub(super) fn end(&self) {
        self.shown.end();
    }
}
