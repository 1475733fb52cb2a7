//! What the journal costs: the worker with it against the worker without it, from pub/sub to memory and to files.

use storage_worker_tests::redis_server::RedisServer;

use crate::options::Options;
use crate::report::{self, Samples};
use crate::side::{Side, Store};
use crate::throughput::{Runs, run};
use crate::traffic::{Feed, Kind, whole_lives};

/// Of the rate without it, what is left with it.
const LEAST: f64 = 0.8;

/// Measures lifecycles, and prints what it finds.
pub(crate) fn measure(options: &Options) {
    for (store, events) in [(Store::Memory, options.events), (Store::File, options.file_events)] {
        report::row("journal", format_args!("pub/sub -> {}, lifecycles, with a journal against without", store.name()));
        let redis = RedisServer::start();
        let events = whole_lives(events);
        let (mut with, mut without) = (Runs::default(), Runs::default());
        // Removed at the end, so that it does not disturb the runs.
        let mut remains = Vec::new();
        for _ in 0..options.runs {
            for (mode, runs) in [("off", &mut without), ("always", &mut with)] {
                let side = Side::worker_with_journal(&redis, store, mode);
                remains.push(run(&redis, Feed::PubSub, side, Kind::Lifecycles, events, runs));
            }
        }
        let [with_rate, without_rate] = [&with, &without].map(|runs| Samples::new(runs.per_second.clone()));
        report::figure("with, events/s", with_rate.show(0));
        report::figure("without, events/s", without_rate.show(0));
        let [with_cpu, without_cpu] = [with, without].map(|runs| Samples::new(runs.cpu_ms_per_1000));
        report::figure("with, CPU ms per 1000 events", with_cpu.show(1));
        report::figure("without, CPU ms per 1000 events", without_cpu.show(1));
        report::at_least("ratio", with_rate.median() / without_rate.median(), LEAST, 1.0);
    }
}
