//! The storage worker as a library: everything but the arguments' way into it.
//!
//! `main → cli → app → parts → leaves`; see `docs/architecture.md`.

pub mod app;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod error_chain;
pub mod event;
pub mod http;
pub mod journal;
pub mod letters;
pub mod plugin;
pub mod replay;
pub mod secret;
pub mod source;
pub mod storage;
pub mod suggest;
pub mod telemetry;
pub mod units;
pub mod worker;
