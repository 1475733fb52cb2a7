//! The storage backend `memory`: states in this process's memory, bounded by bytes, gone when it ends.
//!
//! For tests, and with `evict = true` as the cache of a layer. `memory.rs` answers the calls, `shard.rs` holds the
//! states, `list.rs` walks over them in order, `options.rs` has what can be configured.

mod list;
mod memory;
mod options;
mod shard;
#[cfg(test)]
mod tests;

pub use memory::Memory;
pub use options::Options;

storage_plugin_api::export_backend!("memory", Memory);
