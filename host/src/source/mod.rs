//! Where deliveries come from.

pub mod config;
