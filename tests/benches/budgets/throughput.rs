//! Events per second at saturation, the worker against the bare loop, and the CPU that each spends on them.

use std::any::Any;

use storage_worker_tests::redis_server::RedisServer;

use crate::drive::{Driver, publisher_alone};
use crate::options::Options;
use crate::report::{self, Samples};
use crate::side::{Side, Store};
use crate::traffic::{Kind, Traffic, whole_lives};

/// Events before the measured ones, so that connections, threads and caches are warm.
const WARM_UP: u64 = 3000;

/// What runs of one side gave.
#[derive(Default)]
struct Runs {
    per_second: Vec<f64>,
    cpu_ms_per_1000: Vec<f64>,
}

/// Measures a store with new evaluations and with lifecycles, and prints what it finds.
pub(crate) fn measure(options: &Options, store: Store, least: f64, aim: f64) {
    for (kind, load) in [(Kind::New, "a new evaluation per event"), (Kind::Lifecycles, "lifecycles")] {
        report::row(store.name(), format_args!("pub/sub -> {}, {load}", store.name()));
        let redis = RedisServer::start();
        let events = whole_lives(match store {
            Store::Memory => options.events,
            Store::File => options.file_events,
        });
        let alone = publisher_alone(&redis, Traffic { kind, first: 0 }, events);
        let (mut worker, mut bare) = (Runs::default(), Runs::default());
        // Removed at the end, so that it does not disturb the runs.
        let mut remains = Vec::new();
        for _ in 0..options.runs {
            remains.push(run(&redis, Side::bare_loop(&redis, store), kind, events, &mut bare));
            remains.push(run(&redis, Side::worker(&redis, store), kind, events, &mut worker));
        }
        let [worker_rate, bare_rate] = [&worker, &bare].map(|runs| Samples::new(runs.per_second.clone()));
        report::figure("worker, events/s", worker_rate.show(0));
        report::figure("bare loop, events/s", bare_rate.show(0));
        report::figure("publisher alone, events/s", format_args!("{alone:.0}"));
        let [worker_cpu, bare_cpu] = [worker, bare].map(|runs| Samples::new(runs.cpu_ms_per_1000));
        report::figure("worker, CPU ms per 1000 events", worker_cpu.show(1));
        report::figure("bare loop, CPU ms per 1000 events", bare_cpu.show(1));
        report::at_least("ratio", worker_rate.median() / bare_rate.median(), least, aim);
    }
}

fn run(redis: &RedisServer, side: Side, kind: Kind, events: u64, runs: &mut Runs) -> Box<dyn Any> {
    let mut driver = Driver::connect(redis);
    driver.saturate(Traffic { kind, first: 0 }, WARM_UP);
    let cpu = side.cpu();
    let time = driver.saturate(Traffic { kind, first: WARM_UP }, events);
    let cpu = side.cpu() - cpu;
    runs.per_second.push(events as f64 / time.as_secs_f64());
    runs.cpu_ms_per_1000.push(cpu.as_secs_f64() * 1e6 / events as f64);
    side.end()
}
