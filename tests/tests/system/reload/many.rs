//! Many changes under load, half of them refused: nothing is lost, nothing hangs, nothing is left behind.
//!
//! `RELOADS=300` makes it the long variant, in which a plugin hangs for 30 s instead of 8.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::http::Http;
use storage_worker_tests::load::Load;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::{eventually, eventually_some};
use storage_worker_tests::worker::{Setup, Worker};

use super::{logged, queued, reload, reloaded, stored, threads, two_stores, with_hostile};
use crate::SOON;

/// The events a second: few enough that what is stored does not hide what is left behind.
const RATE: u32 = 200;

fn rounds() -> usize {
    std::env::var("RELOADS").ok().and_then(|count| count.parse().ok()).unwrap_or(30)
}

/// What a round asks for.
struct Round {
    /// The root, if it comes to be used.
    root: Option<&'static str>,
    setup: Setup,
}

/// Every even round changes something, every odd one is refused.
fn next(setup: Setup, round: usize) -> Round {
    let wrong = |setup: Setup, root: &str| Round { root: None, setup: setup.set("storage.backend", root) };
    let right =
        |setup: Setup, root: &'static str| Round { root: Some(root), setup: setup.set("storage.backend", root) };
    let hostile = |setup: Setup, call: &str, way: &str| {
        let setup = ["open", "health"].into_iter().fold(setup, |setup, call| with_hostile(setup, call, "behave"));
        wrong(with_hostile(setup, call, way), "hostile")
    };
    match round % 12 {
        0 => right(setup, "second"),
        2 => right(setup, "main"),
        // Handed over to itself.
        4 => right(setup.set("backends.main.options.sync", if round % 24 == 4 { "none" } else { "batch" }), "main"),
        6 => right(setup, "cached"),
        // Another layer over the same children.
        8 => right(setup.set("backends.cached.options.ttl", format!("{}s", 20 + round)), "cached"),
        10 => right(setup, "memory_before_second"),
        1 | 7 => hostile(setup, "open", "hang"),
        3 => wrong(setup, "nonsense"),
        5 => hostile(setup, "open", "configuration"),
        9 => wrong(setup, "silent"),
        _ => hostile(setup, "health", "internal"),
    }
}

fn every_tree(redis: &RedisServer, silent: &TcpListener, hang_seconds: i64) -> Setup {
    let address = silent.local_addr().expect("it is bound");
    let setup = two_stores(redis)
        .set("storage.open_timeout", "2s")
        .set("storage.call_timeout", "5s")
        .set("backends.hot.plugin", "memory")
        .set("backends.hot.options.evict", true)
        .set("backends.hot.options.max_bytes", "1MiB")
        .set("backends.cached.plugin", "cached-composite")
        .set("backends.cached.children.primary", "main")
        .set("backends.cached.children.cache", "hot")
        .set("backends.memory_before_second.plugin", "cached-composite")
        .set("backends.memory_before_second.children.primary", "second")
        .set("backends.memory_before_second.children.cache", "hot")
        .set("backends.silent.plugin", "postgres")
        .set("backends.silent.options.url", format!("postgres://someone@{address}/nothing"));
    with_hostile(setup, "open", "behave").set("backends.hostile.options.hang_seconds", hang_seconds)
}

/// Asks in one of the three ways, and is back when it is done; whether it was.
fn ask(round: usize, setup: &Setup, worker: &Worker) -> bool {
    let before = logged(worker, "storage.reloaded") + logged(worker, "storage.not_reloaded");
    let done = match round % 5 {
        1 => Http::new(worker.admin_address()).post("/reload").status == 200,
        2 => {
            let reloaded = logged(worker, "storage.reloaded");
            worker.signal(Signal::HUP);
            eventually(SOON, "the log to say how it ended", || {
                logged(worker, "storage.reloaded") + logged(worker, "storage.not_reloaded") > before
            });
            logged(worker, "storage.reloaded") > reloaded
        }
        _ => reload(setup, worker, &[]).code == Some(0),
    };
    // A command that finds the file wrong by itself asks nobody.
    done
}

/// What was confirmed, and how a probe was.
struct Confirmed {
    listener: Confirmations,
    events: BTreeSet<(String, String)>,
    generations: BTreeSet<u64>,
}

impl Confirmed {
    fn take(&mut self, wanted: &str) -> Option<Value> {
        let mut found = None;
        for confirmation in self.listener.take() {
            self.events.insert(confirmation.about());
            self.generations.insert(confirmation.body["generation"].as_u64().expect("a number"));
            if confirmation.text("eval_id") == wanted {
                found = Some(confirmation.body);
            }
        }
        found
    }
}

/// Health, metrics, log and confirmations say the same.
#[track_caller]
fn assert_generation(
    worker: &Worker,
    confirmed: &mut Confirmed,
    publisher: &mut Publisher,
    round: usize,
    live: (u64, &str),
) {
    let (generation, root) = live;
    assert_eq!(super::generation(worker), generation);
    let metric = worker.http().metric("storage_worker_generation", &[]);
    assert!((metric - generation as f64).abs() < 0.5, "{metric} in the metrics, {generation} in force");
    eventually(SOON, "the log to say so", || {
        let opened = worker.log().all("storage.opened").pop().expect("storage was opened");
        (&opened["generation"], &opened["backend"]) == (&generation.into(), &root.into())
    });
    let id = format!("probe-{round}");
    publisher.publish(&[queued(&id)]);
    let body = eventually_some(SOON, "the confirmation of a probe", || confirmed.take(&id));
    assert_eq!(body["generation"], generation, "{body}");
    assert!(confirmed.generations.last() <= Some(&generation), "{:?}", confirmed.generations);
    assert!(worker.record(&id).is_some(), "{id} is read from the tree that took it");
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
#[test]
fn many_changes_under_load_lose_nothing_and_leave_nothing_behind() {
    let (rounds, is_long) = (rounds(), rounds() > 30);
    let redis = RedisServer::start();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut setup = every_tree(&redis, &silent, if is_long { 30 } else { 8 });
    let worker = setup.start();
    let listener = Confirmations::listen(&redis);
    let mut confirmed = Confirmed { listener, events: BTreeSet::new(), generations: BTreeSet::new() };
    let mut publisher = Publisher::new(&redis);
    let mut load = Load::start(&redis, 51, RATE);
    let (mut generation, mut root) = (1, "main");
    let (mut left, mut longest) = (Vec::new(), Duration::ZERO);

    for round in 0..rounds {
        let asked = next(setup, round);
        setup = asked.setup;
        setup.write();
        let began = Instant::now();
        let done = ask(round, &setup, &worker);
        longest = longest.max(began.elapsed());
        assert_eq!(done, asked.root.is_some(), "round {round}\n{}", worker.log());
        if let Some(next) = asked.root {
            generation += 1;
            root = next;
        }
        assert_generation(&worker, &mut confirmed, &mut publisher, round, (generation, root));
        left.push((threads(&worker), worker.resident_bytes() >> 20));
    }
    let mut received = load.stop();
    received.extend((0..rounds).map(|round| {
        let event = confirmed.events.iter().find(|(id, _)| *id == format!("probe-{round}"));
        event.expect("every probe was confirmed").clone()
    }));

    eventually(Duration::from_secs(60), "every event to be confirmed", || {
        confirmed.take("");
        received.is_subset(&confirmed.events)
    });
    let shown: Vec<_> = left.iter().step_by(rounds.div_ceil(15)).collect();
    println!("{rounds} reloads, {} events, longest {longest:?}; threads and MiB: {shown:?}", received.len());
    let most = |part: &[(usize, u64)]| part.iter().map(|(threads, _)| *threads).max().expect("there are rounds");
    let (early, late) = left.split_at(rounds / 2);
    assert!(most(late) <= most(early) + 6, "threads: {left:?}");
    let grown = late.last().expect("there are rounds").1.saturating_sub(early.last().expect("there are rounds").1);
    assert!(grown < 48, "the second half took {grown} MiB more: {left:?}");
    eventually(Duration::from_secs(60), "what hung to be gone", || threads(&worker) <= left[0].0 + 1);

    setup = setup.set("storage.backend", "main");
    reload(&setup, &worker, &[]);
    let in_main = stored(&worker, &received);
    setup = setup.set("storage.backend", "second");
    reloaded(&setup, &worker);
    let in_second = stored(&worker, &received);
    let lost: Vec<_> = received.iter().filter(|event| !in_main.contains(event) && !in_second.contains(event)).collect();
    assert!(lost.is_empty(), "{} are lost: {lost:?}", lost.len());
    let (status, log) = worker.terminate(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
}
