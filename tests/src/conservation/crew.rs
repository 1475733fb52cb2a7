//! The workers of a run: of one group, each under its own name, killed, stopped and started again.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;

use crate::second_model::Expected;
use crate::wait::eventually;
use crate::worker::{Setup, Worker};

/// How long a worker may take to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

/// Connections that read at once, over all workers.
const READERS: usize = 8;
/// How long a worker may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Workers, each known by its place.
#[derive(Debug)]
pub struct Crew {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    setup: Setup,
    worker: Option<Worker>,
    /// Entries that this life of it has taken again, or from a dead one, as of the last look.
    again: u64,
    /// The same, of its lives that ended.
    again_before: u64,
}

impl Crew {
    /// Starts a worker of each configuration, and waits until all are ready.
    #[must_use]
    pub fn start(setups: Vec<Setup>) -> Self {
        let start = |setup: Setup| Member { worker: Some(setup.start()), setup, again: 0, again_before: 0 };
        Self { members: setups.into_iter().map(start).collect() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The configuration of one.
    #[must_use]
    pub fn setup(&self, place: usize) -> &Setup {
        &self.members[place].setup
    }

    /// One that runs.
    ///
    /// # Panics
    /// When it was killed, and not started again.
    #[must_use]
    pub fn worker(&self, place: usize) -> &Worker {
        self.members[place].worker.as_ref().expect("it runs")
    }

    /// Looks at every worker that is not stopped: none has ended by itself, and what it has taken again is counted.
    ///
    /// # Panics
    /// When one has ended.
    pub fn look(&mut self) {
        for member in &mut self.members {
            let Some(worker) = &mut member.worker else { continue };
            assert!(worker.is_running(), "a worker ended by itself:\n{}", worker.log());
            let metric = |how| worker.http().metric("storage_worker_stream_entries_total", &[how]);
            member.again = (metric("how=\"redelivered\"") + metric("how=\"claimed\"")) as u64;
        }
    }

    /// Entries that were delivered more than once.
    #[must_use]
    pub fn redelivered(&self) -> u64 {
        self.members.iter().map(|member| member.again + member.again_before).sum()
    }

    /// Kills one (`kill -9`).
    pub fn kill(&mut self, place: usize) {
        let member = &mut self.members[place];
        if let Some(worker) = member.worker.take() {
            worker.kill();
        }
        member.again_before += std::mem::take(&mut member.again);
    }

    /// Starts one again that was killed, and waits until it listens.
    pub fn start_again(&mut self, place: usize) {
        let member = &mut self.members[place];
        member.worker = Some(member.setup.start_unready());
    }

    /// Waits until all of them can be asked.
    pub fn wait_until_ready(&self) {
        let is_ready = |place| self.worker(place).is_ready();
        eventually(READY_LIMIT, "the workers to be ready", || (0..self.count()).all(is_ready));
    }

    /// Stops some without ending them.
    pub fn freeze(&self, which: impl Fn(usize) -> bool) {
        self.signal(Signal::STOP, which);
    }

    /// Lets some go on.
    pub fn thaw(&self, which: impl Fn(usize) -> bool) {
        self.signal(Signal::CONT, which);
    }

    /// What is stored of some evaluations, as workers tell it over HTTP.
    ///
    /// # Panics
    /// When a worker does not answer.
    #[must_use]
    pub fn read(&self, ids: &[String]) -> BTreeMap<String, Expected> {
        let each = ids.len().div_ceil(READERS).max(1);
        let parts: Vec<_> = ids.chunks(each).zip((0..self.count()).cycle()).collect();
        std::thread::scope(|scope| {
            let readers: Vec<_> = parts
                .into_iter()
                .map(|(ids, place)| {
                    let worker = self.worker(place);
                    scope.spawn(move || read_from(worker, ids))
                })
                .collect();
            readers.into_iter().flat_map(|reader| reader.join().expect("the worker answers")).collect()
        })
    }

    /// Ends all of them as operators do.
    ///
    /// # Panics
    /// When one does not end well.
    pub fn end(&mut self) {
        self.look();
        for member in &mut self.members {
            let Some(worker) = member.worker.take() else { continue };
            let (status, log) = worker.terminate(DRAIN_LIMIT);
            assert!(status.success(), "a worker ended with {status}:\n{log}");
        }
    }

    fn signal(&self, signal: Signal, which: impl Fn(usize) -> bool) {
        for (place, member) in self.members.iter().enumerate() {
            if let Some(worker) = member.worker.as_ref().filter(|_| which(place)) {
                worker.signal(signal);
            }
        }
    }
}

fn read_from(worker: &Worker, ids: &[String]) -> BTreeMap<String, Expected> {
    let read = |id: &String| {
        let record = worker.record(id)?;
        Some((id.clone(), Expected { record, history: worker.history(id) }))
    };
    ids.iter().filter_map(read).collect()
}
