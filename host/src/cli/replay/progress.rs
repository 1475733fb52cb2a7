//! How far a replay is: what was counted, what is told meanwhile, and the file that keeps the position.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::super::UsageError;
use super::super::output::{plain, print_note};
use super::Fared;
use super::input::Place;

/// How often it says how far it is.
const EVERY: Duration = Duration::from_secs(5);
/// So many lines that were refused are named.
const MOST_NAMED: u64 = 20;

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    input: String,
    next: Option<String>,
    stored: u64,
    refused: u64,
    unreadable: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Progress {
    file: Option<PathBuf>,
    position: Position,
    named: u64,
    told: Instant,
}

impl Progress {
    /// Where a replay of this input ended before, if a file says so.
    pub(super) fn load(file: Option<&Path>, input: &str) -> anyhow::Result<Self> {
        let new = || Position { input: input.to_owned(), ..Position::default() };
        let position = match file.map(|path| (path, std::fs::read(path))) {
            Some((path, Ok(bytes))) => {
                let shown = path.display();
                let position: Position = serde_json::from_slice(&bytes)
                    .map_err(|error| UsageError(format!("`{shown}` holds no position of a replay: {error}")))?;
                if position.input != input {
                    let message =
                        format!("`{shown}` holds the position in another input, {}; name another file", position.input);
                    return Err(UsageError(message).into());
                }
                position
            }
            Some((path, Err(error))) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(anyhow::Error::new(error).context(format!("cannot read `{}`", path.display())));
            }
            Some(_) | None => new(),
        };
        Ok(Self { file: file.map(Path::to_owned), position, named: 0, told: Instant::now() })
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
            print_note(&format!("{}: {}", place.name, plain(&reason)));
        } else if self.named == MOST_NAMED + 1 {
            print_note("further ones are only counted");
        }
    }

    /// Everything up to here is settled.
    pub(super) fn save(&mut self, next: String) -> anyhow::Result<()> {
        self.position.next = Some(next);
        if let Some(path) = &self.file {
            let new = path.with_extension("new");
            let text = serde_json::to_string(&self.position)?;
            std::fs::write(&new, text + "\n")
                .and_then(|()| std::fs::rename(&new, path))
                .with_context(|| format!("cannot keep the position in `{}`", path.display()))?;
        }
        if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            let (stored, refused, unreadable) = self.counts();
            print_note(&format!("{stored} stored, {refused} refused, {unreadable} unreadable so far"));
        }
        Ok(())
    }
}
