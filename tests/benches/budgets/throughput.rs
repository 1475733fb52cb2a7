//! Events per second at saturation, the worker against the bare loop, and the CPU that each spends on them.

use std::any::Any;

use storage_worker_tests::redis_server::RedisServer;

use crate::drive::{Driver, publisher_alone};
use crate::options::{Only, Options};
use crate::report::{self, Samples};
use crate::side::{Side, Store, setup};
use crate::traffic::{Feed, Kind, Traffic, whole_lives};

/// Events before the measured ones, so that connections, threads and caches are warm.
const WARM_UP: u64 = 3000;

/// What runs of one side gave.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) per_second: Vec<f64>,
    pub(crate) cpu_ms_per_1000: Vec<f64>,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// How events come.
    pub(crate) feed: Feed,
    /// Where they are stored.
    pub(crate) store: Store,
    /// The budget: the least ratio, and what is aimed at.
    pub(crate) least: f64,
    pub(crate) aim: f64,
}

impl Path {
    fn events(&self, options: &Options) -> u64 {
        whole_lives(match (self.feed, self.store) {
            (Feed::PubSub, Store::Memory) => options.events,
            // They go through the log of Redis, too.
            (Feed::Stream, Store::Memory) => options.events / 2,
            (Feed::PubSub | Feed::Stream, Store::File) => options.file_events,
        })
    }

    fn bare_loop(&self, redis: &RedisServer) -> Side {
        match self.feed {
            Feed::PubSub => Side::bare_loop(redis, self.store),
            Feed::Stream => Side::bare_loop_on_stream(redis, self.store),
        }
    }

    fn worker(&self, redis: &RedisServer) -> Side {
        match self.feed {
            Feed::PubSub => Side::worker(redis, self.store),
            Feed::Stream => Side::on_stream(redis, setup(redis, self.store)),
        }
    }
}

/// Measures a path with new evaluations and with lifecycles, and prints what it finds.
pub(crate) fn measure(options: &Options, path: Path) {
    let (name, from) = match (path.feed, path.store) {
        (Feed::PubSub, store) => (store.name(), "pub/sub"),
        (Feed::Stream, Store::Memory) => ("streams", "streams"),
        (Feed::Stream, Store::File) => ("streams-file", "streams"),
    };
    for (kind, load) in kinds(options) {
        report::row(name, format_args!("{from} -> {}, {load}", path.store.name()));
        let redis = RedisServer::start();
        let events = path.events(options);
        let alone = (path.feed == Feed::PubSub).then(|| publisher_alone(&redis, Traffic { kind, first: 0 }, events));
        let (mut worker, mut bare) = (Runs::default(), Runs::default());
        // Removed at the end, so that it does not disturb the runs.
        let mut remains = Vec::new();
        for _ in 0..options.runs {
            if options.includes(Only::Bare) {
                remains.push(run(&redis, path.feed, path.bare_loop(&redis), kind, events, &mut bare));
            }
            if options.includes(Only::Plugin) {
                remains.push(run(&redis, path.feed, path.worker(&redis), kind, events, &mut worker));
            }
        }
        if let Some(alone) = alone {
            report::figure("publisher alone, events/s", format_args!("{alone:.0}"));
        }
        show(["worker", "bare loop"], [worker, bare], path.least, path.aim);
    }
}

/// The loads that are measured, and what they are called.
pub(crate) fn kinds(options: &Options) -> impl Iterator<Item = (Kind, &'static str)> {
    [(Only::New, Kind::New, "a new evaluation per event"), (Only::Lifecycles, Kind::Lifecycles, "lifecycles")]
        .into_iter()
        .filter(|(only, ..)| options.includes(*only))
        .map(|(_, kind, load)| (kind, load))
}

/// Prints the runs of two sides, and how they stand to the budget if both ran.
pub(crate) fn show(names: [&str; 2], sides: [Runs; 2], least: f64, aim: f64) {
    let mut rates = Vec::new();
    for (name, runs) in names.into_iter().zip(sides).filter(|(_, runs)| !runs.per_second.is_empty()) {
        let rate = Samples::new(runs.per_second);
        report::figure(format_args!("{name}, events/s"), rate.show(0));
        report::figure(format_args!("{name}, CPU ms per 1000 events"), Samples::new(runs.cpu_ms_per_1000).show(1));
        rates.push(rate.median());
    }
    if let [of, against] = *rates {
        report::at_least("ratio", of / against, least, aim);
    }
}

/// One run of one side, which is ended. Gives what it stored, as [`Side::end`] does.
pub(crate) fn run(
    redis: &RedisServer,
    feed: Feed,
    side: Side,
    kind: Kind,
    events: u64,
    runs: &mut Runs,
) -> Box<dyn Any> {
    let mut driver = Driver::connect(redis, feed);
    driver.saturate(Traffic { kind, first: 0 }, WARM_UP);
    let cpu = side.cpu();
    let time = driver.saturate(Traffic { kind, first: WARM_UP }, events);
    let cpu = side.cpu() - cpu;
    runs.per_second.push(events as f64 / time.as_secs_f64());
    runs.cpu_ms_per_1000.push(cpu.as_secs_f64() * 1e6 / events as f64);
    side.end()
}
