//! What the worker answers over HTTP.

pub mod config;
