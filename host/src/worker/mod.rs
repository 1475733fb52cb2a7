//! Between sources and storage: gathers, merges, retries, settles.

pub mod config;
