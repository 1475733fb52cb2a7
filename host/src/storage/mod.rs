//! The storage tree, as the worker sees it.

pub mod config;
