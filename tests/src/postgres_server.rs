//! A private PostgreSQL on 127.0.0.1, on a port of its own, with its data in a temporary directory.
//!
//! PostgreSQL refuses to run as root, so then it runs as the user `postgres`, whom its package makes.
//! `standby.rs` has the servers that follow another one.

mod standby;

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, Row};

use crate::authority::{Certificate, self_signed};
use crate::process::{Process, find_program};
use crate::redis_server::free_port;
use crate::wait::eventually;

/// How long a server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A PostgreSQL server with an empty database `postgres`. Stopped when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    directory: TempDir,
    port: u16,
    settings: Vec<String>,
    user: Option<(u32, u32)>,
    process: Option<Process>,
}

impl PostgresServer {
    /// Starts a server that does not sync, and waits until it answers.
    ///
    /// # Panics
    /// When there is no PostgreSQL, or it does not answer in time.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&["fsync=off", "full_page_writes=off"])
    }

    /// Starts a server with settings (`name=value`). With `ssl=on` it has a certificate that it signed itself.
    ///
    /// # Panics
    /// When there is no PostgreSQL, or it does not answer in time.
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        Self::prepare(settings, &[]).begin()
    }

    /// Starts a server that writes its log ahead in a directory of its user's; see [`server_user`].
    ///
    /// # Panics
    /// When there is no PostgreSQL, or it does not answer in time.
    #[must_use]
    pub fn start_with_wal_in(directory: &Path, settings: &[&str]) -> Self {
        let waldir = format!("--waldir={}", directory.display());
        // In small pieces, for a small directory.
        Self::prepare(settings, &[&waldir, "--wal-segsize=1"]).begin()
    }

    /// A server with an empty database, not started yet.
    fn prepare(settings: &[&str], options: &[&str]) -> Self {
        let server = Self::empty(settings);
        let made = server
            .command("initdb")
            .args(["--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8"])
            .args(options)
            .args(["--no-sync", "--pgdata"])
            .arg(server.data())
            .output()
            .expect("run initdb");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        if server.settings.iter().any(|setting| setting == "ssl=on") {
            let made = tempfile::tempdir().expect("make a temporary directory");
            let Certificate { certificate, key } = self_signed(made.path(), "DNS:localhost");
            server.keep("server.crt", &std::fs::read(certificate).expect("read a certificate"));
            server.keep("server.key", &std::fs::read(key).expect("read a key"));
        }
        server
    }

    /// A server without data.
    fn empty(settings: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("pg-").tempdir().expect("make a temporary directory");
        let user = server_user();
        if let Some((user, group)) = user {
            chown(directory.path(), Some(user), Some(group)).expect("give the directory away");
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { directory, port: free_port(), settings, user, process: None }
    }

    /// Starts it for the first time.
    fn begin(mut self) -> Self {
        // Another program may take the free port before the server does: then another one is tried.
        for _ in 0..5 {
            if self.try_start() {
                return self;
            }
            self.port = free_port();
        }
        panic!("PostgreSQL did not start on five free ports:\n{}", self.log());
    }

    /// Where clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for("postgres", self.port)
    }

    /// Where clients find another database of it.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Where a role finds it, on some port that leads to it.
    #[must_use]
    pub fn url_for(&self, role: &str, port: u16) -> String {
        format!("postgres://{role}@127.0.0.1:{port}/postgres")
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
    pub fn connect(&self) -> Database {
        self.try_connect().unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.url()))
    }

    /// A connection of its own, if the server gives one.
    ///
    /// # Errors
    /// When it does not.
    pub fn try_connect(&self) -> Result<Database, tokio_postgres::Error> {
        Database::connect(&self.url())
    }

    /// Stops it at once, as `pg_ctl stop -m immediate` does.
    pub fn stop_immediately(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::QUIT);
            assert!(process.wait(Duration::from_secs(20)).is_some(), "PostgreSQL did not stop:\n{}", self.log());
        }
    }

    /// Starts it again on the same port and data.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn restart(&mut self) {
        self.stop_immediately();
        assert!(self.try_start(), "PostgreSQL did not start again on port {}:\n{}", self.port, self.log());
    }

    /// Waits until it answers, and starts it again if it ended meanwhile, as it does when its disk is full.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn recover(&mut self) {
        eventually(START_LIMIT, "PostgreSQL to recover", || {
            let is_running = self.process.as_mut().is_some_and(Process::is_running);
            self.try_connect().is_ok() || (!is_running && self.try_start())
        });
    }

    /// Puts a file beside its data that only the server's user can read, and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.data().join(name);
        std::fs::write(&path, bytes).expect("write a file of the server");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set the rights of a file");
        if let Some((user, group)) = self.user {
            chown(&path, Some(user), Some(group)).expect("give a file away");
        }
        path
    }

    /// Lets in whom a line of `pg_hba.conf` names, and nobody else, from the next start on.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn let_in_only(&self, line: &str) {
        self.keep("pg_hba.conf", format!("{line}\n").as_bytes());
    }

    /// Stops it as it is, with everybody who is connected, until what this gives is dropped.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pause(&self) -> Paused {
        let process = self.process.as_ref().expect("the server runs");
        process.signal(Signal::STOP);
        // From now on it has no more children.
        let path = format!("/proc/{0}/task/{0}/children", process.id());
        let children = std::fs::read_to_string(path).expect("read the children of the server");
        let own = process.id().to_string();
        let ids = children.split_whitespace().chain([&*own]).filter_map(|id| Pid::from_raw(id.parse().ok()?));
        let paused = Paused { ids: ids.collect() };
        paused.signal(Signal::STOP);
        paused
    }

    /// With another setting from the next start on.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Everything that it logged.
    #[must_use]
    pub fn whole_log(&self) -> String {
        let log = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The end of what it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.whole_log().lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn try_start(&mut self) -> bool {
        let log = std::fs::File::options().create(true).append(true).open(self.directory.path().join("log"));
        let log = log.expect("open the server's log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        let socket = format!("unix_socket_directories={}", self.directory.path().display());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", &socket, "-c", "shared_buffers=64MB"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdout(Stdio::null()).stderr(log);
        let mut process = Process::start(&mut command);
        let mut answers = false;
        eventually(START_LIMIT, "PostgreSQL to answer", || {
            answers = self.try_connect().is_ok();
            answers || !process.is_running()
        });
        self.process = answers.then_some(process);
        answers
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A program of the server, to be run by whom it accepts.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(server_program(name));
        command.current_dir(self.directory.path()).env("LC_ALL", "C");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Killed it would leave its shared memory behind; should this fail, it is killed all the same.
            process.signal(Signal::QUIT);
            let _ = process.wait(Duration::from_secs(10));
        }
    }
}

/// The processes of a server that is paused; dropped, they go on.
#[derive(Debug)]
pub struct Paused {
    ids: Vec<Pid>,
}

impl Paused {
    fn signal(&self, signal: Signal) {
        for id in &self.ids {
            // A child may have been about to end.
            let _ = kill_process(*id, signal);
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

/// A connection, used from a thread that may block.
#[derive(Debug)]
pub struct Database {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Database {
    /// # Errors
    /// When the server gives no connection.
    ///
    /// # Panics
    /// When no runtime can be started.
    pub fn connect(url: &str) -> Result<Self, tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls))?;
        runtime.spawn(connection);
        Ok(Self { runtime, client })
    }

    /// Runs statements that have no answer.
    ///
    /// # Errors
    /// Those of the server.
    pub fn try_run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// Runs statements that have no answer.
    ///
    /// # Panics
    /// When the server refuses them.
    #[track_caller]
    pub fn run(&self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The rows of a statement.
    ///
    /// # Panics
    /// When the server refuses it.
    #[must_use]
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Row> {
        self.runtime.block_on(self.client.query(sql, &[])).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The number that a statement answers.
    ///
    /// # Panics
    /// When it answers none.
    #[must_use]
    #[track_caller]
    pub fn number(&self, sql: &str) -> i64 {
        self.rows(sql).first().unwrap_or_else(|| panic!("{sql}: no row")).get(0)
    }

    /// The client and its runtime, for what the above cannot do.
    #[must_use]
    pub fn parts(&self) -> (&tokio::runtime::Runtime, &Client) {
        (&self.runtime, &self.client)
    }
}

/// Where a program of the newest server is; its package does not put it in the search path.
fn server_program(name: &str) -> PathBuf {
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = versions.filter(|path| path.join("bin").join(name).is_file()).max_by_key(|path| version(path));
    newest
        .map(|path| path.join("bin").join(name))
        .or_else(|| find_program(name))
        .unwrap_or_else(|| panic!("there is no `{name}`: PostgreSQL is not installed; run `make setup`"))
}

/// The ids of the user that servers run as, and of its group; none where that is the one who runs the test.
#[must_use]
pub fn server_user() -> Option<(u32, u32)> {
    rustix::process::getuid().is_root().then(|| user("postgres"))
}

/// The ids of a user and of its group.
fn user(name: &str) -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let line = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let mut fields = line.unwrap_or_else(|| panic!("there is no user `{name}`; run `make setup`")).split(':').skip(1);
    let mut id = || fields.next().and_then(|id| id.parse().ok()).expect("a user has two ids");
    (id(), id())
}
