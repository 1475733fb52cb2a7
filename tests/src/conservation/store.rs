//! What is stored, read past the workers: rows of PostgreSQL, files of the file backend.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::verdict::Event;
use crate::postgres_server::Database;
use crate::worker::Setup;

/// Where the workers of a run store.
#[derive(Debug)]
pub enum Store {
    /// A database.
    Postgres {
        /// Where it is.
        url: String,
    },
    /// A directory.
    Files {
        /// Where it is.
        directory: PathBuf,
        /// A worker to which nothing is sent: it reads what a killed one has left.
        reader: Box<Setup>,
    },
}

impl Store {
    /// The ids of all evaluations. Files are complete once no worker runs.
    ///
    /// # Panics
    /// When the store cannot be read.
    #[must_use]
    pub fn evaluations(&self) -> BTreeSet<String> {
        match self {
            Self::Postgres { url } => {
                let rows = database(url).rows("SELECT id FROM evaluations");
                rows.iter().map(|row| row.get(0)).collect()
            }
            Self::Files { directory, .. } => json_files(&directory.join("evaluations")).map(|(id, _)| id).collect(),
        }
    }

    /// Evaluation and event of every line of history, as often as it is there. Files are complete once no worker runs.
    ///
    /// # Panics
    /// When the store cannot be read.
    #[must_use]
    pub fn lines(&self) -> Vec<Event> {
        match self {
            Self::Postgres { url } => {
                let rows = database(url).rows("SELECT evaluation_id, event_id FROM evaluation_events");
                rows.iter().map(|row| (row.get(0), row.get(1))).collect()
            }
            Self::Files { directory, .. } => json_files(&directory.join("events"))
                .flat_map(|(id, path)| {
                    let bytes = std::fs::read(&path).expect("read a history");
                    let lines: Vec<Value> = serde_json::from_slice(&bytes).expect("a history is a list");
                    lines.into_iter().map(move |line| event(&id, &line))
                })
                .collect(),
        }
    }

    /// Which of these events are not stored, by a look of its own. Files may be in no worker's hands meanwhile.
    ///
    /// # Panics
    /// When the store cannot be read.
    #[must_use]
    pub fn missing(&self, events: &BTreeSet<Event>) -> BTreeSet<Event> {
        let ids: BTreeSet<&String> = events.iter().map(|(id, _)| id).collect();
        let stored: BTreeSet<Event> = match self {
            _ if ids.is_empty() => BTreeSet::new(),
            Self::Postgres { url } => {
                let database = database(url);
                let (runtime, client) = database.parts();
                let query = "SELECT evaluation_id, event_id FROM evaluation_events WHERE evaluation_id = ANY($1)";
                let ids: Vec<&String> = ids.into_iter().collect();
                let rows = runtime.block_on(client.query(query, &[&ids])).expect("read the history");
                rows.iter().map(|row| (row.get(0), row.get(1))).collect()
            }
            Self::Files { reader, .. } => {
                let worker = reader.start();
                let lines = |id: &String| worker.history_if_any(id).into_iter().flatten();
                ids.into_iter().flat_map(|id| lines(id).map(|line| event(id, &line))).collect()
            }
        };
        events.difference(&stored).cloned().collect()
    }
}

fn database(url: &str) -> Database {
    Database::connect(url).unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
}

/// Every `<id>.json` of a directory.
fn json_files(directory: &Path) -> impl Iterator<Item = (String, PathBuf)> + use<> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.filter_map(|entry| {
        let path = entry.expect("read a directory").path();
        let id = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
        Some((id, path))
    })
}

fn event(evaluation_id: &str, line: &Value) -> Event {
    let event_id = line["event_id"].as_str().or_else(|| line["metadata"]["event_id"].as_str());
    (evaluation_id.to_owned(), event_id.unwrap_or_else(|| panic!("no event id: {line}")).to_owned())
}
