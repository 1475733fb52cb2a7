//! A private Redis on 127.0.0.1, on a port of its own, with its data in a temporary directory.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, find_program};
use crate::wait::eventually;

/// How long a server may take to answer, which first loads what it has.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A Redis server. Stopped when dropped.
#[derive(Debug)]
pub struct RedisServer {
    directory: TempDir,
    port: u16,
    process: Option<Process>,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer in time.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server that keeps what it has said it has, whatever kills it.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer in time.
    #[must_use]
    pub fn start_durable() -> Self {
        Self::start_with(&["--appendfsync", "always"])
    }

    /// Starts a server with further arguments, and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not answer in time.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut directory = tempfile::tempdir().expect("make a temporary directory");
        // Another program may take the free port before Redis does: then another one is tried.
        for _ in 0..5 {
            let port = free_port();
            let mut server = Self { directory, port, process: None, arguments: arguments.clone() };
            if server.try_start() {
                return server;
            }
            directory = server.directory;
        }
        panic!("redis-server did not start on five free ports");
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection of its own.
    ///
    /// # Panics
    /// When the server does not answer.
    #[must_use]
    pub fn connect(&self) -> redis::Connection {
        self.try_connect().unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.url()))
    }

    /// A connection of its own, if the server answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        let connection = redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(connection)
    }

    /// Kills it (`kill -9`).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port and data.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn restart(&mut self) {
        self.process = None;
        assert!(self.try_start(), "redis-server did not start again on port {}", self.port);
    }

    /// Stops it without closing anything, as a hanging machine would; `resume` lets it go on.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("the server runs").signal(signal);
    }

    fn try_start(&mut self) -> bool {
        let program = find_program("redis-server").expect("redis-server is not installed; run `make setup`");
        let mut command = Command::new(program);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"]);
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
        command.args(["--client-output-buffer-limit", "pubsub 256mb 256mb 60"]).args(&self.arguments);
        command.current_dir(self.directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start(&mut command);
        let mut answers = false;
        eventually(START_LIMIT, "redis-server to answer", || {
            // It refuses a ping while it still loads its data. Whoever else answers has the port.
            let ask = |mut connection| {
                redis::cmd("PING").exec(&mut connection)?;
                redis::cmd("INFO").arg("server").query::<String>(&mut connection)
            };
            let ours = format!("process_id:{}", process.id());
            let told = self.try_connect().and_then(ask);
            answers = told.is_ok_and(|told| told.lines().any(|line| line.trim_end() == ours));
            answers || !process.is_running()
        });
        self.process = answers.then_some(process);
        answers
    }
}

/// Ports that Linux gives neither to connections nor to whoever asks for any port, unless it is told to: while a server of
/// ours is away nobody else gets its port but by a draw of the same.
const PORTS: Range<u16> = 10_000..32_000;

/// A port that nobody listens on at this moment.
///
/// # Panics
/// When the machine has none.
#[must_use]
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let drawn = std::iter::repeat_with(|| fastrand::u16(PORTS));
    drawn.take(1000).find(is_free).expect("one of a thousand ports is free")
}
