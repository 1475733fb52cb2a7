//! The storage backend `mirror`: a layer that gives what its primary took to shadows, too.
//!
//! ```text
//!            reads, merges, deletes: primary
//! mirror ─┬─ primary                    decides what is taken, answers every read
//!         └─ shadow  (one or several)   follow by themselves (`ack = "primary"`), or with the answer (`ack = "all"`)
//! ```
//! Only what the primary took goes to a shadow, and it goes there as the same state; states are joins, so it matters
//! neither when nor how often.
//!
//! | | `ack = "primary"` | `ack = "all"` |
//! |---|---|---|
//! | a merge is answered | when the primary has it | when all have it; the outcome is the primary's, the durability that of the weakest |
//! | a shadow that is slow | waits in a queue of its own | slows merges down |
//! | a shadow that is away | is behind | makes items unavailable, which the worker tries again |
//! | a shadow that refuses a state | diverges; counted and named | makes the item rejected |
//! | delete | primary, then the shadows' queues | shadows, then the primary |
//! | prune | primary, then the shadows' queues | shadows, then the primary |
//!
//! # How a shadow follows
//! Changes wait in order, bounded in number and bytes (`queue.rs`). What does not fit is *owed*: only its id is kept, and
//! so is that of everything that comes behind it. A thread per shadow (`follow.rs`) applies the changes, then reads what is
//! owed from the primary and brings the shadow to that; when nothing is owed any more, changes wait in order again. So
//! nothing that is read from the primary is older than a change that was applied before it. Ids are bounded, too; what
//! is beyond is *lost* to the shadow, and only a comparison of both finds it.
//!
//! # Deletes
//! Merges and deletes take turns (`turns.rs`), so that all children see them in the same order. With `ack = "all"` the
//! shadows come first and the primary last: a delete that is cut short leaves the evaluation where reads find it and
//! it is deleted again. In the other order it would stay in a shadow, from where a repair, which merges, would bring it
//! back. A delete by digest asks the primary first, since only that can tell. With `ack = "primary"` the thread looks
//! what the primary has before it deletes, and again afterwards, so that what another worker merged meanwhile stays.
//!
//! # When an instance takes the place of another
//! Two instances over the same children share who follows (`succession.rs`): the new one begins when the old one has
//! ended, and takes over what that still owed.

mod aside;
mod follow;
mod mirror;
mod options;
mod queue;
mod settle;
mod shadow;
mod succession;
#[cfg(test)]
mod tests;
mod turns;
mod writes;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use mirror::Mirror;
pub use options::{Ack, Options};

storage_plugin_api::export_backend!("mirror", Mirror);

/// The roles of the children.
pub(crate) mod role {
    pub(crate) const PRIMARY: &str = "primary";
    pub(crate) const SHADOW: &str = "shadow";
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
