//! The storage backend `sqlite`: evaluations in one SQLite database, indexed for lists, shared by the processes of a host.
//!
//! ```text
//! <path>          the database                            (schema.rs)
//! <path>-wal      what was merged last, synced            (SQLite's write-ahead log)
//! <path>-shm      what the processes tell each other      (SQLite's)
//! ```
//! `backend.rs` answers the calls: a batch is one transaction (`merge.rs`), a page follows an index (`list.rs`).
//! `session.rs` is a connection that gives up at the deadline of a call, `pool.rs` lends them out, `failure.rs` says what
//! an error of SQLite means for the worker.

mod backend;
mod blobs;
mod failure;
mod files;
mod list;
mod merge;
mod options;
mod pool;
mod prune;
mod read;
mod schema;
mod session;
#[cfg(test)]
mod tests;

pub use backend::Sqlite;
pub use options::{Options, Synchronous};

storage_plugin_api::export_backend!("sqlite", Sqlite);
