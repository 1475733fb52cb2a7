//! The plugin `postgres` through the plugin boundary, against a bare loop that writes the same rows into the same tables.
//!
//! Both have the same number of writers and the same batches. Beside them stands how fast `COPY` takes the final rows,
//! which nothing that answers for single events can reach.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use storage_plugin_api::{Backend, Call, Durability, EventStamp, State, Status, names, with_items};
use storage_worker::event::decode::{Arrival, Limits, decode};
use storage_worker::event::row::EventRows;
use storage_worker::plugin::Loader;
use storage_worker::plugin::library::Library;
use storage_worker_tests::postgres_server::{Database, PostgresServer};
use storage_worker_tests::process::plugin_path;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use crate::bare_postgres::{Told, Writer};
use crate::options::{Only, Options};
use crate::plugin_call::NoMetrics;
use crate::report::{self, Samples};
use crate::side::{cpu, cpu_if_running};
use crate::traffic::{CODE, Kind, OUTPUT, Traffic, whole_lives};

/// Events of a batch.
pub(crate) const BATCH: usize = 512;
/// Writers at once, as many as a worker has lanes.
pub(crate) const WRITERS: usize = 4;
/// How long a call may take, and anything else here.
const PATIENCE: Duration = Duration::from_secs(300);

/// Ids and states, in the order in which one writer takes them.
pub(crate) type Events = Vec<(String, State)>;

/// Measures, and prints what it finds.
pub(crate) fn measure(options: &Options) {
    let bench = Bench::start();
    for (name, kind) in [("a new evaluation per event", Only::New), ("lifecycles", Only::Lifecycles)] {
        if options.includes(kind) {
            report::row("postgres", format_args!("{name}, {WRITERS} writers, batches of {BATCH}; events per second"));
            measure_kind(options, &bench, kind);
        }
    }
}

fn measure_kind(options: &Options, bench: &Bench, kind: Only) {
    let writers = match kind {
        Only::New => new_evaluations(options.events / 2),
        _ => lifecycles(whole_lives(options.events / 2)),
    };
    let sides = [Only::Plugin, Only::Bare].map(|side| options.includes(side).then_some(side));
    let mut runs: [Vec<Cost>; 2] = Default::default();
    let (mut copy, mut rows) = (Vec::new(), None);
    for run in 0..options.runs {
        let mut sides = sides;
        sides.rotate_left(run % 2);
        for side in sides.into_iter().flatten() {
            let tables = bench.tables();
            match side {
                Only::Bare => runs[1].push(tables.through_bare_loop(&writers)),
                _ => runs[0].push(tables.through_plugin(&writers)),
            }
            let written = tables.written();
            assert_eq!(*rows.get_or_insert_with(|| written.clone()), written, "both write the same rows");
            if side == Only::Plugin {
                copy.push(tables.copied());
            }
        }
    }
    for (name, runs) in ["plugin", "bare loop"].into_iter().zip(&runs).filter(|(_, runs)| !runs.is_empty()) {
        let figure = |of: fn(&Cost) -> f64| Samples::new(runs.iter().map(of).collect()).show(0);
        report::figure(name, figure(|run| run.rate));
        report::figure("  CPU of an event at the client, microseconds", figure(|run| run.client_us));
        report::figure("  CPU of an event at the server, microseconds", figure(|run| run.server_us));
        report::figure("  written ahead for an event, bytes", figure(|run| run.log_bytes));
    }
    if !copy.is_empty() {
        report::figure("COPY of the final rows, rows per second", Samples::new(copy).show(0));
    }
    let [plugin, bare] = runs;
    if plugin.len() == bare.len() {
        let ratios = plugin.iter().zip(&bare).map(|(plugin, bare)| plugin.rate / bare.rate).collect();
        report::at_least("ratio of the rates", Samples::new(ratios).median(), 0.8, 1.0);
    }
}

/// Measures what many stored evaluations cost.
pub(crate) fn measure_growth(options: &Options) {
    let bench = Bench::start();
    let few = options.many.min(10_000);
    report::row(
        "growth-postgres",
        format_args!("events per second on top of {few} and of {} evaluations", options.many),
    );
    let writers = new_evaluations(options.events / 2);
    let (mut small, mut large, mut ratio) = (vec![], vec![], vec![]);
    for _ in 0..options.runs.min(3) {
        let [few, many] = [few, options.many].map(|stored| {
            let tables = bench.tables();
            tables.fill(stored);
            tables.through_plugin(&writers).rate
        });
        small.push(few);
        large.push(many);
        ratio.push(many / few);
    }
    report::figure("on top of few", Samples::new(small).show(0));
    report::figure("on top of many", Samples::new(large).show(0));
    report::at_least("ratio", Samples::new(ratio).median(), 0.8, 1.0);
}

/// Evaluations that are told at once, code of 500 B and output of 2 KB.
fn new_evaluations(events: u64) -> Vec<Events> {
    let event = |number: u64| {
        let stamp = EventStamp::new(1_735_689_600_000_000 + number as i64, format!("{number:032x}"));
        let mut state = State::new();
        state.set_created(&stamp);
        state.set_end(&stamp, Status::Completed);
        state.set_text(&stamp, names::CODE, CODE.as_str());
        state.set_string(&stamp, names::LANGUAGE, "python");
        state.set_string(&stamp, names::ENGINE, "docker");
        state.set_text(&stamp, "completed/output", OUTPUT.as_str());
        state.set_number(&stamp, "completed/exit_code", 0);
        state.set_metadata(&stamp, "job_name", format!("\"eval-{number:08x}-0a1b2c3d\""));
        state.set_history(&stamp, "status_changed", Status::Completed, "Status changed to completed");
        (format!("20250101_120000_{number:08x}"), state)
    };
    let of_writer = |writer: u64| (writer..events).step_by(WRITERS).map(event).collect();
    (0..WRITERS as u64).map(of_writer).collect()
}

/// Evaluations that are queued, run and complete, interleaved; all events of one go to one writer.
fn lifecycles(events: u64) -> Vec<Events> {
    let rows = EventRows::default();
    let traffic = Traffic { kind: Kind::Lifecycles, first: 0 };
    let mut writers: Vec<Events> = vec![Vec::new(); WRITERS];
    let mut payload = String::new();
    for number in 0..events {
        let channel = traffic.write_payload(number, &mut payload);
        let row = rows.get(channel).expect("the rows of the traffic are built in");
        let arrival = Arrival { received_at: 0, entry_time: None, event_id: None };
        let event = decode(channel, row, payload.as_bytes(), arrival, &Limits::default());
        let event = event.expect("the events of the traffic are valid");
        let id = event.evaluation_id.to_string();
        let place = id.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        writers[place % WRITERS].push((id, event.state));
    }
    writers
}

/// A server that syncs, and the plugin.
pub(crate) struct Bench {
    server: PostgresServer,
    library: Arc<Library>,
    _cache: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn start() -> Self {
        let cache = tempfile::tempdir().expect("make a temporary directory");
        let loader = Loader::new(&[], Some(cache.path()), Arc::new(NoMetrics));
        let path = plugin_path("postgres");
        let library = loader.load(path.to_str().expect("the path is Unicode"), None).expect("load the plugin");
        let server = PostgresServer::start_with(&["shared_buffers=512MB", "max_wal_size=8GB"]);
        Self { server, library, _cache: cache }
    }

    /// The configuration of a worker with empty tables.
    pub(crate) fn setup(&self, redis: &RedisServer) -> Setup {
        drop(self.tables());
        Setup::new(&redis.url(), "postgres").set("backends.main.options.url", self.server.url())
    }

    /// Where empty tables are.
    pub(crate) fn empty_database(&self) -> String {
        drop(self.tables());
        self.server.url()
    }

    /// Empty tables with all their indexes.
    fn tables(&self) -> Tables<'_> {
        let database = self.server.connect();
        database.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CHECKPOINT");
        let options = json!({"url": self.server.url(), "connections": WRITERS + 2});
        let backend = self
            .library
            .open("main", &options, Vec::new(), Durability::Durable, PATIENCE, false)
            .expect("open the plugin");
        eventually(PATIENCE, "the indexes to be built", || {
            database.number("SELECT count(*) FROM pg_index WHERE indrelid = 'evaluations'::regclass AND indisvalid")
                >= 7
        });
        Tables { server: &self.server, backend, database }
    }
}

struct Tables<'a> {
    server: &'a PostgresServer,
    backend: Arc<dyn Backend>,
    database: Database,
}

impl Tables<'_> {
    fn through_plugin(&self, writers: &[Events]) -> Cost {
        self.cost(writers, |_| {
            |batch: &[(String, State)]| {
                let states: Vec<(&str, &State)> = batch.iter().map(|(id, state)| (&**id, state)).collect();
                let call = Call::with_budget(PATIENCE);
                let answers =
                    with_items(&states, |items| self.backend.merge(&call, items)).expect("the batch is taken");
                assert_eq!(answers.len(), batch.len());
            }
        })
    }

    fn through_bare_loop(&self, writers: &[Events]) -> Cost {
        self.cost(writers, |events| {
            // Read beforehand: what is measured is to make columns of them, and the database.
            let batches: Vec<Vec<Told>> =
                events.chunks(BATCH).map(|batch| batch.iter().map(Told::of).collect()).collect();
            let writer = Writer::connect(&self.server.url());
            let mut batches = batches.into_iter();
            move |_: &[(String, State)]| writer.write(&batches.next().expect("there is a batch for every call"))
        })
    }

    /// What all events cost. Each writer makes what it writes with before the time begins.
    fn cost<W: FnMut(&[(String, State)])>(&self, writers: &[Events], make: impl Fn(&Events) -> W + Sync) -> Cost {
        let barrier = std::sync::Barrier::new(writers.len() + 1);
        thread::scope(|scope| {
            for events in writers {
                let (barrier, make) = (&barrier, &make);
                scope.spawn(move || {
                    let mut write = make(events);
                    barrier.wait();
                    barrier.wait();
                    events.chunks(BATCH).for_each(&mut write);
                    barrier.wait();
                    // Their connections stay until what they used is known.
                    barrier.wait();
                });
            }
            barrier.wait();
            let before = Used::so_far(&self.database);
            let start = Instant::now();
            barrier.wait();
            barrier.wait();
            let elapsed = start.elapsed();
            let after = Used::so_far(&self.database);
            barrier.wait();
            after.cost_of(writers.iter().map(Vec::len).sum(), elapsed, &before)
        })
    }

    /// What readers see in the rows and in the history, in short; of the metadata only what is not nested, in which the
    /// bare loop keeps less.
    fn written(&self) -> String {
        let rows = self.database.rows(
            "SELECT format('%s %s', count(*), sum(hashtextextended(row(id, code_hash, status, created_at, queued_at, \
             started_at, completed_at, engine, runtime_ms, memory_used_mb, exit_code, language, output, output_size, \
             output_truncated, error, error_size, error_truncated, metadata::jsonb - 'metadata')::text, 0))) \
             FROM evaluations UNION ALL SELECT format('%s %s', count(*), sum(hashtextextended(row(evaluation_id, event_id, \
             timestamp, event_type, message, metadata)::text, 0))) FROM evaluation_events",
        );
        rows.iter().map(|row| row.get(0)).collect::<Vec<&str>>().join(", ")
    }

    /// Rows per second that `COPY` takes, of those that are there.
    fn copied(&self) -> f64 {
        let count = self.database.number("SELECT count(*) FROM evaluations") as f64;
        self.database.run("CREATE TABLE final AS TABLE evaluations");
        self.database.run("COPY final TO '/tmp/storage-worker-bench.copy' WITH (FORMAT binary)");
        self.database.run("TRUNCATE evaluations CASCADE; CHECKPOINT");
        let start = Instant::now();
        self.database.run("COPY evaluations FROM '/tmp/storage-worker-bench.copy' WITH (FORMAT binary)");
        let seconds = start.elapsed().as_secs_f64();
        self.database
            .run("COPY (SELECT 1 WHERE false) TO PROGRAM 'rm /tmp/storage-worker-bench.copy'; DROP TABLE final");
        count / seconds
    }

    /// Copies of one evaluation.
    fn fill(&self, count: u64) {
        let event = &new_evaluations(1)[0];
        self.through_plugin(std::slice::from_ref(event));
        self.database.run(&format!(
            "INSERT INTO evaluations (id, code_hash, status, created_at, completed_at, language, output, output_size, metadata, state) \
             SELECT 'stored_' || md5(n::text), code_hash, status, timestamptz '2024-01-01' + n * interval '1 second', \
             timestamptz '2024-01-01' + n * interval '2 seconds', language, output, output_size, metadata, state \
             FROM evaluations, generate_series(2, {count}) AS n; \
             INSERT INTO evaluation_events (evaluation_id, event_id, timestamp, event_type, message) \
             SELECT id, 'e', created_at, 'submitted', 'm' FROM evaluations; \
             TRUNCATE evaluation_bodies"
        ));
        self.database.run("DELETE FROM evaluations WHERE id NOT LIKE 'stored%'");
        self.database.run("VACUUM ANALYZE evaluations");
        self.database.run("VACUUM ANALYZE evaluation_events");
        self.database.run("CHECKPOINT");
    }
}

impl Drop for Tables<'_> {
    fn drop(&mut self) {
        let _ = self.backend.close(&Call::with_budget(PATIENCE));
    }
}

/// What events cost.
struct Cost {
    /// Events per second of all writers together.
    rate: f64,
    client_us: f64,
    server_us: f64,
    log_bytes: f64,
}

/// What has been used so far.
struct Used {
    client: Duration,
    server: HashMap<u32, Duration>,
    log_bytes: i64,
}

impl Used {
    fn so_far(database: &Database) -> Self {
        let processes = database.rows("SELECT pid FROM pg_stat_activity");
        let processes = processes.iter().map(|row| row.get::<_, i32>(0).cast_unsigned());
        Self {
            client: cpu(std::process::id()),
            server: processes.filter_map(|id| Some((id, cpu_if_running(id)?))).collect(),
            log_bytes: database.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"),
        }
    }

    /// The cost of so many events, which took so long.
    fn cost_of(&self, events: usize, elapsed: Duration, before: &Self) -> Cost {
        let events = events as f64;
        let server = |(id, now): (&u32, &Duration)| *now - before.server.get(id).copied().unwrap_or_default();
        Cost {
            rate: events / elapsed.as_secs_f64(),
            client_us: (self.client - before.client).as_secs_f64() * 1e6 / events,
            server_us: self.server.iter().map(server).sum::<Duration>().as_secs_f64() * 1e6 / events,
            log_bytes: (self.log_bytes - before.log_bytes) as f64 / events,
        }
    }
}
