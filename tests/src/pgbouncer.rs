//! A private PgBouncer on 127.0.0.1 in front of a private PostgreSQL, which hands out connections by the transaction.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::postgres_server::{Database, PostgresServer, server_user};
use crate::process::{Process, find_program};
use crate::redis_server::free_port;
use crate::wait::eventually;

/// How long it may take to answer.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A PgBouncer. Stopped when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    directory: TempDir,
    port: u16,
    process: Option<Process>,
}

impl PgBouncer {
    /// Starts one with so many connections to the server, which all of its clients share.
    ///
    /// # Panics
    /// When there is none, or it does not answer in time.
    #[must_use]
    pub fn start(server: &PostgresServer, connections: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("pgbouncer-").tempdir().expect("make a temporary directory");
        if let Some((user, group)) = server_user() {
            chown(directory.path(), Some(user), Some(group)).expect("give the directory away");
        }
        // Another program may take the free port before it does: then another one is tried.
        let mut pooler = Self { directory, port: 0, process: None };
        for _ in 0..5 {
            pooler.port = free_port();
            if pooler.try_start(server, connections) {
                return pooler;
            }
        }
        panic!("PgBouncer did not start on five free ports:\n{}", pooler.log());
    }

    /// Where clients find the server behind it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn try_start(&mut self, server: &PostgresServer, connections: usize) -> bool {
        let config = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} dbname=postgres user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {connections}\nserver_login_retry = 1\n",
            server.port(),
            self.port,
        );
        let path = self.directory.path().join("pgbouncer.ini");
        std::fs::write(&path, config).expect("write the configuration");
        let log = std::fs::File::create(self.directory.path().join("log")).expect("open the log");
        let program = find_program("pgbouncer").expect("pgbouncer is not installed; run `make setup`");
        let mut command = Command::new(program);
        command.arg(path).current_dir(self.directory.path()).stdout(Stdio::null()).stderr(log);
        if let Some((user, group)) = server_user() {
            command.uid(user).gid(group);
        }
        let mut process = Process::start(&mut command);
        let mut answers = false;
        eventually(START_LIMIT, "PgBouncer to answer", || {
            answers = Database::connect(&self.url()).is_ok();
            answers || !process.is_running()
        });
        self.process = answers.then_some(process);
        answers
    }
}
