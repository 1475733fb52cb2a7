//! Memory of the worker's process: idle, and while it takes all it can.

use std::thread;
use std::time::Duration;

use storage_worker_tests::redis_server::RedisServer;

use crate::drive::Driver;
use crate::options::Options;
use crate::report::{self, Samples, mib};
use crate::side::{Side, Store};
use crate::traffic::{Feed, Kind, Traffic, whole_lives};

/// Parts of the load, after each of which is looked how much memory there is.
const PARTS: u64 = 10;

/// Measures an idle worker, and prints what it finds.
pub(crate) fn measure_idle(options: &Options) {
    report::row("idle", "resident memory 2 s after the start, MiB");
    let redis = RedisServer::start();
    for store in [Store::File, Store::Memory] {
        let idle = |_| {
            let side = Side::worker(&redis, store);
            thread::sleep(Duration::from_secs(2));
            mib(side.memory().0)
        };
        let found = Samples::new((0..options.runs).map(idle).collect());
        report::figure(format_args!("worker, {}", store.name()), found.show(1));
        if store == Store::File {
            report::at_most("worker, file", found.median(), "MiB", 15.0);
        }
    }
}

/// Measures a worker with the file backend at saturation, and prints what it finds.
pub(crate) fn measure_load(options: &Options) {
    let part = whole_lives(options.load_events / PARTS);
    report::row("load", format_args!("resident memory over {} events at saturation, file, MiB", part * PARTS));
    let redis = RedisServer::start();
    let side = Side::worker(&redis, Store::File);
    let mut driver = Driver::connect(&redis, Feed::PubSub);
    let mut now = Vec::new();
    for number in 0..PARTS {
        driver.saturate(Traffic { kind: Kind::Lifecycles, first: number * part }, part);
        now.push(format!("{:.1}", mib(side.memory().0)));
    }
    report::figure("after each tenth", now.join(" "));
    thread::sleep(Duration::from_secs(3));
    report::figure("3 s after the last event", format_args!("{:.1}", mib(side.memory().0)));
    report::at_most("at its most", mib(side.memory().1), "MiB", 64.0);
}
