//! How long after its intended send time an event is confirmed, at steady rates.
//!
//! The intended time counts, not the one at which the publisher came to it: else a stall would hide itself.

use std::time::Duration;

use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::worker::Setup;

use crate::drive::Driver;
use crate::options::Options;
use crate::postgres::Bench;
use crate::report::{self, Samples, quantile_ms};
use crate::side::{Side, Store, setup};
use crate::traffic::{Feed, Kind, Traffic, whole_lives};

/// Measures both stores at both rates, and prints what it finds.
pub(crate) fn measure(options: &Options) {
    let (redis, bench) = (RedisServer::start(), Bench::start());
    for per_second in [1000, 5000] {
        report::row("latency", format_args!("lifecycles at {per_second} events/s, milliseconds"));
        let durable = if per_second == 1000 { 8.0 } else { 15.0 };
        let stores: [(&str, &dyn Fn() -> Setup, f64); 3] = [
            ("memory", &|| setup(&redis, Store::Memory), 3.0),
            ("file", &|| setup(&redis, Store::File), durable),
            ("postgres", &|| bench.setup(&redis), durable),
        ];
        for (store, setup, budget) in stores {
            let worker = runs(options, &redis, per_second, || Side::of(setup()));
            show(&format!("worker, {store}"), &worker);
            report::at_most(&format!("worker, {store}, p99"), worker[1].median(), "ms", budget);
        }
        let bare = runs(options, &redis, per_second, || Side::bare_loop(&redis, Store::Memory));
        show("bare loop that stores nothing", &bare);
    }
}

fn show(who: &str, [median, most, worst]: &[Samples; 3]) {
    report::figure(format_args!("{who}, p50 | p99 | max"), [median, most, worst].map(|ms| ms.show(2)).join(" | "));
}

/// Medians, 99th percentiles and worst cases of some runs.
fn runs(options: &Options, redis: &RedisServer, per_second: u64, start: impl Fn() -> Side) -> [Samples; 3] {
    let events = whole_lives(options.seconds * per_second);
    let mut found: [Vec<f64>; 3] = Default::default();
    for _ in 0..options.runs {
        let _side = start();
        let mut driver = Driver::connect(redis, Feed::PubSub);
        let warm_up = whole_lives(per_second / 2);
        driver.pace(Traffic { kind: Kind::Lifecycles, first: 0 }, warm_up, per_second);
        let mut latencies: Vec<Duration> =
            driver.pace(Traffic { kind: Kind::Lifecycles, first: warm_up }, events, per_second);
        for (found, of_thousand) in found.iter_mut().zip([500, 990, 1000]) {
            found.push(quantile_ms(&mut latencies, of_thousand));
        }
    }
    found.map(Samples::new)
}
