//! The storage backend `file`: evaluations in a directory, one file each, for whoever wants to read them.
//!
//! ```text
//! evaluations/<id>.json   the record, and the state under the key `state`     (record_file.rs, adopt.rs)
//! events/<id>.json        the history, for readers                            (record_file.rs, histories.rs)
//! log/<number>.log        what the files do not have yet, synced              (log.rs, entry.rs, segment.rs, replay.rs)
//! index.redb              what lists and counts need                          (index.rs, shared_index.rs, scan.rs)
//! log/<number>.log.damaged  a copy of a damaged one, set aside                 (replay.rs)
//! corrupt/                damaged files, set aside                            (store.rs)
//! writing/                files on their way to their places                  (directory.rs, checkpoint.rs)
//! blobs/                  blobs                                               (blobs.rs)
//! lock                    held while a process uses the directory             (backend.rs)
//! ```
//! A merge goes into memory and the log (`store.rs`), a checkpoint brings it into the files (`checkpoint.rs`).

mod adopt;
mod backend;
mod blobs;
mod caretaker;
mod checkpoint;
mod directory;
mod entry;
mod histories;
mod index;
mod list;
mod log;
mod options;
mod pending;
mod record_file;
mod replay;
mod scan;
mod segment;
mod shared_index;
mod store;
#[cfg(test)]
mod tests;

pub use backend::FileBackend;
pub use options::{Options, Sync};

storage_plugin_api::export_backend!("file", FileBackend);
