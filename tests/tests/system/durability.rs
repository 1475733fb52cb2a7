//! What a confirmation calls durable was on the disk before: the system calls tell.
//!
//! `strace` writes down every write, sync and send of the worker. An event is written when its id occurs in what goes to
//! a file, durable when a sync of that file that began later has ended, and confirmed when its id is sent to Redis.
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::outside::c_example_setup;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually_some;
use storage_worker_tests::worker::Setup;

const EVENTS: usize = 300;

#[test]
fn what_is_confirmed_as_durable_was_synced_before() {
    let redis = RedisServer::start();
    confirmed_is_synced(&redis, Setup::new(&redis.url(), "file"));
}

#[test]
fn what_a_plugin_in_c_is_confirmed_for_as_durable_was_synced_before() {
    let redis = RedisServer::start();
    let setup = c_example_setup(&redis.url());

    confirmed_is_synced(&redis, setup);
}

/// Traces a worker that is sent some events.
fn confirmed_is_synced(redis: &RedisServer, setup: Setup) {
    let trace = setup.path("trace");
    let trace_text = trace.to_str().expect("temporary paths are Unicode").to_owned();
    let calls = "trace=write,pwrite64,writev,pwritev,sendto,sendmsg,fsync,fdatasync,sync_file_range,msync,rename,renameat,renameat2";
    // -D makes the worker the process that is started, so that signals reach it; -yy names the file or socket of every descriptor, -s shows all of what is written.
    // Its syncs would pass for those of the backend.
    let setup = setup.set("journal.mode", "off");
    let setup = setup.traced_by(&["strace", "-D", "-f", "-yy", "-s", "1048576", "-e", calls, "-o", &trace_text]);
    let worker = setup.start();
    let confirmations = Confirmations::listen(redis);
    let mut publisher = Publisher::new(redis);
    let ids: Vec<String> = (0..EVENTS).map(|number| format!("durable-event-{number:04}")).collect();
    let events: Vec<Sent> = ids
        .iter()
        .enumerate()
        .map(|(number, id)| {
            let payload =
                json!({"eval_id": format!("e-{}", number % 100), "event_id": id, "output": "x".repeat(number)});
            Sent::new("evaluation:completed", &payload)
        })
        .collect();

    // One after another, then in ever larger bursts.
    let (mut sent, mut burst) = (0, 1);
    while sent < EVENTS {
        let next = &events[sent..EVENTS.min(sent + burst)];
        publisher.publish(next);
        sent += next.len();
        confirmations.wait_for(sent, Duration::from_secs(30));
        burst += sent / 20;
    }

    assert!(confirmations.received().iter().all(|found| found.text("durability") == "durable"));
    worker.terminate(Duration::from_secs(60));
    let ended = || std::fs::read_to_string(&trace).ok().filter(|trace| trace.ends_with("+++\n"));
    let trace = eventually_some(Duration::from_secs(10), "the end of the trace", ended);
    let confirmed = check(&trace, &ids);
    assert_eq!(confirmed.len(), EVENTS);
}

/// Goes through the calls in order. Gives the events that were confirmed.
///
/// # Panics
/// When one was confirmed before it was durable.
fn check(trace: &str, ids: &[String]) -> BTreeSet<String> {
    // Of each file what was written to it, and not synced yet.
    let mut dirty: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
    // Of each thread the file that it is syncing, and what that sync covers.
    let mut syncing: BTreeMap<&str, (String, BTreeSet<&String>)> = BTreeMap::new();
    let mut durable: BTreeSet<&String> = BTreeSet::new();
    let mut confirmed = BTreeSet::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(name) = call.strip_prefix("<... ") {
            if name.starts_with("fsync") || name.starts_with("fdatasync") {
                let (file, covered) = syncing.remove(thread).expect("a sync that ends has begun");
                finish_sync(call, &file, &covered, &mut dirty, &mut durable);
            }
            continue;
        }
        let Some((name, arguments)) = call.split_once('(') else { continue };
        let target = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
        let is_socket = target.starts_with("TCP");
        match name {
            "fsync" | "fdatasync" => {
                let covered = dirty.get(target).cloned().unwrap_or_default();
                if call.ends_with("<unfinished ...>") {
                    syncing.insert(thread, (target.to_owned(), covered));
                } else {
                    finish_sync(call, target, &covered, &mut dirty, &mut durable);
                }
            }
            _ if is_socket && call.contains("PUBLISH") => {
                for id in ids.iter().filter(|id| call.contains(id.as_str())) {
                    assert!(durable.contains(id), "{id} was confirmed before it was durable");
                    confirmed.insert(id.clone());
                }
            }
            _ if is_socket || !target.starts_with('/') => {}
            _ => dirty.entry(target.to_owned()).or_default().extend(ids.iter().filter(|id| call.contains(id.as_str()))),
        }
    }
    confirmed
}

fn finish_sync<'a>(
    call: &str,
    file: &str,
    covered: &BTreeSet<&'a String>,
    dirty: &mut BTreeMap<String, BTreeSet<&'a String>>,
    durable: &mut BTreeSet<&'a String>,
) {
    assert!(call.trim_end().ends_with("= 0"), "a sync failed: {call}");
    durable.extend(covered);
    if let Some(dirty) = dirty.get_mut(file) {
        dirty.retain(|id| !covered.contains(id));
    }
}

/// The check itself must find what it is there for.
#[test]
fn an_early_confirmation_would_be_found() {
    let ids = ["id-1".to_owned()];
    let write = "7 write(5</data/log>, \"id-1\", 4) = 4\n";
    let sync_begins = "8 fdatasync(5</data/log> <unfinished ...>\n";
    let sync_ends = "8 <... fdatasync resumed>) = 0\n";
    let send = "9 sendto(6<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"PUBLISH id-1\", 12, 0, NULL, 0) = 12\n";
    let early = |calls: &[&str]| std::panic::catch_unwind(|| check(&calls.concat(), &ids)).is_err();

    assert!(!early(&[write, sync_begins, sync_ends, send]));
    assert!(early(&[write, send, sync_begins, sync_ends]));
    assert!(early(&[write, sync_begins, send, sync_ends]));
    assert!(early(&[sync_begins, write, sync_ends, send]));
}
