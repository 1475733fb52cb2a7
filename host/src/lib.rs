//! The daemon: consumes evaluation events from Redis, merges them, stores them through plugins, confirms.

pub mod plugin;
