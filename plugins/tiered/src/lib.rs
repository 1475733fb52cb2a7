//! The storage backend `tiered`: a layer that keeps large bodies apart from the states that they belong to.
//!
//! ```text
//!          merge: bodies over the threshold to `blobs`, then the state, with references in their place, to `primary`
//! tiered ─┬─ primary   every state                                              writes.rs, reads.rs
//!         └─ blobs     large bodies, compressed, each under its SHA-256         blob.rs, collect.rs
//! ```
//! Text and reference are two forms of one body and have one identity, so a merge of the one with the other decides
//! nothing: what is read back is the same state, byte for byte, as if this layer were not there.
//!
//! # Why no state refers to a blob that is not there
//! - *A blob is stored before the state that refers to it.* Where it cannot be stored, the item is answered with that
//!   error and is tried again; its neighbours go through.
//! - *Storing a blob again makes it younger.* The thread that collects (`collect.rs`) removes a blob only if no state
//!   refers to it and it was not stored for `collect_after` before the walk through the states began. A state that the
//!   walk does not see was merged after the walk began, and its blob was stored not long before that.
//!
//! # What is answered where a blob cannot be had
//! The state with the reference, which has the beginning of the text, marked `incomplete`; a missing or damaged blob is
//! also an error in the log. A reference to the blobs of another instance that is open (`places.rs`) is left to that one;
//! one to blobs that had another name is looked for in those that there are, since a blob is named by what it is.

mod blob;
mod collect;
mod options;
mod parallel;
mod places;
mod reads;
#[cfg(test)]
mod tests;
mod tiered;
mod writes;

pub use options::Options;
pub use tiered::Tiered;

storage_plugin_api::export_backend!("tiered", Tiered);

/// The roles of the children.
pub(crate) mod role {
    pub(crate) const PRIMARY: &str = "primary";
    pub(crate) const BLOBS: &str = "blobs";
}
