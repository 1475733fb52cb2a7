//! `make bench`: measures the worker against the budgets of the project and prints how it stands.
//!
//! Nothing here fails because something is slow: figures of a busy machine would only teach people to look away. What
//! is compared runs in turn on the same machine in the same minutes. `options.rs` lists the rows, `drive.rs` makes the
//! load, `bare_loop.rs` is the other side.

#![allow(clippy::print_stdout, reason = "a program that prints what it measured")]
#![allow(clippy::cast_precision_loss, reason = "measurements are far below 2^52")]

mod bare_loop;
mod bare_postgres;
mod bare_stream_loop;
mod drive;
mod footprint;
mod growth;
mod journal;
mod latency;
mod options;
mod plugin_call;
mod postgres;
mod report;
mod side;
mod streams_postgres;
mod throughput;
mod traffic;

use std::path::Path;
use std::process::ExitCode;

use options::{Options, ROWS};
use side::Store;
use traffic::Feed;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    // How a measurement starts the other side.
    if arguments.next_if(|argument| argument == "bare-loop").is_some() {
        let url = arguments.next().unwrap_or_default();
        return ended(bare_loop::run(&url, arguments.next().as_deref().map(Path::new)));
    }
    if arguments.next_if(|argument| argument == "bare-stream-loop").is_some() {
        let url = arguments.next().unwrap_or_default();
        return ended(bare_stream_loop::run(&url, arguments.next().as_deref().map(Path::new)));
    }
    if arguments.next_if(|argument| argument == "bare-postgres-loop").is_some() {
        let [redis, database] = [arguments.next(), arguments.next()].map(Option::unwrap_or_default);
        return ended(streams_postgres::run_bare_loop(&redis, &database));
    }
    match Options::parse(arguments) {
        Ok(Some(options)) => measure(&options),
        Ok(None) => help(),
        Err(unknown) => {
            eprintln!("`{unknown}` is neither a row nor an option; try `--help`");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn ended(outcome: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare loop: {error}");
            ExitCode::FAILURE
        }
    }
}

fn help() {
    println!("make bench BENCH=\"[--quick | --full] [--only=plugin|bare|new|lifecycles] [row]...\"\n");
    for (name, what) in ROWS {
        println!("  {name:<14} {what}");
    }
}

fn measure(options: &Options) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores, load {}, {} alternated runs; median (least..most)", busy(), options.runs);
    // The file system counts for a lot: ext4 without a journal, say, creates files slowly where others were removed.
    println!("files are in {}, which TMPDIR changes", std::env::temp_dir().display());
    let through = |feed, store, least, aim| {
        throughput::measure(options, throughput::Path { feed, store, least, aim });
    };
    let rows: [(&str, &dyn Fn()); ROWS.len()] = [
        ("memory", &|| through(Feed::PubSub, Store::Memory, 0.6, 0.8)),
        ("streams", &|| through(Feed::Stream, Store::Memory, 0.6, 0.8)),
        ("file", &|| through(Feed::PubSub, Store::File, 1.0, 1.5)),
        ("streams-file", &|| through(Feed::Stream, Store::File, 1.0, 1.5)),
        ("journal", &|| journal::measure(options)),
        ("plugin-call", &|| plugin_call::measure(options)),
        ("latency", &|| latency::measure(options)),
        ("idle", &|| footprint::measure_idle(options)),
        ("load", &|| footprint::measure_load(options)),
        ("growth-memory", &|| growth::measure(options, Store::Memory)),
        ("growth-file", &|| growth::measure(options, Store::File)),
        ("postgres", &|| postgres::measure(options)),
        ("streams-postgres", &|| streams_postgres::measure(options)),
        ("growth-postgres", &|| postgres::measure_growth(options)),
        ("start", &|| growth::measure_start(options)),
    ];
    for (name, measure) in rows {
        if options.wants(name) {
            measure();
        }
    }
}

/// What else the machine does, as the system puts it.
fn busy() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
