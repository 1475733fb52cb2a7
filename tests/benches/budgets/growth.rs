//! What an event costs while many evaluations are stored, against few, and how long a start takes with them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use storage_worker_tests::http::Http;
use storage_worker_tests::process::Process;
use storage_worker_tests::redis_server::{RedisServer, free_port};
use storage_worker_tests::worker::Setup;

use crate::drive::Driver;
use crate::options::Options;
use crate::report::{self, Samples, mib};
use crate::side::{Store, cpu, setup};
use crate::traffic::{Feed, Kind, Traffic};

/// Evaluations that are few.
const FEW: u64 = 10_000;

/// Events of one measurement: half of them complete a stored evaluation, half queue a new one. So few, that five
/// measurements complete each of few evaluations once.
const EVENTS: u64 = 4000;

/// After the fill, until the backend has written its files.
const SETTLE: Duration = Duration::from_secs(3);

/// Before it ends, the files of some hundred thousand evaluations may have to be written first.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Time and CPU of an event in microseconds.
#[derive(Default)]
struct Costs {
    time: Vec<f64>,
    cpu: Vec<f64>,
}

/// Measures a store that fills up, and prints what it finds.
pub(crate) fn measure(options: &Options, store: Store) {
    let many = options.many;
    let name = format!("growth-{}", store.name());
    report::row(&name, format_args!("an event at {many} stored evaluations against {FEW}, microseconds"));
    let redis = RedisServer::start();
    let few = costs(&redis, &setup(&redis, store), FEW, options.runs);
    let large = with_port(&redis, store);
    let full = costs(&redis, &large.0, many, options.runs);
    let [few_time, full_time, few_cpu, full_cpu] = [few.time, full.time, few.cpu, full.cpu].map(Samples::new);
    report::figure("few: time | CPU of the worker", format_args!("{} | {}", few_time.show(1), few_cpu.show(1)));
    report::figure("many: time | CPU of the worker", format_args!("{} | {}", full_time.show(1), full_cpu.show(1)));
    report::at_most("time, many against few", full_time.median() / few_time.median(), "times", 1.2);
    if store == Store::File {
        report::row("start", format_args!("from exec to ready with {many} evaluations in files, milliseconds"));
        let times = Samples::new((0..options.runs).map(|_| start_ms(&large)).collect());
        report::figure("exec to ready", times.show(0));
        report::at_most("exec to ready", times.median(), "ms", 1000.0);
    }
}

/// Measures starts with an empty backend, and prints what it finds.
pub(crate) fn measure_start(options: &Options) {
    report::row("start", "from exec to ready with an empty backend, milliseconds");
    let redis = RedisServer::start();
    for store in [Store::File, Store::Memory] {
        // The first start of a set-up also makes the private copy of the plugin; every one has its own here.
        let times = Samples::new((0..options.runs).map(|_| start_ms(&with_port(&redis, store))).collect());
        report::figure(format_args!("exec to ready, {}", store.name()), times.show(0));
        if store == Store::File {
            report::at_most("exec to ready, file", times.median(), "ms", 150.0);
        }
    }
}

/// Fills a backend, and measures what events then cost.
fn costs(redis: &RedisServer, setup: &Setup, stored: u64, runs: usize) -> Costs {
    let worker = setup.start();
    let mut driver = Driver::connect(redis, Feed::PubSub);
    let begin = Instant::now();
    driver.saturate(Traffic { kind: Kind::New, first: 0 }, stored);
    let rate = stored as f64 / begin.elapsed().as_secs_f64();
    // What is written in the background is not to be counted against the events that follow.
    std::thread::sleep(SETTLE);
    let mut found = Costs::default();
    for run in 0..runs as u64 {
        let half = EVENTS / 2;
        let kind = Kind::OnTopOf { offset: run, stride: stored / half, fresh: stored + run * half };
        let before = cpu(worker.id());
        let time = driver.saturate(Traffic { kind, first: 0 }, EVENTS);
        found.cpu.push(per_event(cpu(worker.id()) - before));
        found.time.push(per_event(time));
    }
    let resident = mib(worker.resident_bytes());
    report::figure(
        format_args!("with {stored} stored"),
        format_args!("filled at {rate:.0}/s, {resident:.0} MiB resident"),
    );
    let begin = Instant::now();
    let (status, _) = worker.terminate(STOP_LIMIT);
    report::figure("drained and closed", format_args!("{:.1} s, {status}", begin.elapsed().as_secs_f64()));
    found
}

fn per_event(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6 / EVENTS as f64
}

/// A set-up and the port on which its worker says that it is ready.
fn with_port(redis: &RedisServer, store: Store) -> (Setup, u16) {
    let port = free_port();
    (setup(redis, store).set("http.listen", format!("127.0.0.1:{port}")), port)
}

/// Starts a worker, asks every millisecond whether it is ready, and stops it.
fn start_ms((setup, port): &(Setup, u16)) -> f64 {
    let http = Http::new(&format!("127.0.0.1:{port}"));
    let mut command = setup.command(&["run"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut process = Process::start(&mut command);
    while !http.try_get("/readyz").is_ok_and(|answer| answer.status == 200) {
        assert!(process.is_running() && start.elapsed() < STOP_LIMIT, "the worker did not start");
        std::thread::sleep(Duration::from_millis(1));
    }
    let time = start.elapsed();
    process.signal(Signal::TERM);
    assert!(process.wait(STOP_LIMIT).is_some(), "the worker did not end");
    time.as_secs_f64() * 1e3
}
