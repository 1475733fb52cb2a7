//! What is measured: the worker, or the bare loop that it is compared with, each a process of its own.

use std::any::Any;
use std::process::Command;
use std::time::Duration;

use storage_worker_tests::process::Process;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};
use tempfile::TempDir;

use crate::traffic::STREAM;

/// Where events are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Memory,
    File,
}

impl Store {
    /// The plugin's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::File => "file",
        }
    }
}

/// A running process that confirms events.
pub(crate) enum Side {
    Worker { worker: Box<Worker>, setup: Setup },
    BareLoop { process: Process, directory: TempDir },
}

impl Side {
    /// Starts the worker with an empty backend, and waits until it is ready.
    pub(crate) fn worker(redis: &RedisServer, store: Store) -> Self {
        Self::of(setup(redis, store))
    }

    /// Starts a worker, and waits until it is ready.
    pub(crate) fn of(setup: Setup) -> Self {
        Self::Worker { worker: Box::new(setup.start()), setup }
    }

    /// Starts a worker on an empty stream, and waits until it is ready.
    pub(crate) fn on_stream(redis: &RedisServer, setup: Setup) -> Self {
        delete_stream(redis);
        Self::of(setup.set("source.pubsub.enabled", false).set("source.streams.streams", vec![STREAM]))
    }

    /// Starts the bare loop on an empty stream, and waits until it has a group there.
    pub(crate) fn bare_loop_on_stream(redis: &RedisServer, store: Store) -> Self {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let mut arguments = vec!["bare-stream-loop".to_owned(), redis.url()];
        if store == Store::File {
            arguments.push(directory.path().to_str().expect("the path is Unicode").to_owned());
        }
        Self::BareLoop { process: bare_on_stream(redis, &arguments), directory }
    }

    /// Starts the bare loop on an empty stream that stores in a database, and waits until it has a group there.
    pub(crate) fn bare_loop_into_postgres(redis: &RedisServer, database: &str) -> Self {
        let arguments = ["bare-postgres-loop".to_owned(), redis.url(), database.to_owned()];
        let directory = tempfile::tempdir().expect("make a temporary directory");
        Self::BareLoop { process: bare_on_stream(redis, &arguments), directory }
    }

    /// Starts the bare loop, and waits until it has subscribed.
    pub(crate) fn bare_loop(redis: &RedisServer, store: Store) -> Self {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
        command.arg("bare-loop").arg(redis.url());
        if store == Store::File {
            command.arg(directory.path());
        }
        let process = Process::start(&mut command);
        let mut connection = redis.connect();
        eventually(Duration::from_secs(10), "the bare loop to subscribe", || {
            let counts: Vec<(String, u64)> = redis::cmd("PUBSUB")
                .arg("NUMSUB")
                .arg(&crate::traffic::CHANNELS)
                .query(&mut connection)
                .expect("ask for subscribers");
            counts.iter().all(|(_, count)| *count > 0)
        });
        Self::BareLoop { process, directory }
    }

    /// Ends it, and gives what it stored, which is removed when dropped: with many files that can take long.
    pub(crate) fn end(self) -> Box<dyn Any> {
        match self {
            Self::Worker { worker, setup } => {
                worker.kill();
                Box::new(setup)
            }
            Self::BareLoop { process, directory } => {
                drop(process);
                Box::new(directory)
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Worker { worker, .. } => worker.id(),
            Self::BareLoop { process, .. } => process.id(),
        }
    }

    /// The CPU time that it has used so far, in all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.id())
    }

    /// Its resident memory in bytes, now and at its most.
    pub(crate) fn memory(&self) -> (u64, u64) {
        (status_bytes(self.id(), "VmRSS:"), status_bytes(self.id(), "VmHWM:"))
    }
}

fn bare_on_stream(redis: &RedisServer, arguments: &[String]) -> Process {
    delete_stream(redis);
    let program = std::env::current_exe().expect("a running program has a path");
    let process = Process::start(Command::new(program).args(arguments));
    let mut connection = redis.connect();
    eventually(Duration::from_secs(10), "the bare loop to have a group", || {
        redis::cmd("EXISTS").arg(STREAM).query::<u64>(&mut connection).expect("ask for the stream") == 1
    });
    process
}

fn delete_stream(redis: &RedisServer) {
    redis::cmd("DEL").arg(STREAM).exec(&mut redis.connect()).expect("delete the stream");
}

/// A worker's configuration with room for everything that is measured.
pub(crate) fn setup(redis: &RedisServer, store: Store) -> Setup {
    let setup = Setup::new(&redis.url(), store.name());
    match store {
        Store::Memory => setup.set("backends.main.options.max_bytes", "16GiB"),
        Store::File => setup,
    }
}

/// The CPU time of a process; `/proc` counts it in hundredths of a second.
pub(crate) fn cpu(id: u32) -> Duration {
    cpu_if_running(id).expect("read the statistics of a process; this needs Linux")
}

/// The CPU time of a process that may have ended.
pub(crate) fn cpu_if_running(id: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name of the program, in parentheses, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').expect("the name stands in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    Some(Duration::from_millis(ticks.sum::<u64>() * 10))
}

fn status_bytes(id: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("read the status of a process");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a process has this");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
