//! What the journal costs: the worker with it against the worker without it, from pub/sub to memory, to files and to
//! PostgreSQL.

use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::worker::Setup;

use crate::options::Options;
use crate::postgres::Bench;
use crate::report;
use crate::side::{Side, Store, setup};
use crate::throughput::{Runs, run, show};
use crate::traffic::{Feed, Kind, whole_lives};

/// Of the rate without it, what is left with it.
const LEAST: f64 = 0.8;

/// Measures lifecycles, and prints what it finds.
pub(crate) fn measure(options: &Options) {
    let redis = RedisServer::start();
    for (store, events) in [(Store::Memory, options.events), (Store::File, options.file_events)] {
        measure_into(options, &redis, store.name(), events, || setup(&redis, store));
    }
    let bench = Bench::start();
    measure_into(options, &redis, "postgres", options.events / 2, || bench.setup(&redis));
}

fn measure_into(options: &Options, redis: &RedisServer, store: &str, events: u64, setup: impl Fn() -> Setup) {
    report::row("journal", format_args!("pub/sub -> {store}, lifecycles, with a journal against without"));
    let events = whole_lives(events);
    let (mut with, mut without) = (Runs::default(), Runs::default());
    // Removed at the end, so that it does not disturb the runs.
    let mut remains = Vec::new();
    for _ in 0..options.runs {
        for (mode, runs) in [("off", &mut without), ("always", &mut with)] {
            let side = Side::of(setup().set("journal.mode", mode));
            remains.push(run(redis, Feed::PubSub, side, Kind::Lifecycles, events, runs));
        }
    }
    show(["with", "without"], [with, without], LEAST, 1.0);
}
