//! Processes of their own that open the backend under test: started, watched, killed.
//!
//! Each is this program again with the same arguments and what it shall do. It ends when its input does, so that none
//! outlives the one that started it. `child.rs` is what they do.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use storage_plugin_api::conformance::{Flood, Processes, Synced, Unmet};

use super::subject::TestPlace;
use super::trace;

/// What the lines of a child begin with that are meant for its parent; a plugin may print as well.
pub(super) const MARK: &str = "\u{1}test ";
/// What a child shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Errand {
    /// Run the behaviors whose names come in, one a line.
    Behaviors { work: PathBuf, seed: u64 },
    /// Open a directory and merge a flood.
    Flood { directory: PathBuf, flood: Flood },
}

/// How children are started.
#[derive(Clone, Debug)]
pub(super) struct Children {
    /// Whether they may write to this process's standard error.
    pub(super) are_loud: bool,
    /// How long a flood may take that is not killed.
    pub(super) flood_limit: Duration,
}

impl Children {
    /// A command that runs this program for an errand, started by other programs if there are any.
    pub(super) fn command(&self, errand: &Errand, before: &[&str]) -> std::io::Result<Command> {
        let own = std::env::current_exe()?;
        let mut command = match before.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(own);
                command
            }
            None => Command::new(own),
        };
        let errand = serde_json::to_string(errand)?;
        command.args(std::env::args_os().skip(1)).arg("--child").arg(errand);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(if self.are_loud { Stdio::inherit() } else { Stdio::null() });
        Ok(command)
    }
}

/// A child and the lines that it prints for us.
pub(super) struct Running {
    pub(super) child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.spawn()?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("it has no output"))?;
        let read = move |stdout: ChildStdout| {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            // Only whole lines: the last one of a child that is killed may be a part.
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) && line.ends_with(b"\n") {
                let text = String::from_utf8_lossy(&line);
                if let Some((_, ours)) = text.split_once(MARK)
                    && sender.send(ours.trim_end().to_owned()).is_err()
                {
                    return;
                }
                line.clear();
            }
        };
        std::thread::Builder::new().name("lines".to_owned()).spawn(move || read(stdout))?;
        Ok(Self { child, lines })
    }

    /// The next line; none when there are no more.
    pub(super) fn line(&self, limit: Duration) -> Result<Option<String>, Late> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Err(Late),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    pub(super) fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Nothing came in time.
pub(super) struct Late;

/// A line of a flood.
enum Told {
    Answered(u64),
    Failed(String),
    Other,
}

fn told(line: &str) -> Told {
    match line.split_once(' ') {
        Some(("answered", number)) => number.parse().map_or(Told::Other, Told::Answered),
        Some(("failed", reason)) => Told::Failed(reason.to_owned()),
        _ => Told::Other,
    }
}

fn not_run(error: impl std::fmt::Display) -> Unmet {
    Unmet::NotRun(format!("cannot start a process: {error}"))
}

impl Processes for TestPlace {
    fn run(&self, floods: &[Flood], kill_after: Option<Duration>) -> Result<Vec<Vec<u64>>, Unmet> {
        let start = |flood: &Flood| {
            let errand = Errand::Flood { directory: self.directory_path().to_owned(), flood: flood.clone() };
            Running::start(&mut self.children().command(&errand, &[])?)
        };
        let mut running = floods.iter().map(start).collect::<Result<Vec<_>, _>>().map_err(not_run)?;
        let limit = Instant::now() + self.children().flood_limit;
        let mut answered = Vec::new();
        for process in &mut running {
            answered.push(follow(process, kill_after, limit)?);
        }
        Ok(answered)
    }

    fn watch(&self, flood: &Flood) -> Result<Vec<Synced>, Unmet> {
        if !trace::is_there() {
            return Err(Unmet::NotRun("needs `strace`; install the package `strace`".to_owned()));
        }
        let file = self.directory_path().with_extension("trace");
        let errand = Errand::Flood { directory: self.directory_path().to_owned(), flood: flood.clone() };
        let arguments = trace::command(&file);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = self.children().command(&errand, &arguments).map_err(not_run)?;
        let mut running = Running::start(&mut command).map_err(not_run)?;
        let followed = follow(&mut running, None, Instant::now() + self.children().flood_limit);
        let ended = running.child.wait();
        let text = read_trace(&file);
        match followed {
            Ok(answered) if answered.is_empty() => {
                let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(Unmet::NotRun(format!("`strace` could not watch a process ({status}); it may not be allowed here")))
            }
            Ok(_) => Ok(trace::read(&text.map_err(not_run)?, flood)),
            Err(unmet) => Err(unmet),
        }
    }
}

fn read_trace(file: &Path) -> std::io::Result<String> {
    let bytes = std::fs::read(file)?;
    let _ = std::fs::remove_file(file);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The numbers of the merges that a flood answers, until it ends or is killed.
fn follow(running: &mut Running, kill_after: Option<Duration>, limit: Instant) -> Result<Vec<u64>, Unmet> {
    let failed = |expected: &str, seen: String| Err(Unmet::Failed { expected: expected.to_owned(), seen });
    let mut answered = Vec::new();
    let mut kill_at: Option<Instant> = None;
    loop {
        let until = kill_at.unwrap_or(limit).min(limit);
        let line = running.line(until.saturating_duration_since(Instant::now()));
        match line {
            Ok(None) => break,
            Ok(Some(line)) => match told(&line) {
                Told::Answered(number) => {
                    answered.push(number);
                    if let Some(delay) = kill_after {
                        kill_at.get_or_insert_with(|| Instant::now() + delay);
                    }
                }
                Told::Failed(reason) => return failed("a process of its own merges", reason),
                Told::Other => {}
            },
            Err(Late) => {}
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            running.kill();
            // What it had answered is still in the pipe.
            while let Ok(Some(line)) = running.line(Duration::from_secs(5)) {
                if let Told::Answered(number) = told(&line) {
                    answered.push(number);
                }
            }
            return Ok(answered);
        }
        if Instant::now() >= limit {
            let seen = format!("{} merges were answered, then nothing", answered.len());
            return failed("the merges of a process end in time", seen);
        }
    }
    match kill_after {
        Some(_) => {
            failed("a process that merges until it is killed", format!("it ended after {} merges", answered.len()))
        }
        None => Ok(answered),
    }
}
