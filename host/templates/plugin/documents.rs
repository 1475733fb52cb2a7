//! The storage backend `PLUGIN_NAME`: keeps each document in a file of its own.
//!
//! `storage-worker` makes one document of an evaluation and merges events into it; this crate only keeps bytes under an
//! id, with a version that changes on every write. It is complete: volatile, for one process at a time. Put your own
//! store in the place of the files, one method after the other, and run `cargo test` on the way.
//!
//! `files.rs` reads and writes single files, this file is what the worker calls.

mod files;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use storage_plugin_api::{
    Call, Description, Document, DocumentStore, Error, Health, OpenDocumentStore, Opening, Put,
    PutAnswer, Result, Scan, ScanPage,
};

use crate::files::Directory;

storage_plugin_api::export_document_store!("PLUGIN_NAME", Store);

/// What stands under `options` in the configuration. A key that is not here is an error that names it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The directory of the files; made if it is not there.
    path: PathBuf,
}

/// An opened directory.
struct Store {
    directory: Directory,
    known: Mutex<Known>,
}

/// What is stored, without reading it: the versions by id.
struct Known {
    versions: BTreeMap<String, u64>,
    last: u64,
}

impl OpenDocumentStore for Store {
    type Options = Options;

    /// Touches nothing: `storage-worker check` asks this of a configuration that may never run.
    fn check(options: &Options) -> Description {
        let mut description = Description {
            // The default capabilities: volatile, for one process. Say `durable` once every write is synced before it is
            // answered; `storage-worker plugin test` then asks for it.
            notes: vec![format!("files in {}", options.path.display())],
            ..Description::default()
        };
        if options.path.as_os_str().is_empty() {
            description
                .problems
                .push("`path` is empty; give a directory".to_owned());
        }
        description
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        let directory = Directory::open(&options.path, opening.read_only)?;
        let versions = directory.versions()?;
        let last = versions.values().copied().max().unwrap_or_default();
        tracing::info!(
            instance = opening.instance,
            documents = versions.len(),
            "opened"
        );
        Ok(Self {
            directory,
            known: Mutex::new(Known { versions, last }),
        })
    }
}

impl DocumentStore for Store {
    fn get(&self, _: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>> {
        let known = self.known();
        ids.iter()
            .map(|id| {
                known
                    .versions
                    .contains_key(*id)
                    .then(|| self.directory.read(id))
                    .transpose()
            })
            .collect()
    }

    fn put(&self, _: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>> {
        let mut known = self.known();
        let mut put_one = |put: &Put<'_>| {
            if known.version(put.id) != put.expected {
                return PutAnswer::Conflict;
            }
            let version = known.last + 1;
            // One document that cannot be written does not take its neighbours along.
            if let Err(error) = self.directory.write(put.id, version, put.bytes) {
                return PutAnswer::Failed(error);
            }
            known.last = version;
            known.versions.insert(put.id.to_owned(), version);
            PutAnswer::Done
        };
        Ok(puts.iter().map(&mut put_one).collect())
    }

    fn scan(&self, _: &Call, scan: &Scan) -> Result<ScanPage> {
        let known = self.known();
        let behind = (Bound::Excluded(scan.after.as_str()), Bound::Unbounded);
        let mut rest = known.versions.range::<str, _>(behind).map(|(id, _)| id);
        let page = rest
            .by_ref()
            .take(scan.limit)
            .map(|id| Ok((id.clone(), self.directory.read(id)?)));
        Ok(ScanPage {
            documents: page.collect::<Result<_>>()?,
            more: rest.next().is_some(),
        })
    }

    fn delete(&self, _: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>> {
        let mut known = self.known();
        let mut delete_one = |(id, expected): &(&str, u64)| {
            if known.version(id) != *expected {
                return PutAnswer::Conflict;
            }
            if let Err(error) = self.directory.remove(id) {
                return PutAnswer::Failed(error);
            }
            known.versions.remove(*id);
            PutAnswer::Done
        };
        Ok(deletes.iter().map(&mut delete_one).collect())
    }

    /// Asked every second or so: no waiting here, not even for a lock.
    fn health(&self) -> Health {
        match self.known.try_lock() {
            Ok(known) => Health::healthy().with("documents", known.versions.len()),
            Err(_) => Health::healthy(),
        }
    }

    fn flush(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}

impl Store {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The version of a document; 0 if there is none.
    fn version(&self, id: &str) -> u64 {
        self.versions.get(id).copied().unwrap_or_default()
    }
}

/// What the worker shall do about a failure of the disk: try again, since an operator can mend it.
fn failed(what: &str, error: std::io::Error) -> Error {
    Error::unavailable(format_args!("cannot {what}: {error}"))
}
