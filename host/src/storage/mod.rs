//! Storage as the worker sees it: a tree of backends behind one root.
//!
//! `plan.rs` makes sense of the configuration, `open.rs` opens it from the leaves up, `tree.rs` is the opened tree. Every
//! opened backend stands behind a guard (`guard.rs`). Knows nothing of Redis, and of plugins only what `plugin.rs` asks.

mod breaker;
mod breakers;
mod change;
pub mod config;
mod current;
mod deadline;
pub mod explain;
mod fit;
mod gate;
mod guard;
mod inside;
mod kind;
mod meter;
mod open;
mod plan;
mod plugin;
mod problem;
pub mod read;
mod reload;
#[cfg(test)]
pub(crate) mod testing;
mod tree;
pub(crate) mod upkeep;

pub use breaker::BreakerState;
pub(crate) use change::Carried;
pub use config::{BackendConfig, Backends, BreakerConfig, Children, Config, Guarantee};
pub use current::Current;
pub use gate::Overdue;
pub use guard::Guard;
pub use open::OpenError;
pub(crate) use open::Patience;
pub use plan::Plan;
pub use plugin::{About, Plugin, PluginSource};
pub use problem::{Problem, Problems};
pub use reload::{ReloadError, Reloaded};
pub use tree::{BackendHealth, CloseFailure, Tree, TreeHealth};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic of another holder: every holder leaves the value whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
