//! The storage backend `cached-composite`: a layer with a primary, a cache before it and a fallback behind it.
//!
//! ```text
//!            reads: fallback first while it holds something, then cache, then primary
//! composite ─┬─ cache     (optional, evicting)  made from whole reads, joined into by merges         cache.rs, flights.rs
//!            ├─ primary                         where everything is, or will be
//!            └─ fallback  (optional, durable)   what came while the primary was unavailable          holding.rs, catch_up.rs
//! ```
//! The fallback never holds the truth, only a part of it that the primary does not have yet. Joining is all it takes to
//! put the parts together again: states are joins (merging in any order and again is harmless), so there is no log.
//!
//! | call | primary there, fallback empty | primary there, fallback not empty | primary unavailable |
//! |---|---|---|---|
//! | merge | primary, then the cache | the same | fallback; answered `accepted` |
//! | get | cache, else primary (and fill) | fallback, then cache or primary, joined | fallback, then cache, joined, `incomplete`; unavailable where neither knows an id |
//! | list, counts | primary | both, joined | unavailable |
//! | delete | primary, then the cache | primary, fallback, cache | unavailable |
//! | prune | primary | unavailable until the fallback is empty | unavailable |
//! | blobs | primary | primary | unavailable |
//!
//! # Why no read is older than what was confirmed
//! - *The fallback is read first.* What was accepted is in the fallback until the primary and the cache have it. Whoever
//!   does not find it in the fallback any more reads primary and cache afterwards, and finds it there.
//! - *The fallback is taken to be empty only when a look that began with no merge to it under way found nothing, and none
//!   has begun since* (`holding.rs`). A merge to it says that it begins before it does.
//! - *A merge joins into the cache, or removes the entry, before it is answered* (`cache.rs`). It marks the reads that are
//!   under way as outdated first: they fill nothing, and nobody joins them any more (`flights.rs`). Who changes the cache
//!   entry of an id has claimed the id (`claims.rs`).
//! - *What the fallback has of an evaluation is not answered alone if the primary has taken something of it meanwhile*
//!   and went away again (`meanwhile.rs`): then the read is unavailable, unless the cache knows what the primary took.
//! - *Nothing is put into the cache before the time of the call of `begin` is over.* In the tree that was in use before there
//!   may be no such cache, and what is still merged there joins nothing into it.
//! - *An entry counts only with the register that says that it was made from a whole read*, in the present epoch and
//!   within `ttl`. What else the cache holds is no entry. Where the cache cannot be changed in time, a new epoch begins:
//!   all entries are void.
//!
//! # Why a crash loses nothing
//! A state leaves the fallback only after the primary answered that it has it (durably, if the primary can), and only if
//! its digest is still the one that was merged. A crash before the delete merges it again, which changes nothing.
//!
//! # Who is kept apart
//! The thread that catches up and a delete exclude each other by id, so that what was deleted is not merged back in. Two
//! instances over the same children, as during a change of the configuration, share claims and epoch (`shared.rs`). The
//! last one that was told to begin catches up, and no other: what was accepted for a new primary does not go to the old
//! one, and nothing goes to a new one that is given up again (`holding.rs`).

mod cache;
mod catch_up;
mod claims;
mod composite;
mod flights;
mod holding;
mod list;
mod meanwhile;
mod options;
mod primary;
mod reads;
mod shared;
mod signal;
mod suspects;
#[cfg(test)]
mod tests;
mod writes;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use composite::CachedComposite;
pub use options::Options;

storage_plugin_api::export_backend!("cached-composite", CachedComposite);

/// The roles of the children.
pub(crate) mod role {
    pub(crate) const CACHE: &str = "cache";
    pub(crate) const PRIMARY: &str = "primary";
    pub(crate) const FALLBACK: &str = "fallback";
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
