//! Events that are taken once more: what a line of them looks like (`record.rs`), and how they are merged into a backend
//! that is named (`into.rs`). Into the live tree they go through the running worker, as `source/fed.rs` hands them over.

pub mod into;
pub mod record;
