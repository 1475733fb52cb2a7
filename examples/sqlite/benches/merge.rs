//! How fast new evaluations are merged, against a bare loop that puts the same texts into a table of its own.
//!
//! `cargo bench` prints evaluations per second and their ratio: the median of alternated rounds, since the speed of a
//! disk changes from minute to minute. `cargo bench -- 400 5` merges 400 batches in each of 5 rounds.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};
use storage_backend_sqlite::{Options, Sqlite, Synchronous};
use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{Backend, Call, EventStamp, OpenBackend, Opening, Outcome, State, Status, names, with_items};

const BATCH: usize = 256;
const CODE: usize = 500;
const OUTPUT: usize = 2000;

type Evaluation = (String, State);

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let (batches, rounds) = (numbers.first().copied().unwrap_or(100), numbers.get(1).copied().unwrap_or(5));
    let evaluations: Vec<Evaluation> = (0..batches * BATCH).map(evaluation).collect();
    let (mut plugin, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        plugin.push(rate(&evaluations, through_the_plugin));
        bare.push(rate(&evaluations, bare_loop));
    }
    let mut ratios: Vec<f64> = plugin.iter().zip(&bare).map(|(plugin, bare)| plugin / bare).collect();
    let count = evaluations.len();
    println!("{count} new evaluations, {OUTPUT} bytes of output, in batches of {BATCH}, median of {rounds} rounds");
    println!("plugin    {:>8.0}/s", median(&mut plugin));
    println!("bare loop {:>8.0}/s", median(&mut bare));
    println!("ratio     {:>8.2}", median(&mut ratios));
}

fn evaluation(number: usize) -> Evaluation {
    let time = 1_700_000_000_000_000 + number as i64 * 1000;
    let id = format!("{:016x}", (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut state = State::new();
    for (stamp, status) in [
        (EventStamp::new(time, format!("queued-{number}")), Status::Queued),
        (EventStamp::new(time + 500, format!("completed-{number}")), Status::Completed),
    ] {
        state.set_created(&stamp);
        if status.is_terminal() {
            state.set_end(&stamp, status);
            state.set_text(&stamp, &names::outcome(status, "output"), text(number, OUTPUT));
            state.set_number(&stamp, &names::outcome(status, "exit_code"), 0);
        } else {
            state.set_open(&stamp, status);
            state.set_text(&stamp, names::CODE, text(number, CODE));
            state.set_string(&stamp, names::LANGUAGE, "python");
        }
        state.set_history(&stamp, "status_changed", status, "Status changed");
    }
    (id, state)
}

/// Some lines that differ from one evaluation to the next.
fn text(number: usize, length: usize) -> String {
    let mut text: String = (number..).map(|line| format!("line {line} of the output\n")).take(length / 20).collect();
    text.truncate(length);
    text
}

/// Evaluations per second, in a new directory.
fn rate(evaluations: &[Evaluation], store: fn(&Path, &[Evaluation]) -> Duration) -> f64 {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a temporary directory");
    evaluations.len() as f64 / store(directory.path(), evaluations).as_secs_f64()
}

fn through_the_plugin(directory: &Path, evaluations: &[Evaluation]) -> Duration {
    let options = Options { path: directory.join("plugin.db"), synchronous: Synchronous::Full };
    let deadline = Instant::now() + Duration::from_secs(10);
    let (instance, host) = ("bench".to_owned(), Host::detached("bench"));
    let opening = Opening { instance, children: Vec::new(), deadline, read_only: false, host };
    let backend = Sqlite::open(options, opening).expect("opened");
    let call = || Call::with_budget(Duration::from_secs(60));
    let start = Instant::now();
    for batch in evaluations.chunks(BATCH) {
        let states: Vec<(&str, &State)> = batch.iter().map(|(id, state)| (&**id, state)).collect();
        let answers = with_items(&states, |items| backend.merge(&call(), items)).expect("merged");
        assert!(answers.iter().all(|answer| answer.outcome == Outcome::Created));
    }
    let took = start.elapsed();
    backend.close(&call()).expect("closed");
    took
}

/// One transaction for each batch, one statement for each evaluation; its text is ready before.
fn bare_loop(directory: &Path, evaluations: &[Evaluation]) -> Duration {
    let mut connection = Connection::open(directory.join("bare.db")).expect("opened");
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = full;
             CREATE TABLE evaluations (id TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL)",
        )
        .expect("made");
    let texts: Vec<(&str, String)> = evaluations.iter().map(|(id, state)| (&**id, state.to_canonical_json())).collect();
    let sql = "INSERT INTO evaluations VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET state = excluded.state";
    let start = Instant::now();
    for batch in texts.chunks(BATCH) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).expect("begun");
        let mut statement = transaction.prepare_cached(sql).expect("prepared");
        for (id, text) in batch {
            statement.execute(params![id, text]).expect("stored");
        }
        drop(statement);
        transaction.commit().expect("committed");
    }
    start.elapsed()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
