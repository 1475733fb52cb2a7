//! The kit of the system tests: a second model to compare with, made-up events, and servers that stop by themselves.
//!
//! The tests are in `tests/system/`. They start the real binary with real plugins and a real Redis, all on 127.0.0.1.

pub mod authority;
pub mod bucket_servers;
pub mod confirmations;
pub mod conservation;
pub mod gate;
pub mod generate;
pub mod http;
pub mod load;
pub mod outside;
pub mod pgbouncer;
pub mod postgres_server;
pub mod process;
pub mod publisher;
pub mod redis_cluster;
pub mod redis_server;
pub mod second_model;
pub mod small_disk;
pub mod stream_load;
pub mod streams;
pub mod variant;
pub mod wait;
pub mod worker;
