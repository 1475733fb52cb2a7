//! `docs/swapping-backends.md` is followed under load, from files to PostgreSQL and back, while the worker is killed: every
//! event is in the final store, which is what the second model says.
//!
//! `SWAP_RUNS=20` and `SWAP_RATE=2000` make it the long variant, `SWAP_SEED` chooses the first seed. `attended.rs` has the worker that is killed
//! and started again, `procedure.rs` the steps.

mod attended;
mod procedure;

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::{Duration, Instant};

use storage_worker_tests::confirmations::{Confirmation, Confirmations};
use storage_worker_tests::generate::Generator;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::redis_server::{RedisServer, free_port};
use storage_worker_tests::second_model::{Sent, read};
use storage_worker_tests::stream_load::StreamLoad;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use self::attended::{Attended, Kill};
use crate::streams::{self, GROUP, STREAM, assert_all_stored};

/// How long the worker may take for what waits when the load has ended.
const CATCH_UP: Duration = Duration::from_secs(120);
/// After one run that nothing disturbs there are so many with a kill, at moments within the time that the one took.
const KILLED: u64 = 5;

fn variable<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Files are the root; PostgreSQL is there and not in use.
fn files_and_postgres(redis: &RedisServer, url: &str) -> Setup {
    let setup = streams::setup(redis, "file", "a");
    let data = setup.path("disk").display().to_string();
    setup
        // The commands find the worker there, whenever it is started again.
        .set("admin.listen", format!("127.0.0.1:{}", free_port()))
        .set("storage.guarantee", "durable")
        .set("storage.backend", "disk")
        .set("backends.disk.plugin", "file")
        .set("backends.disk.options.path", data)
        .set("backends.pg.plugin", "postgres")
        .set("backends.pg.options.url", url)
}

/// What is known of a run.
struct Ran {
    events: usize,
    took: Duration,
    /// The longest time without a confirmation.
    pause: Duration,
    /// What was being done when the worker was killed.
    killed_in: Option<String>,
}

/// Swaps there and back under load.
fn run(server: &PostgresServer, seed: u64, rate: u32, kill: Option<Kill>) -> Ran {
    let database = format!("swap_{seed}");
    server.connect().run(&format!("CREATE DATABASE {database}"));
    let redis = RedisServer::start();
    let mut worker = Attended::start(files_and_postgres(&redis, &server.url_of(&database)));
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);
    // What is there before. The load tells more of the same evaluations.
    let mut generator = Generator::new(!seed);
    let mut events: Vec<Sent> = (0..rate).flat_map(|_| generator.any_set()).collect();
    stream.add(&events);
    stream.wait_until_settled(GROUP, CATCH_UP);
    let load = StreamLoad::start(&redis, STREAM, seed, rate);
    eventually(CATCH_UP, "some load", || load.count() > rate as usize / 2);

    let (began, before) = (Instant::now(), confirmations.count());
    worker.begin(kill);
    procedure::there_and_back(&mut worker);
    let took = began.elapsed();
    worker.end();

    let pause = longest_pause(&confirmations.received()[before..]);
    events.extend(load.stop());
    stream.wait_until_settled(GROUP, CATCH_UP);
    assert_all_stored(worker.worker(), &events);
    assert_all_confirmed(&confirmations, &events);
    assert!(worker.setup.dead_letters().is_empty(), "{:?}", worker.setup.dead_letters());
    Ran { events: events.len(), took, pause, killed_in: worker.killed_in }
}

fn longest_pause(confirmations: &[Confirmation]) -> Duration {
    let pauses = confirmations.windows(2).map(|pair| pair[1].received_at.duration_since(pair[0].received_at));
    pauses.max().expect("there were confirmations")
}

#[track_caller]
fn assert_all_confirmed(confirmations: &Confirmations, events: &[Sent]) {
    let about = |event: &Sent| {
        let told = read(&event.channel, &event.payload, 0).expect("generated events are valid");
        (told.evaluation_id, told.event_id)
    };
    let events: BTreeSet<_> = events.iter().map(about).collect();
    eventually(CATCH_UP, "every event to be confirmed", || events.is_subset(&confirmations.events()));
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
#[test]
fn a_primary_is_swapped_under_load_and_back_and_every_event_is_in_the_final_store() {
    let (kills, rate, first) = (variable("SWAP_RUNS", 1), variable("SWAP_RATE", 300), variable("SWAP_SEED", 1));
    let server = PostgresServer::start_with(&["fsync=on"]);
    let mut as_long_as = Duration::ZERO;

    for seed in first..first + kills + u64::div_ceil(kills, KILLED) {
        let mut random = fastrand::Rng::with_seed(seed);
        let is_killed = (seed - first) % (KILLED + 1) > 0;
        let kill = is_killed
            .then(|| Kill { after: as_long_as.mul_f64(random.f64()), away: Duration::from_millis(random.u64(0..500)) });
        println!("seed {seed}, {rate} events/s, kill {kill:?}");
        let Ran { events, took, pause, killed_in } = run(&server, seed, rate, kill);
        println!("seed {seed}: {events} events, {took:?}, longest pause {pause:?}, killed in {killed_in:?}");
        if !is_killed {
            as_long_as = took;
        }
    }
}
