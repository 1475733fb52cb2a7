//! Hands behaviors out to processes, and replaces a process that crashes or hangs.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use storage_plugin_api::Capabilities;
use storage_plugin_api::conformance::{Behavior, Report, Verdict};

use super::super::super::UsageError;
use super::child::{Greeting, OPEN};
use super::processes::{Children, Errand, Late, Running};
use super::subject::OPEN_BUDGET;
use crate::secret::redact_value;

/// How long loading a plugin may take, and a backend beyond its budget to open.
const LOAD_LIMIT: Duration = Duration::from_secs(20);
/// How often a wait looks whether it shall stop.
const STEP: Duration = Duration::from_millis(50);

/// Runs behaviors.
pub(super) struct Crew<'a> {
    pub(super) children: Children,
    pub(super) work: &'a Path,
    pub(super) seed: u64,
    /// How long a behavior may take.
    pub(super) limit: Duration,
    /// How many processes there are.
    pub(super) jobs: usize,
    /// Becomes true when the run shall end.
    pub(super) stop: Arc<AtomicBool>,
}

/// What came of a run.
pub(super) struct Run {
    pub(super) plugin: String,
    pub(super) capabilities: Capabilities,
    /// Every behavior in the order asked for.
    pub(super) reports: Vec<(&'static Behavior, Report)>,
    pub(super) notes: Vec<String>,
}

/// A process, ready for the next behavior.
struct Member {
    running: Running,
    input: ChildStdin,
}

/// What became of a behavior that was handed out.
enum Outcome {
    Done(Report),
    /// The process is of no use any more.
    Lost(Report),
    Stopped,
}

impl Crew<'_> {
    /// Runs the behaviors, several at once where each has a place of its own.
    pub(super) fn run(&self, behaviors: &[&'static Behavior]) -> anyhow::Result<Run> {
        let stop = &*self.stop;
        let (mut member, greeting) = self.hire(stop)?;
        let Greeting::Ready { plugin, description, is_shared_place } = greeting else { bail!("it was refused") };
        match member.ask(OPEN, OPEN_BUDGET + Duration::from_secs(2), stop) {
            Outcome::Done(Report { verdict: Verdict::Failed { seen, .. }, .. }) => {
                bail!("{plugin} does not open: {seen}; nothing else was tested")
            }
            Outcome::Lost(Report { verdict: Verdict::Failed { seen, .. }, .. }) => {
                bail!("{plugin} does not open: {seen}; nothing else was tested")
            }
            Outcome::Done(_) | Outcome::Lost(_) => {}
            Outcome::Stopped => bail!("stopped"),
        }
        let mut notes = Vec::new();
        let mut jobs = self.jobs;
        if is_shared_place {
            notes.push(
                "all behaviors share one place, so they ran one after the other, each with ids of its own".to_owned(),
            );
            jobs = 1;
        }
        let queue: Mutex<VecDeque<(usize, &'static Behavior)>> =
            Mutex::new(behaviors.iter().copied().enumerate().collect());
        let reports = Mutex::new(Vec::new());
        let first = Mutex::new(Some(member));
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                let own = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                let (queue, reports) = (&queue, &reports);
                scope.spawn(move || self.work_off(own, queue, reports, stop));
            }
        });
        if stop.load(Ordering::Relaxed) {
            bail!("stopped");
        }
        let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
        reports.sort_by_key(|(place, _, _)| *place);
        let reports = reports.into_iter().map(|(_, behavior, report)| (behavior, report)).collect();
        Ok(Run { plugin, capabilities: description.capabilities, reports, notes })
    }

    fn work_off(
        &self,
        mut member: Option<Member>,
        queue: &Mutex<VecDeque<(usize, &'static Behavior)>>,
        reports: &Mutex<Vec<(usize, &'static Behavior, Report)>>,
        stop: &AtomicBool,
    ) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((place, behavior)) = next else { return };
            let mut worker = match member.take().map_or_else(|| self.hire(stop).map(|(member, _)| member), Ok) {
                Ok(worker) => worker,
                Err(error) => {
                    let report = failed("a process that loads the plugin", &format!("{error:#}"));
                    reports.lock().unwrap_or_else(PoisonError::into_inner).push((place, behavior, report));
                    continue;
                }
            };
            let report = match worker.ask(behavior.name, self.limit, stop) {
                Outcome::Done(report) => {
                    member = Some(worker);
                    report
                }
                Outcome::Lost(report) => report,
                Outcome::Stopped => return,
            };
            reports.lock().unwrap_or_else(PoisonError::into_inner).push((place, behavior, report));
        }
    }

    /// Starts a process and waits until it has loaded the plugin.
    fn hire(&self, stop: &AtomicBool) -> anyhow::Result<(Member, Greeting)> {
        let errand = Errand::Behaviors { work: self.work.to_owned(), seed: self.seed };
        let mut command = self.children.command(&errand, &[]).context("cannot start a process")?;
        let mut running = Running::start(&mut command).context("cannot start a process")?;
        let input = running.child.stdin.take().context("a process has no input")?;
        let mut member = Member { running, input };
        let line = match member.line(LOAD_LIMIT, stop) {
            Ok(Some(line)) => line,
            Ok(None) => bail!("the plugin could not be loaded: the process {}", member.end()),
            Err(Late) if stop.load(Ordering::Relaxed) => bail!("stopped"),
            Err(Late) => bail!("the plugin did not say within {LOAD_LIMIT:?} what it makes of its options"),
        };
        match serde_json::from_str(&line).map_err(|error| anyhow!("a process said something odd: {error}"))? {
            Greeting::Refused { reason } => Err(UsageError(format!("cannot test this: {reason}")).into()),
            ready @ Greeting::Ready { .. } => Ok((member, ready)),
        }
    }
}

impl Member {
    fn ask(&mut self, name: &str, limit: Duration, stop: &AtomicBool) -> Outcome {
        // If it is gone the answer, which is none, tells how.
        let _ = writeln!(self.input, "{name}").and_then(|()| self.input.flush());
        match self.line(limit, stop) {
            Ok(Some(line)) => match report(&line) {
                Ok(report) => Outcome::Done(report),
                Err(error) => Outcome::Lost(failed("a report", &format!("{error}: {line}"))),
            },
            Ok(None) => Outcome::Lost(failed("the process survives", &format!("it {}", self.end()))),
            Err(Late) if stop.load(Ordering::Relaxed) => Outcome::Stopped,
            Err(Late) => Outcome::Lost(failed(&format!("an end within {limit:?}"), "it hangs, and was killed")),
        }
    }

    fn line(&self, limit: Duration, stop: &AtomicBool) -> Result<Option<String>, Late> {
        let give_up = Instant::now() + limit;
        loop {
            match self.running.line(STEP) {
                Err(Late) if Instant::now() < give_up && !stop.load(Ordering::Relaxed) => {}
                told => return told,
            }
        }
    }

    /// How a process ended that told nothing any more.
    fn end(&mut self) -> String {
        match self.running.child.wait() {
            Ok(status) => format!("ended by itself ({status})"),
            Err(error) => format!("ended by itself ({error})"),
        }
    }
}

/// What a process reports. An error of a plugin may name a URL with a password.
fn report(line: &str) -> serde_json::Result<Report> {
    let told = serde_json::from_str(line)?;
    serde_json::from_value(redact_value(&told))
}

fn failed(expected: &str, seen: &str) -> Report {
    let verdict = Verdict::Failed { expected: expected.to_owned(), seen: seen.to_owned() };
    Report { verdict, notes: Vec::new() }
}

/// Becomes true when somebody ends this process, which then cleans up behind itself.
pub(super) fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt, mut hangup) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, _ = hangup.recv() => {} }
        });
        told.store(true, Ordering::Relaxed);
    })?;
    Ok(stop)
}
