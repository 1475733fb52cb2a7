//! The storage backend `object-store`: blobs, and nothing else, in a bucket of S3, GCS or Azure, or in a directory.
//!
//! ```text
//! <url>/<key>/2026-11-30T07     the bytes of a blob that was stored in that hour (UTC)          name.rs
//! ```
//! Every hour has a name of its own, and a put writes that of the present hour. That is what makes put and delete safe side
//! by side, with nothing asked of the store but that what was written is listed: none of the stores can delete an object
//! only if it was not written again (an ETag of S3 says what the bytes are, not when they came).
//!
//! - A put writes the name of this hour, and then removes older copies: bytes that come again stay one copy.
//! - A delete takes what it has listed, and only if all of it is old: not written since, and of hours that ended before that.
//!   Nobody writes to those names any more, so it never hits a put that comes at the same moment.
//! - A read lists the copies and takes the newest. One that goes meanwhile was followed by another.
//!
//! A put and a delete must differ by less than `collect_after` of the layer above in what they take for the time: at least an
//! hour, for clocks that differ and for a put under way.
//!
//! `bucket.rs` has the calls, `place.rs` where a URL leads, `store.rs` how it is reached, `http.rs` listens to what servers
//! say, `failure.rs` says what that means, and `watch.rs` how the backend is.

mod backend;
mod bucket;
mod failure;
mod http;
mod name;
mod options;
mod place;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub use backend::ObjectStore;
pub use options::Options;

/// The backend with the runtime it lives in.
pub type Backend = storage_plugin_api::Async<ObjectStore>;

storage_plugin_api::export_backend!("object-store", Backend);
