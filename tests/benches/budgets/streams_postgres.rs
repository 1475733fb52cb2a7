//! From a stream to PostgreSQL through the worker, against members of a group that write the same rows and no more.

use std::error::Error;
use std::thread;
use std::time::SystemTime;

use redis::Client;
use storage_worker_tests::redis_server::RedisServer;

use crate::bare_postgres::{Told, Writer};
use crate::bare_stream_loop::Entry;
use crate::options::{Only, Options};
use crate::postgres::{BATCH, Bench, WRITERS};
use crate::report;
use crate::side::Side;
use crate::throughput::{Runs, kinds, run, show};
use crate::traffic::{CHANNELS, Feed, STREAM, whole_lives};

const GROUP: &str = "bare";

/// Measures new evaluations and lifecycles, and prints what it finds.
pub(crate) fn measure(options: &Options) {
    let (redis, bench) = (RedisServer::start(), Bench::start());
    for (kind, load) in kinds(options) {
        report::row("streams-postgres", format_args!("streams -> postgres, {load}"));
        let events = whole_lives(options.events / 2);
        let (mut worker, mut bare) = (Runs::default(), Runs::default());
        for _ in 0..options.runs {
            if options.includes(Only::Bare) {
                let side = Side::bare_loop_into_postgres(&redis, &bench.empty_database());
                run(&redis, Feed::Stream, side, kind, events, &mut bare);
            }
            if options.includes(Only::Plugin) {
                let side = Side::on_stream(&redis, bench.setup(&redis));
                run(&redis, Feed::Stream, side, kind, events, &mut worker);
            }
        }
        show(["worker", "bare loop"], [worker, bare], 0.8, 1.0);
    }
}

/// The bare loop, as many members of the group as the worker has lanes. Runs until it is killed.
pub(crate) fn run_bare_loop(redis: &str, database: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::open(redis)?;
    let mut connection = client.get_connection()?;
    redis::cmd("XGROUP").arg(&["CREATE", STREAM, GROUP, "0", "MKSTREAM"]).exec(&mut connection)?;
    thread::scope(|scope| {
        let member = |number: usize| {
            let client = &client;
            scope.spawn(move || serve(client, database, &number.to_string()).map_err(|error| error.to_string()))
        };
        let members: Vec<_> = (0..WRITERS).map(member).collect();
        members.into_iter().try_for_each(|member| member.join().map_err(|_| "a member panicked")?.map_err(Into::into))
    })
}

fn serve(client: &Client, database: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let mut connection = client.get_connection()?;
    let writer = Writer::connect(database);
    let mut read = redis::cmd("XREADGROUP");
    read.arg(&["GROUP", GROUP, name, "COUNT"]).arg(BATCH);
    read.arg(&["BLOCK", "200", "STREAMS", STREAM, ">"]);
    loop {
        let answer: Option<Vec<(String, Vec<Entry>)>> = read.query(&mut connection)?;
        let Some((_, entries)) = answer.and_then(|mut streams| streams.pop()) else { continue };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as i64;
        let told = |(id, [(_, channel), (_, payload)]): &Entry| Told::read(channel, payload, id, now);
        let events = entries.iter().map(told).collect::<Result<Vec<_>, _>>()?;
        writer.write(&events);
        let mut pipeline = redis::pipe();
        for (event, (_, [(_, channel), _])) in events.iter().zip(&entries) {
            crate::bare_loop::confirm(&mut pipeline, channel == CHANNELS[0].as_bytes(), event.id());
        }
        let ids: Vec<&String> = entries.iter().map(|(id, _)| id).collect();
        pipeline.cmd("XACK").arg(STREAM).arg(GROUP).arg(&ids).ignore();
        pipeline.query::<()>(&mut connection)?;
    }
}
