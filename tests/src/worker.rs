//! The real `storage-worker`, started with a configuration of the test's own in a temporary directory.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use toml::Table;

use crate::http::Http;
use crate::process::{Process, find_program, worker_binary};
use crate::wait::{eventually, eventually_some};

/// How long a worker may take until it says where it listens, and is ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a line of its log may be on its way.
const TOLD_LIMIT: Duration = Duration::from_secs(20);

/// A directory with a configuration, from which workers are started, one after the other or side by side.
#[derive(Debug)]
pub struct Setup {
    directory: Arc<TempDir>,
    config: Table,
    environment: Vec<(String, String)>,
    binary: PathBuf,
    tracer: Option<Vec<String>>,
}

impl Setup {
    /// A configuration with one backend `main` of a plugin, that listens on free ports of 127.0.0.1.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    #[must_use]
    pub fn new(redis_url: &str, plugin: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("make a temporary directory"));
        let dead_letters = directory.path().join("dead-letters.jsonl");
        let data = directory.path().join("data");
        let plugin_cache = directory.path().join("plugin-cache");
        let setup =
            Self { directory, config: Table::new(), environment: Vec::new(), binary: worker_binary(), tracer: None }
                .set("redis.url", redis_url)
                .set("http.listen", "127.0.0.1:0")
                .set("admin.listen", "127.0.0.1:0")
                .set("dead_letters.path", path_text(&dead_letters))
                .set("storage.backend", "main")
                .set("storage.plugin_cache_dir", path_text(&plugin_cache))
                .set("backends.main.plugin", plugin);
        if plugin == "file" { setup.set("backends.main.options.path", path_text(&data)) } else { setup }
    }

    /// A configuration that is written already, but for the addresses that are listened on.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("read the configuration");
        let setup = Self { config: text.parse().expect("it is TOML"), ..Self::new("", "") };
        setup.set("http.listen", "127.0.0.1:0").set("admin.listen", "127.0.0.1:0")
    }

    /// With a key of the configuration set, named by its path: `backends.main.options.sync`.
    ///
    /// # Panics
    /// When a part of the path is a value already.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        self.put(path, value);
        self
    }

    /// Sets a key of the configuration, as [`Self::set`] does.
    ///
    /// # Panics
    /// When a part of the path is a value already.
    pub fn put(&mut self, path: &str, value: impl Into<toml::Value>) {
        let mut tables: Vec<&str> = path.split('.').collect();
        let key = tables.pop().expect("a split text has a part");
        let mut table = &mut self.config;
        for name in tables {
            let entry = table.entry(name).or_insert_with(|| Table::new().into());
            table = entry.as_table_mut().expect("the path leads through tables");
        }
        table.insert(key.to_owned(), value.into());
    }

    /// With a variable in the worker's environment, which else has only a search path.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Run by another build of the worker.
    #[must_use]
    pub fn run_by(mut self, binary: &Path) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    /// Run by another program, say `strace` with its options.
    #[must_use]
    pub fn traced_by(mut self, command: &[&str]) -> Self {
        self.tracer = Some(command.iter().map(|&word| word.to_owned()).collect());
        self
    }

    /// A path in the directory of this set-up.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The dead letters so far, each a JSON object.
    ///
    /// # Panics
    /// When a line is no JSON.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("dead-letters.jsonl")).unwrap_or_default();
        // The end of what is being written may not be there yet.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).expect("a dead letter is one line of JSON")).collect()
    }

    /// Starts a worker, and waits until it is ready.
    ///
    /// # Panics
    /// When it is not ready in time; its log is shown.
    #[must_use]
    #[track_caller]
    pub fn start(&self) -> Worker {
        let worker = self.start_unready();
        eventually(START_LIMIT, "the worker to be ready", || worker.is_ready());
        worker
    }

    /// Starts a worker, and waits until it listens.
    ///
    /// # Panics
    /// When it does not in time; its log is shown.
    #[must_use]
    #[track_caller]
    pub fn start_unready(&self) -> Worker {
        let mut worker = self.start_command(&["run"]);
        let [http, admin] = ["http.listening", "admin.listening"].map(|event| {
            eventually_some(START_LIMIT, event, || {
                assert!(
                    worker.process.is_running() || worker.log.find(event).is_some(),
                    "the worker ended:\n{}",
                    worker.log
                );
                Some(worker.log.find(event)?["address"].as_str()?.to_owned())
            })
        });
        worker.http = Some(Http::new(&http));
        worker.admin = Some(admin);
        worker
    }

    /// Writes the configuration to its file, which a worker that runs reads when it is told to.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self) -> PathBuf {
        let config = self.path("storage-worker.toml");
        // In one step: another command of this set-up may be reading it.
        let mut file = tempfile::NamedTempFile::new_in(self.directory.path()).expect("make a file");
        file.write_all(self.config.to_string().as_bytes()).expect("write the configuration");
        file.persist(&config).expect("put the configuration in its place");
        config
    }

    /// Starts a command that runs on until it is told to end, and waits for nothing.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_command(&self, arguments: &[&str]) -> Worker {
        let mut process = Process::start(&mut self.command(arguments));
        let log = Log::default();
        let output = process.child().stdout.take().expect("the output is piped");
        let errors = process.child().stderr.take().expect("the error output is piped");
        let readers = vec![log.follow(output), log.follow(errors)];
        Worker { process, log, readers, http: None, admin: None, _directory: Arc::clone(&self.directory) }
    }

    /// A command of the worker with this configuration, not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let config = self.write();
        let mut command = match &self.tracer {
            Some(tracer) => {
                let program = find_program(&tracer[0]).unwrap_or_else(|| panic!("`{}` is not installed", tracer[0]));
                let mut command = Command::new(program);
                command.args(&tracer[1..]).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.args(arguments).arg("--config").arg(config).current_dir(self.directory.path());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A running worker. Killed when dropped; where a test fails, its last lines are shown then.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    log: Log,
    readers: Vec<JoinHandle<()>>,
    http: Option<Http>,
    admin: Option<String>,
    // Its set-up may be gone before it.
    _directory: Arc<TempDir>,
}

impl Worker {
    /// Its HTTP interface.
    ///
    /// # Panics
    /// Never: a worker is handed out once it listens.
    #[must_use]
    pub fn http(&self) -> &Http {
        self.http.as_ref().expect("the worker said where it listens")
    }

    /// The address of its admin listener.
    ///
    /// # Panics
    /// Never: a worker is handed out once it listens.
    #[must_use]
    pub fn admin_address(&self) -> &str {
        self.admin.as_deref().expect("the worker said where its admin listener is")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The first entry of an event in its log, waited for: what it did before may be seen sooner than its line is read.
    ///
    /// # Panics
    /// When it does not say so in time; its log is shown.
    #[must_use]
    #[track_caller]
    pub fn told(&self, event: &str) -> Value {
        let start = Instant::now();
        loop {
            match self.log.find(event) {
                Some(entry) => return entry,
                None if start.elapsed() < TOLD_LIMIT => std::thread::sleep(Duration::from_millis(10)),
                None => panic!("the log does not tell `{event}`:\n{}", self.log),
            }
        }
    }

    /// Its process id; under a tracer, the tracer's.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// True when it says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.http().try_get("/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// True while it runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The stored record; none where there is none.
    #[must_use]
    #[track_caller]
    pub fn record(&self, id: &str) -> Option<Value> {
        let answer = self.http().get(&format!("/evaluations/{id}"));
        (answer.status == 200).then(|| answer.json())
    }

    /// The history of an evaluation, oldest first.
    #[must_use]
    #[track_caller]
    pub fn history(&self, id: &str) -> Vec<Value> {
        self.history_if_any(id).unwrap_or_else(|| panic!("there is no evaluation `{id}`"))
    }

    /// The history of an evaluation, oldest first; none where nothing is stored of it.
    ///
    /// # Panics
    /// When the worker answers something else.
    #[must_use]
    #[track_caller]
    pub fn history_if_any(&self, id: &str) -> Option<Vec<Value>> {
        let answer = self.http().get(&format!("/evaluations/{id}/events"));
        if answer.status == 404 {
            return None;
        }
        let body = answer.json();
        let entries = body.as_array().or_else(|| body["events"].as_array());
        Some(entries.unwrap_or_else(|| panic!("no list of events: {body}")).clone())
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// When the system has no `/proc`.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("read the process' status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("VmRSS is a number") * 1024
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks it to drain (SIGTERM), and gives how it ended and everything it logged.
    ///
    /// # Panics
    /// When it does not end within the limit.
    #[track_caller]
    pub fn terminate(mut self, limit: Duration) -> (ExitStatus, Log) {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Waits until it ends by itself, and gives how and everything it logged.
    ///
    /// # Panics
    /// When it does not end within the limit.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> (ExitStatus, Log) {
        let Some(status) = self.process.wait(limit) else {
            panic!("the worker did not end within {limit:?}; it logged\n{}", self.log)
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        (status, self.log.clone())
    }

    /// Kills it (`kill -9`), and gives everything it logged.
    pub fn kill(mut self) -> Log {
        self.process.kill();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        self.log.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the worker's last lines:\n{}", self.log);
        }
    }
}

/// The lines that a worker wrote, to either output.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    /// The lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// The log entries so far: those lines that are JSON objects.
    #[must_use]
    pub fn entries(&self) -> Vec<Value> {
        self.lock().iter().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect()
    }

    /// The first entry of an event.
    #[must_use]
    pub fn find(&self, event: &str) -> Option<Value> {
        self.all(event).into_iter().next()
    }

    /// The entries of an event.
    #[must_use]
    pub fn all(&self, event: &str) -> Vec<Value> {
        self.entries().into_iter().filter(|entry| entry["event"] == event).collect()
    }

    fn follow(&self, output: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                log.lock().push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Display for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.lock();
        let shown = &lines[lines.len().saturating_sub(50)..];
        shown.iter().try_for_each(|line| writeln!(formatter, "  {line}"))
    }
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("temporary paths are Unicode").to_owned()
}
