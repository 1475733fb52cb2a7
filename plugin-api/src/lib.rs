//! The contract between `storage-worker` and its storage backends.
//!
//! A backend is a `cdylib` with one line, [`export_backend!`], and an implementation of [`Backend`] (or of
//! [`DocumentStore`], if it only keeps documents). It never sees the ABI below, and is loaded by any worker of the same
//! major version of this crate, whatever compiler built the two.
//!
//! Start with [`State`] for what is stored, with [`Backend`] for what a backend must do.

#[doc(hidden)]
pub mod abi;
#[cfg(feature = "tokio")]
mod asynchronous;
mod backend;
mod capabilities;
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
