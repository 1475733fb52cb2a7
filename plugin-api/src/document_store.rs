//! The interface of a simple store: opaque documents with versions. The host merges.
//!
//! `document_backend.rs` makes a [`Backend`](crate::Backend) of it.

use serde::de::DeserializeOwned;

use crate::backend::{Call, Opening};
use crate::capabilities::Description;
use crate::error::{Error, Result};
use crate::query::Health;

/// A store of documents. Each has a version that the store changes with every write.
///
/// What is asked of a [`Backend`](crate::Backend) is asked of the store with the host's merge above it. So what stands at
/// its methods holds here: of bad items, calls at the same time, a far side that is away, durability and closing.
pub trait DocumentStore: Send + Sync + 'static {
    /// Reads documents: one answer for each id, in the ids' order; none where nothing is stored.
    ///
    /// # Errors
    /// When they cannot be read.
    fn get(&self, call: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>>;

    /// Writes documents, each only if its version is still the expected one. One answer for each, in order.
    ///
    /// # Behavior
    /// - Comparison and write are one step; between them nobody else writes that document.
    /// - A version is never used again for an id, not even after the document was deleted.
    /// - A document that cannot be stored, say under an empty id or one with `/`, is answered `Failed` with `InvalidItem`,
    ///   and its neighbours are written.
    /// - A store that claims `durable` has synced what it answers `Done`. Every read that begins afterwards sees it.
    ///
    /// # Errors
    /// An error of the whole call means that nothing is known of any of them.
    fn put(&self, call: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>>;

    /// Reads documents in id order (that of bytes), behind an id: each that is there throughout once, whatever else is
    /// written meanwhile.
    ///
    /// # Errors
    /// When they cannot be read.
    fn scan(&self, call: &Call, scan: &Scan) -> Result<ScanPage>;

    /// Deletes documents, each only if its version is still the expected one. One answer for each, in order.
    ///
    /// # Errors
    /// An error of the whole call means that nothing is known of any of them.
    fn delete(&self, call: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>>;

    /// How the store is; cheap, and never waits.
    fn health(&self) -> Health;

    /// Makes everything that was answered durable, as far as the store ever does.
    ///
    /// # Errors
    /// When that failed.
    fn flush(&self, call: &Call) -> Result<()>;

    /// Ends everything that runs. Called once, last.
    ///
    /// # Errors
    /// When something could not be ended.
    fn close(&self, call: &Call) -> Result<()>;
}

/// How an instance of a store is made; see [`OpenBackend`](crate::OpenBackend).
pub trait OpenDocumentStore: DocumentStore + Sized {
    /// The options of the configuration.
    type Options: DeserializeOwned;

    /// Says what an instance of these options would be. Of the capabilities only `durable`, `exclusive` and
    /// `parallel_calls` are the store's to say.
    fn check(options: &Self::Options) -> Description;

    /// Opens an instance.
    ///
    /// # Errors
    /// `Configuration` stops a start; `Unavailable` is tried again.
    fn open(options: Self::Options, opening: Opening) -> Result<Self>;
}

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Changes with every write; never 0.
    pub version: u64,
    /// What was put.
    pub bytes: Vec<u8>,
}

/// A document to write.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// The evaluation's id.
    pub id: &'a str,
    /// The version it must have now; 0 for a document that must not be there.
    pub expected: u64,
    /// The document.
    pub bytes: &'a [u8],
    /// What may be indexed.
    pub columns: Columns<'a>,
}

/// What a store may index of a document, so that scans need not read every document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns<'a> {
    /// The status; empty if unknown.
    pub status: &'a str,
    /// The language; empty if unknown.
    pub language: &'a str,
    /// The time of the earliest event, in microseconds.
    pub created_at: i64,
}

/// What became of a put or a delete.
#[derive(Clone, Debug, PartialEq)]
pub enum PutAnswer {
    /// Done.
    Done,
    /// The version is another one; nothing was done.
    Conflict,
    /// It failed.
    Failed(Error),
}

/// Which documents a page shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Behind this id; empty for the first page.
    pub after: String,
    /// At most so many; at least 1.
    pub limit: usize,
}

/// A page of documents in id order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Ids and documents.
    pub documents: Vec<(String, Document)>,
    /// There may be more behind the last one.
    pub more: bool,
}
