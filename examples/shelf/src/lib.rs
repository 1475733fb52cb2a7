//! The storage backend `shelf`: a document store of a few lines, whose merge, lists and counts the host does.
//!
//! `README.md` of the repository shows the same code; start a plugin of your own with a copy of this directory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use storage_plugin_api::{
    Call, Description, Document, DocumentStore, Error, Health, OpenDocumentStore, Opening, Put, PutAnswer, Result,
    Scan, ScanPage,
};

/// Keeps documents in a map. Yours keeps them where you like.
struct Shelf {
    max_documents: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    documents: BTreeMap<String, Document>,
    last_version: u64,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    max_documents: usize,
}

storage_plugin_api::export_document_store!("shelf", Shelf);

impl OpenDocumentStore for Shelf {
    type Options = Options;

    /// The default description: volatile, for one process, one call at a time.
    fn check(options: &Options) -> Description {
        let mut description = Description::default();
        if options.max_documents == 0 {
            description.problems.push("`max_documents` is 0; give at least 1".to_owned());
        }
        description
    }

    fn open(options: Options, opening: Opening) -> Result<Self> {
        tracing::info!(instance = opening.instance, "shelf opened");
        Ok(Self { max_documents: options.max_documents, kept: Mutex::default() })
    }
}

impl Shelf {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The version of a document; 0 if there is none.
    fn version(&self, id: &str) -> u64 {
        self.documents.get(id).map_or(0, |document| document.version)
    }
}

impl DocumentStore for Shelf {
    fn get(&self, _: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>> {
        let kept = self.kept();
        Ok(ids.iter().map(|id| kept.documents.get(*id).cloned()).collect())
    }

    fn put(&self, _: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>> {
        let mut kept = self.kept();
        let put_one = |put: &Put<'_>| {
            if kept.version(put.id) != put.expected {
                return PutAnswer::Conflict;
            }
            if put.expected == 0 && kept.documents.len() >= self.max_documents {
                return PutAnswer::Failed(Error::overloaded("the shelf is full; raise `max_documents`"));
            }
            kept.last_version += 1;
            let document = Document { version: kept.last_version, bytes: put.bytes.to_vec() };
            kept.documents.insert(put.id.to_owned(), document);
            PutAnswer::Done
        };
        Ok(puts.iter().map(put_one).collect())
    }

    fn scan(&self, _: &Call, scan: &Scan) -> Result<ScanPage> {
        let kept = self.kept();
        let behind = (Bound::Excluded(scan.after.as_str()), Bound::Unbounded);
        let mut rest = kept.documents.range::<str, _>(behind).map(|(id, document)| (id.clone(), document.clone()));
        let documents = rest.by_ref().take(scan.limit).collect();
        Ok(ScanPage { documents, more: rest.next().is_some() })
    }

    fn delete(&self, _: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>> {
        let mut kept = self.kept();
        let delete_one = |(id, version): &(&str, u64)| {
            if kept.version(id) != *version {
                return PutAnswer::Conflict;
            }
            kept.documents.remove(*id);
            PutAnswer::Done
        };
        Ok(deletes.iter().map(delete_one).collect())
    }

    fn health(&self) -> Health {
        Health::healthy().with("documents", self.kept().documents.len())
    }

    fn flush(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}
