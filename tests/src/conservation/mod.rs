//! Conservation: whatever is done to workers and servers, what was published is stored, all of it, as it must be, once,
//! and nothing else; and no confirmation was a lie.
//!
//! A `Run` has a producer that knows every event it has published (`producer.rs`, `mixture.rs`), workers of one group
//! (`crew.rs`), a listener to their confirmations (`confirmed.rs`), and faults that follow from a seed (`faults.rs`,
//! `doing.rs`). In the end everything that is stored is read, over HTTP and past the workers (`store.rs`), and judged by the
//! second model (`verdict.rs`).

pub mod confirmed;
pub mod crew;
pub mod doing;
pub mod faults;
pub mod mixture;
pub mod producer;
pub mod store;
pub mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::postgres_server::PostgresServer;
use crate::redis_server::RedisServer;
use crate::second_model::{Sent, expected};
use crate::small_disk::SmallDisk;
use crate::streams::Stream;
use crate::worker::Setup;

use confirmed::Confirmed;
use crew::Crew;
use producer::Producer;
use store::Store;
use verdict::{Event, Observed, Verdict, message_of};

/// The stream of a run.
pub const STREAM: &str = "evaluation:events";
/// The consumer group of a run.
pub const GROUP: &str = "storage-worker";
/// After so long a worker that says nothing counts as dead.
pub const CLAIM_AFTER: Duration = Duration::from_secs(1);

/// How long everything may take to be stored when nothing more happens.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);

/// Servers, workers, a producer and a listener; and what is known so far.
#[derive(Debug)]
pub struct Run {
    producer: Producer,
    crew: Crew,
    confirmed: Confirmed,
    lost_in_a_crash: BTreeSet<Event>,
    // After the workers that use it.
    disk: Option<SmallDisk>,
    store: Store,
    postgres: Option<PostgresServer>,
    redis: RedisServer,
}

impl Run {
    /// Streams to PostgreSQL, by so many workers. The server syncs, and would hold back what nobody waits for.
    #[must_use]
    pub fn to_postgres(seed: u64, workers: usize) -> Self {
        let redis = RedisServer::start_durable();
        let postgres = PostgresServer::start_with(&["synchronous_commit=off", "wal_writer_delay=10s"]);
        let setup = |number| {
            worker(&redis, "postgres", &Self::name_of(number))
                .set("backends.main.options.url", postgres.url())
                .set("source.streams.trim", true)
        };
        let setups = (0..workers).map(setup).collect();
        let store = Store::Postgres { url: postgres.url() };
        Self::start(seed, redis, setups, store, Some(postgres), None)
    }

    /// Streams to files, by one worker, on a disk of so many MiB; on the disk of temporary files where this user may not
    /// mount one.
    ///
    /// # Panics
    /// When temporary paths are not Unicode.
    #[must_use]
    pub fn to_files(seed: u64, mebibytes: usize) -> Self {
        let redis = RedisServer::start_durable();
        let reader = worker(&redis, "file", "reader").set("source.streams.streams", vec!["nothing"]);
        let disk = SmallDisk::mount(mebibytes);
        let directory = disk.as_ref().map_or_else(|| reader.path("disk"), |disk| disk.path().to_owned()).join("data");
        let path = directory.to_str().expect("temporary paths are Unicode").to_owned();
        let setup = worker(&redis, "file", &Self::name_of(0))
            .set("source.streams.alone_after", 2)
            // Histories that are behind are waited for.
            .set("storage.close_timeout", "60s")
            .set("backends.main.options.path", path.clone());
        let reader = Box::new(reader.set("backends.main.options.path", path));
        Self::start(seed, redis, vec![setup], Store::Files { directory, reader }, None, disk)
    }

    fn start(
        seed: u64,
        redis: RedisServer,
        setups: Vec<Setup>,
        store: Store,
        postgres: Option<PostgresServer>,
        disk: Option<SmallDisk>,
    ) -> Self {
        Self {
            confirmed: Confirmed::listen(&redis),
            crew: Crew::start(setups),
            producer: Producer::start(&redis.url(), STREAM, seed),
            lost_in_a_crash: BTreeSet::new(),
            disk,
            store,
            postgres,
            redis,
        }
    }

    /// The name of a worker in the group, by its place.
    #[must_use]
    pub fn name_of(place: usize) -> String {
        format!("worker-{place}")
    }

    /// Whether its disk can be filled.
    #[must_use]
    pub fn has_small_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Redis.
    #[must_use]
    pub fn redis(&self) -> &RedisServer {
        &self.redis
    }

    /// PostgreSQL.
    ///
    /// # Panics
    /// When it stores in files.
    #[must_use]
    pub fn postgres(&self) -> &PostgresServer {
        self.postgres.as_ref().expect("it stores in PostgreSQL")
    }

    /// The workers.
    pub fn crew(&mut self) -> &mut Crew {
        &mut self.crew
    }

    /// Publishes so many more events without doing anything.
    pub fn publish(&self, events: usize) {
        self.producer.ask_for(events);
        self.producer.wait();
    }

    /// Waits until everything that was published is stored, confirmed and acknowledged.
    pub fn settle(&self) {
        self.producer.wait();
        Stream::new(&self.redis, STREAM).wait_until_settled(GROUP, SETTLE_LIMIT);
    }

    /// Settles, reads everything that is stored, and ends the workers.
    #[must_use]
    pub fn observe(mut self) -> Observed {
        self.settle();
        let published = self.producer.stop();
        let ids: Vec<String> = expected(&published, 0).into_keys().collect();
        self.crew.wait_until_ready();
        let read = self.crew.read(&ids);
        self.crew.end();
        self.confirmed.note_all(&self.redis);
        let letters = |place| letters_of(self.crew.setup(place));
        Observed {
            published,
            read,
            evaluations: self.store.evaluations(),
            lines: self.store.lines(),
            confirmed: self.confirmed.all,
            lost_in_a_crash: self.lost_in_a_crash,
            letters: (0..self.crew.count()).map(letters).collect(),
            redelivered: self.crew.redelivered(),
        }
    }

    /// Settles, ends the workers, and judges.
    #[must_use]
    pub fn judge(self) -> Verdict {
        self.observe().judge()
    }

    /// Which of these events are not stored at this moment.
    #[must_use]
    pub fn missing(&self, events: &BTreeSet<Event>) -> BTreeSet<Event> {
        self.store.missing(events)
    }

    /// Looks which of what was confirmed since the last look is not stored, and gives how much that was. The store may be in
    /// no worker's hands.
    fn audit(&mut self) -> usize {
        self.confirmed.note_all(&self.redis);
        let new = self.confirmed.take_new();
        self.lost_in_a_crash.extend(self.store.missing(&new));
        new.len()
    }
}

/// The dead letters of a worker. One that is in the file again is the same letter.
fn letters_of(setup: &Setup) -> Vec<Sent> {
    let lines = setup.dead_letters();
    let by_id: BTreeMap<&str, Sent> =
        lines.iter().map(|line| (line["id"].as_str().expect("a letter has an id"), message_of(line))).collect();
    by_id.into_values().collect()
}

/// A worker's configuration that reads the stream under a name, and is soon back after an outage.
fn worker(redis: &RedisServer, plugin: &str, name: &str) -> Setup {
    Setup::new(&redis.url(), plugin)
        .set("source.pubsub.enabled", false)
        .set("source.streams.streams", vec![STREAM])
        .set("source.streams.group", GROUP)
        .set("source.streams.block", "100ms")
        .set("source.streams.claim_after", format!("{}ms", CLAIM_AFTER.as_millis()))
        .set("redis.reconnect_max", "500ms")
        .set("storage.breaker.max_open_for", "500ms")
        .set("worker.retry_max", "500ms")
        .set("worker.name", name)
}
