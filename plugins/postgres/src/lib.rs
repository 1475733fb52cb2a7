//! The storage backend `postgres`: evaluations in PostgreSQL, in tables that other programs read as well.
//!
//! ```text
//! evaluations         the record in columns; the state, without bodies, in `state`   (tables.rs, shown.rs, state_form.rs)
//! evaluation_events   the history, for readers                                       (write.rs)
//! evaluation_bodies   bodies that are kept and not shown                             (write.rs)
//! ```
//! Read `merge.rs` first: it is what the rest is for. `migrations.rs` makes the tables, `indexes.rs` what lists use.

mod backend;
mod connect;
mod counts;
mod delete;
mod errors;
mod escape;
mod guess;
mod hosts;
mod indexes;
mod joined;
mod list;
mod merge;
mod migrations;
mod options;
mod pool;
mod rows;
mod shown;
mod state_form;
mod statements;
mod tables;
mod timestamp;
mod tls;
mod watch;
mod write;

pub use backend::Postgres;
pub use options::{Durability, Migrate, Options};
pub use tls::SslMode;

/// The backend with the runtime it lives in.
pub type Backend = storage_plugin_api::Async<Postgres>;

storage_plugin_api::export_backend!("postgres", Backend);
