//! The calling side of the boundary: a loaded backend as an ordinary [`Backend`].
//!
//! Used by the host for every plugin, and inside plugins for the children of a layer. What comes over is checked before
//! it is believed. `export.rs` is the implementing side.

use abi_stable::std_types::{RSlice, RStr, RString};

use crate::abi::{BackendHandle, DocumentHandle, Failure, Item, PutItem};
use crate::backend::{Answer, Backend, Call, Delete, Deleted, Found};
use crate::convert::{
    check_count, deleted_answers, fields_code, from_answered, from_failure, from_found, from_json, merge_answers,
    put_answers, to_bytes, to_context, to_delete, to_ids, to_json,
};
use crate::document_store::{Document, DocumentStore, Put, PutAnswer, Scan, ScanPage};
use crate::error::{Error, Result};
use crate::query::{BlobPage, Counts, Fields, Health, Page, Prune, Pruned, Query};

/// A backend of another library.
pub struct ImportedBackend {
    raw: BackendHandle,
}

impl std::fmt::Debug for ImportedBackend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ImportedBackend").finish_non_exhaustive()
    }
}

impl ImportedBackend {
    /// Wraps what a library returned.
    #[must_use]
    pub fn new(raw: BackendHandle) -> Self {
        Self { raw }
    }
}

impl Backend for ImportedBackend {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let answers = from_answered(self.raw.merge(&to_context(call), RSlice::from_slice(batch)))?;
        merge_answers(&answers, batch.len())
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let raw_ids = to_ids(ids);
        let found = from_answered(self.raw.get(&to_context(call), RSlice::from_slice(&raw_ids), fields_code(fields)))?;
        check_count(found.len(), ids.len())?;
        found.iter().map(from_found).collect()
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        let page = from_answered(self.raw.list(&to_context(call), RStr::from_str(&to_json(query))))?;
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in &page.entries {
            let found = from_found(entry)?.ok_or_else(|| Error::internal("the plugin listed an empty state"))?;
            entries.push((entry.id.to_string(), found));
        }
        Ok(Page { entries, cursor: Some(page.cursor.into_string()).filter(|cursor| !cursor.is_empty()) })
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        answer_json("counts", from_answered(self.raw.counts(&to_context(call)))?)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let raw_items: Vec<_> = items.iter().map(to_delete).collect();
        let answers = from_answered(self.raw.delete(&to_context(call), RSlice::from_slice(&raw_items)))?;
        deleted_answers(&answers, items.len())
    }

    fn health(&self) -> Health {
        health(&self.raw.health())
    }

    fn begin(&self, call: &Call) -> Result<()> {
        from_answered(self.raw.begin(&to_context(call)))
    }

    fn flush(&self, call: &Call) -> Result<()> {
        from_answered(self.raw.flush(&to_context(call)))
    }

    fn close(&self, call: &Call) -> Result<()> {
        from_answered(self.raw.close(&to_context(call)))
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        answer_json("pruned", from_answered(self.raw.prune(&to_context(call), RStr::from_str(&to_json(prune))))?)
    }

    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        from_answered(self.raw.put_blob(&to_context(call), RStr::from_str(key), RSlice::from_slice(bytes)))
    }

    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        let bytes = from_answered(self.raw.get_blob(&to_context(call), RStr::from_str(key)))?;
        Ok(bytes.into_option().map(to_bytes))
    }

    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        let page = from_answered(self.raw.scan_blobs(&to_context(call), RStr::from_str(after), limit as u64))?;
        answer_json("blobs", page)
    }

    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        from_answered(self.raw.delete_blob(&to_context(call), RStr::from_str(key), untouched_since))
    }
}

/// A document store of another library.
pub struct ImportedDocuments {
    raw: DocumentHandle,
}

impl std::fmt::Debug for ImportedDocuments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ImportedDocuments").finish_non_exhaustive()
    }
}

impl ImportedDocuments {
    /// Wraps what a library returned.
    #[must_use]
    pub fn new(raw: DocumentHandle) -> Self {
        Self { raw }
    }
}

impl DocumentStore for ImportedDocuments {
    fn get(&self, call: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>> {
        let raw_ids = to_ids(ids);
        let documents = from_answered(self.raw.get(&to_context(call), RSlice::from_slice(&raw_ids)))?;
        check_count(documents.len(), ids.len())?;
        let read = |document: crate::abi::StoredDocument| {
            (document.version != 0).then(|| Document { version: document.version, bytes: to_bytes(document.bytes) })
        };
        Ok(documents.into_iter().map(read).collect())
    }

    fn put(&self, call: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>> {
        let raw_puts: Vec<PutItem<'_>> = puts.iter().map(to_put).collect();
        let answers = from_answered(self.raw.put(&to_context(call), RSlice::from_slice(&raw_puts)))?;
        put_answers(&answers, puts.len())
    }

    fn scan(&self, call: &Call, scan: &Scan) -> Result<ScanPage> {
        let page = from_answered(self.raw.scan(&to_context(call), RStr::from_str(&scan.after), scan.limit as u64))?;
        let read = |document: crate::abi::StoredDocument| {
            let bytes = to_bytes(document.bytes);
            (document.id.into_string(), Document { version: document.version, bytes })
        };
        Ok(ScanPage { documents: page.documents.into_iter().map(read).collect(), more: page.more != 0 })
    }

    fn delete(&self, call: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>> {
        let mut raw_items: Vec<_> = deletes.iter().map(|(id, _)| to_delete(&Delete { id, digest: None })).collect();
        for (raw, (_, version)) in raw_items.iter_mut().zip(deletes) {
            raw.version = *version;
        }
        let answers = from_answered(self.raw.delete(&to_context(call), RSlice::from_slice(&raw_items)))?;
        put_answers(&answers, deletes.len())
    }

    fn health(&self) -> Health {
        health(&self.raw.health())
    }

    fn flush(&self, call: &Call) -> Result<()> {
        from_answered(self.raw.flush(&to_context(call)))
    }

    fn close(&self, call: &Call) -> Result<()> {
        from_answered(self.raw.close(&to_context(call)))
    }
}

fn to_put<'a>(put: &Put<'a>) -> PutItem<'a> {
    PutItem {
        id: RStr::from_str(put.id),
        bytes: RSlice::from_slice(put.bytes),
        status: RStr::from_str(put.columns.status),
        language: RStr::from_str(put.columns.language),
        created_at: put.columns.created_at,
        expected: put.expected,
        reserved: [0; 2],
    }
}

fn health(json: &RString) -> Health {
    serde_json::from_str(json)
        .unwrap_or_else(|error| Health::unhealthy(format!("the plugin's health cannot be read: {error}")))
}

fn answer_json<T: serde::de::DeserializeOwned>(what: &str, json: RString) -> Result<T> {
    from_json(what, &json).map_err(|error| Error::internal(error.message))
}

/// The error that crossed the boundary.
#[must_use]
pub fn error_of(failure: &Failure) -> Error {
    from_failure(failure)
}
