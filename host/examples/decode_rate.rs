//! How long an event takes to decode: `cargo run --release -p storage-worker --example decode_rate`.
//!
//! Events are realistic: code of 500 bytes, output of 2 KB in lines, an id of their own or none. Prints the median of
//! some rounds in ns per event, beside what parsing the same payloads into `serde_json::Value` takes.

#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::hint::black_box;
use std::time::Instant;

use serde_json::{Value, json};
use storage_worker::event::decode::{Arrival, Limits, decode};
use storage_worker::event::row::EventRows;

const EVENTS: usize = 20_000;
const ROUNDS: usize = 9;

fn payload(kind: &str, number: usize, has_id: bool) -> String {
    let metadata = json!({"job_name": format!("job-{number}"), "log_source": "kubernetes"});
    let mut payload = match kind {
        "queued" => json!({"code": "print('hello') # a line\n".repeat(21), "language": "python", "engine": "docker",
            "submitted_at": "2024-01-15T10:30:00.123456+00:00", "metadata": {"timeout": 30, "priority": 0}}),
        "running" => json!({"executor_id": format!("job-{number}"), "container_id": format!("job-{number}"),
            "timeout": 300, "started_at": "2024-01-15T10:30:01.123456+00:00"}),
        _ => json!({"output": "a line of the output of an evaluation\n".repeat(54), "exit_code": 0,
            "completed_at": "2024-01-15T10:30:02.123456+00:00", "metadata": metadata}),
    };
    payload["eval_id"] = json!(format!("20240115_103000_{number:08x}"));
    if has_id {
        payload["event_id"] = json!(format!("{kind}-{number}"));
    }
    payload.to_string()
}

/// The median time of one call in ns.
fn measure(payloads: &[String], mut call: impl FnMut(&[u8])) -> u128 {
    let mut round = || {
        let began = Instant::now();
        for index in 0..EVENTS {
            call(black_box(payloads[index % payloads.len()].as_bytes()));
        }
        began.elapsed().as_nanos() / EVENTS as u128
    };
    let mut rounds: Vec<u128> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2]
}

fn main() {
    let (rows, limits) = (EventRows::default(), Limits::default());
    let arrival = Arrival { received_at: 1_700_000_000_000_000, entry_time: None, event_id: None };
    for (kind, has_id) in
        [("queued", true), ("running", true), ("completed", true), ("queued", false), ("completed", false)]
    {
        let payloads: Vec<String> = (0..512).map(|number| payload(kind, number, has_id)).collect();
        let channel = format!("evaluation:{kind}");
        let row = rows.get(&channel).expect("it is a built-in row");

        let decoded = measure(&payloads, |payload| {
            black_box(decode(&channel, row, payload, arrival, &limits).expect("it is an event"));
        });
        let parsed = measure(&payloads, |payload| {
            black_box(serde_json::from_slice::<Value>(payload).expect("it is JSON"));
        });
        let id = if has_id { "with an id   " } else { "without an id" };
        let (bytes, rate) = (payloads[0].len(), 1_000_000_000 / decoded);
        println!("{kind:9} {id} {bytes:5} bytes: {decoded:5} ns, {rate:7} events/s; as a `Value` {parsed:5} ns");
    }
}
