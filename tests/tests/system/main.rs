//! System tests: the real `storage-worker` with real plugins and a real Redis, all on 127.0.0.1 and in temporary
//! directories. One program, so that it is linked once. Run by `make test`, which builds what they start.

mod bad_input;
mod bad_trees;
mod buckets;
mod composite;
mod conservation;
mod durability;
mod flow;
mod journal;
mod kept_whole;
mod kill;
mod kit;
mod letters;
mod lifecycles;
mod mirror;
mod models;
mod outage;
mod poison;
mod postgres;
mod reading;
mod redis_away;
mod reload;
mod replay;
mod shutdown;
mod sqlite;
mod streams;
mod swap;
mod tiered;
mod trees;
mod upkeep;

use std::time::Duration;

/// How long anything may take that should take no time at all, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
