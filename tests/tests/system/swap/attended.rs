//! A worker with somebody who looks after it: it is killed at a moment that was drawn, and started again with the
//! configuration that its file has then.

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use storage_worker_tests::worker::{Setup, Worker};

/// How long a command of the swap may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at everything.
const STEP: Duration = Duration::from_millis(2);

/// When the worker is killed, counted from the beginning of the swap, and how long it then is away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    pub(super) after: Duration,
    pub(super) away: Duration,
}

/// The worker, its configuration, and what is going to happen to it.
pub(super) struct Attended {
    pub(super) setup: Setup,
    pub(super) worker: Option<Worker>,
    began: Instant,
    kill: Option<Kill>,
    /// What was being done when it was killed.
    pub(super) killed_in: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) text: String,
    /// The worker was killed meanwhile.
    pub(super) disturbed: bool,
}

impl Attended {
    /// Starts the worker.
    pub(super) fn start(setup: Setup) -> Self {
        let worker = Some(setup.start());
        Self { setup, worker, began: Instant::now(), kill: None, killed_in: None }
    }

    /// From now on the time runs after which it is killed.
    pub(super) fn begin(&mut self, kill: Option<Kill>) {
        (self.began, self.kill) = (Instant::now(), kill);
    }

    /// Waits until what is to happen to it has happened.
    pub(super) fn end(&mut self) {
        self.wait("to be killed", |this| this.kill.is_none());
        self.wait_until_ready();
    }

    pub(super) fn worker(&self) -> &Worker {
        self.worker.as_ref().expect("it is started again when it was killed")
    }

    /// Changes the configuration in its file.
    pub(super) fn edit(&mut self, path: &str, value: impl Into<toml::Value>) {
        self.setup.put(path, value);
        self.setup.write();
    }

    /// Waits until the worker is ready.
    pub(super) fn wait_until_ready(&mut self) {
        self.wait("to be ready", |this| this.worker().is_ready());
    }

    /// Waits, and looks after the worker meanwhile.
    pub(super) fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < LIMIT,
                "waited {LIMIT:?} in vain for the worker {what}:\n{}",
                self.worker().log()
            );
            self.look(what);
            std::thread::sleep(STEP);
        }
    }

    /// Runs a command of the worker, and looks after that meanwhile.
    pub(super) fn command(&mut self, arguments: &[&str]) -> Ended {
        let (output, what) = (self.setup.path("output"), arguments.join(" "));
        let file = File::create(&output).expect("make a file for the output");
        let errors = file.try_clone().expect("use it twice");
        let mut command = self.setup.command(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn().expect("the command starts");
        let (start, before) = (Instant::now(), self.killed_in.is_some());
        let status = loop {
            if let Some(status) = child.try_wait().expect("the command is ours") {
                break status;
            }
            if start.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                panic!("`{what}` takes longer than {LIMIT:?}:\n{}", self.worker().log());
            }
            self.look(&what);
            std::thread::sleep(STEP);
        };
        let text = String::from_utf8_lossy(&std::fs::read(output).expect("read the output")).into_owned();
        Ended { status, text, disturbed: self.killed_in.is_some() && !before }
    }

    /// Kills the worker if its time has come, and starts it again as a supervisor does.
    fn look(&mut self, doing: &str) {
        let Some(kill) = self.kill.filter(|kill| self.began.elapsed() >= kill.after) else { return };
        self.kill = None;
        if let Some(worker) = self.worker.take() {
            worker.kill();
        }
        self.killed_in = Some(doing.to_owned());
        std::thread::sleep(kill.away);
        self.worker = Some(self.setup.start_unready());
    }
}
