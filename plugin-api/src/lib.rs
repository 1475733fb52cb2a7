//! The contract between `storage-worker` and its storage backends.
//!
//! A backend is a `cdylib` with one line, [`export_backend!`], and an implementation of [`Backend`] (or of
//! [`DocumentStore`], if it only keeps documents). It never sees the ABI below, and is loaded by any worker of the same
//! major version of this crate, whatever compiler built the two.
//!
//! Start with [`State`] for what is stored, with [`Backend`] for what a backend must do.
//!
//! # Example: a whole plugin
//! A crate of `crate-type = ["cdylib"]` named `storage-backend-shelf`, with this in its `src/lib.rs`:
//! ```
//! use std::collections::BTreeMap;
//! use std::ops::Bound;
//! use std::sync::{Mutex, MutexGuard, PoisonError};
//!
//! use storage_plugin_api::{
//!     Call, Description, Document, DocumentStore, Error, Health, OpenDocumentStore, Opening, Put, PutAnswer, Result,
//!     Scan, ScanPage,
//! };
//!
//! /// Keeps documents in a map. Yours keeps them where you like.
//! struct Shelf {
//!     max_documents: usize,
//!     kept: Mutex<Kept>,
//! }
//!
//! #[derive(Default)]
//! struct Kept {
//!     documents: BTreeMap<String, Document>,
//!     last_version: u64,
//! }
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Options {
//!     max_documents: usize,
//! }
//!
//! storage_plugin_api::export_document_store!("shelf", Shelf);
//!
//! impl OpenDocumentStore for Shelf {
//!     type Options = Options;
//!
//!     /// The default description: volatile, for one process, one call at a time.
//!     fn check(options: &Options) -> Description {
//!         let mut description = Description::default();
//!         if options.max_documents == 0 {
//!             description.problems.push("`max_documents` is 0; give at least 1".to_owned());
//!         }
//!         description
//!     }
//!
//!     fn open(options: Options, opening: Opening) -> Result<Self> {
//!         tracing::info!(instance = opening.instance, "shelf opened");
//!         Ok(Self { max_documents: options.max_documents, kept: Mutex::default() })
//!     }
//! }
//!
//! impl Shelf {
//!     fn kept(&self) -> MutexGuard<'_, Kept> {
//!         self.kept.lock().unwrap_or_else(PoisonError::into_inner)
//!     }
//! }
//!
//! impl Kept {
//!     /// The version of a document; 0 if there is none.
//!     fn version(&self, id: &str) -> u64 {
//!         self.documents.get(id).map_or(0, |document| document.version)
//!     }
//! }
//!
//! impl DocumentStore for Shelf {
//!     fn get(&self, _: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>> {
//!         let kept = self.kept();
//!         Ok(ids.iter().map(|id| kept.documents.get(*id).cloned()).collect())
//!     }
//!
//!     fn put(&self, _: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>> {
//!         let mut kept = self.kept();
//!         let put_one = |put: &Put<'_>| {
//!             if kept.version(put.id) != put.expected {
//!                 return PutAnswer::Conflict;
//!             }
//!             if put.expected == 0 && kept.documents.len() >= self.max_documents {
//!                 return PutAnswer::Failed(Error::overloaded("the shelf is full; raise `max_documents`"));
//!             }
//!             kept.last_version += 1;
//!             let document = Document { version: kept.last_version, bytes: put.bytes.to_vec() };
//!             kept.documents.insert(put.id.to_owned(), document);
//!             PutAnswer::Done
//!         };
//!         Ok(puts.iter().map(put_one).collect())
//!     }
//!
//!     fn scan(&self, _: &Call, scan: &Scan) -> Result<ScanPage> {
//!         let kept = self.kept();
//!         let behind = (Bound::Excluded(scan.after.as_str()), Bound::Unbounded);
//!         let mut rest = kept.documents.range::<str, _>(behind).map(|(id, document)| (id.clone(), document.clone()));
//!         let documents = rest.by_ref().take(scan.limit).collect();
//!         Ok(ScanPage { documents, more: rest.next().is_some() })
//!     }
//!
//!     fn delete(&self, _: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>> {
//!         let mut kept = self.kept();
//!         let delete_one = |(id, version): &(&str, u64)| {
//!             if kept.version(id) != *version {
//!                 return PutAnswer::Conflict;
//!             }
//!             kept.documents.remove(*id);
//!             PutAnswer::Done
//!         };
//!         Ok(deletes.iter().map(delete_one).collect())
//!     }
//!
//!     fn health(&self) -> Health {
//!         Health::healthy().with("documents", self.kept().documents.len())
//!     }
//!
//!     fn flush(&self, _: &Call) -> Result<()> {
//!         Ok(())
//!     }
//!
//!     fn close(&self, _: &Call) -> Result<()> {
//!         Ok(())
//!     }
//! }
//! #
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use storage_plugin_api::{Backend, DocumentBackend, Durability, EventStamp, Fields, Outcome, State, Status, with_items};
//! #
//! # fn main() {
//! #     let shelf = Shelf { max_documents: 1, kept: Mutex::default() };
//! #     let backend = DocumentBackend::new(Arc::new(shelf), Durability::Volatile);
//! #     let call = Call::with_budget(Duration::from_secs(5));
//! #     let mut state = State::new();
//! #     state.set_open(&EventStamp::new(1, "q-1"), Status::Queued);
//! #     let merge = |id: &str| with_items(&[(id, &state)], |items| backend.merge(&call, items)).unwrap().remove(0).outcome;
//! #
//! #     assert_eq!(merge("a"), Outcome::Created);
//! #     assert_eq!(merge("a"), Outcome::Unchanged);
//! #     assert!(matches!(merge("b"), Outcome::Rejected(_)));
//! #     let found = backend.get(&call, &["a", "b"], Fields::Whole).unwrap();
//! #     assert_eq!(found[0].as_ref().unwrap().state.digest(), state.digest());
//! #     assert!(found[1].is_none());
//! # }
//! ```

#![deny(missing_docs)]

#[doc(hidden)]
pub mod abi;
#[cfg(feature = "tokio")]
mod asynchronous;
mod backend;
#[doc(hidden)]
pub mod c_abi;
mod capabilities;
#[cfg(feature = "conformance")]
pub mod conformance;
mod convert;
mod document_backend;
mod document_store;
mod error;
#[allow(unsafe_code, reason = "one of the modules that make the plugin boundary")]
#[doc(hidden)]
pub mod export;
#[doc(hidden)]
pub mod import;
pub mod manifest;
pub mod model;
pub mod plugin_host;
mod query;

#[doc(hidden)]
pub use export::private as __private;

pub use abi::{RegisterRef, with_items};
#[cfg(feature = "tokio")]
pub use asynchronous::{Async, AsyncBackend};
pub use backend::{
    Answer, Backend, Call, Child, Delete, Deleted, Durability, Found, Item, OpenBackend, Opening, Outcome,
};
pub use capabilities::{Capabilities, ChildDescription, Description, Role};
pub use document_backend::DocumentBackend;
pub use document_store::{Columns, Document, DocumentStore, OpenDocumentStore, Put, PutAnswer, Scan, ScanPage};
pub use error::{Error, ErrorKind, Result};
pub use model::body::{Body, Hash, Reference};
pub use model::record::{HistoryEntry, Record, format_time};
pub use model::register::{EventStamp, Register, Rule, Value, ValueKind};
pub use model::state::State;
pub use model::status::Status;
pub use model::stored::{FORMAT, StoredError};
pub use model::{body, json, names};
pub use query::{BlobEntry, BlobPage, Counts, Fields, Health, Order, Page, Prune, Pruned, Query};
