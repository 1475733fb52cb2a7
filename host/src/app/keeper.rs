//! The thread that opens storage, changes it while the worker runs, and closes it at the end.
//!
//! One thread, so that no two of these meet: a change that is asked for meanwhile waits its turn. Plugins block, and this
//! is where they may. `keeper/change.rs` is what happens when it is a change's turn.

mod change;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::oneshot;
use tracing::{error, info};

use crate::config::{Config, ConfigError, Loaded};
use crate::plugin::Loader;
use crate::storage::explain::Setting;
use crate::storage::{Carried, CloseFailure, Current, OpenError, Patience, Plan, ReloadError, Reloaded, Tree};
use crate::telemetry::metrics::Metrics;
use crate::worker::{Served, Worker};

/// Most changes that wait for their turn; more are refused.
const MOST_WAITING: usize = 8;

/// Between two attempts to open again what failed for a reason that waiting does not mend.
const PAUSE: Duration = Duration::from_secs(5);

/// How often a pause looks whether it shall end.
const STEP: Duration = Duration::from_millis(20);

/// Reads the configuration again, as the command line asked for it at the start.
pub type Reread = Box<dyn Fn() -> Result<Loaded, ConfigError> + Send>;

/// What the keeper works with.
pub(super) struct Parts {
    pub(super) worker: Arc<Worker>,
    pub(super) current: Arc<Current>,
    pub(super) metrics: Metrics,
    pub(super) loader: Loader,
    pub(super) plan: Plan,
    /// The configuration in force.
    pub(super) config: Config,
    pub(super) settings: Arc<RwLock<Vec<Setting>>>,
    pub(super) generation: u64,
    pub(super) reread: Reread,
}

/// The way to the thread.
pub(super) struct Keeper {
    requests: SyncSender<Request>,
    signs: Arc<Signs>,
    thread: Mutex<Option<JoinHandle<Vec<CloseFailure>>>>,
}

enum Request {
    Reload { force: bool, reply: oneshot::Sender<Result<Reloaded, ReloadError>> },
    End,
}

/// What the thread looks at while it waits for a backend.
#[derive(Default)]
struct Signs {
    waiting: AtomicUsize,
    /// Nothing is opened or changed any more, but for a tree that is to be opened again.
    ending: AtomicBool,
    /// What was taken is stored: storage may be closed.
    closing: AtomicBool,
}

impl Keeper {
    /// Begins to open storage. `failed` is told if that will never do.
    pub(super) fn start(parts: Parts, failed: oneshot::Sender<OpenError>) -> io::Result<Self> {
        let (sender, requests) = sync_channel(MOST_WAITING);
        let signs = Arc::new(Signs::default());
        let running = Running { parts, signs: Arc::clone(&signs), requests, tree: None, rest: None };
        let thread = thread::Builder::new().name("storage-keeper".to_owned()).spawn(move || running.run(failed))?;
        Ok(Self { requests: sender, signs, thread: Mutex::new(Some(thread)) })
    }

    /// Changes storage to what the configuration says now; waits for its turn.
    pub(super) async fn reload(&self, force: bool) -> Result<Reloaded, ReloadError> {
        let (reply, answer) = oneshot::channel();
        if self.signs.ending.load(Ordering::Relaxed) {
            return Err(ReloadError::Ending);
        }
        self.signs.waiting.fetch_add(1, Ordering::Relaxed);
        if self.requests.try_send(Request::Reload { force, reply }).is_err() {
            self.signs.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(ReloadError::TooMany);
        }
        answer.await.unwrap_or(Err(ReloadError::Ending))
    }

    /// Nothing is opened or changed any more; what is open stays so until [`Self::end`].
    pub(super) fn hold(&self) {
        self.signs.ending.store(true, Ordering::Relaxed);
    }

    /// Closes storage. Blocks; answers what went wrong.
    pub(super) fn end(&self) -> Vec<CloseFailure> {
        self.hold();
        self.signs.closing.store(true, Ordering::Relaxed);
        // Full of changes: they are refused one by one, and then the thread sees that it is to end.
        let _ = self.requests.try_send(Request::End);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Vec::new() };
        thread.join().unwrap_or_else(|_| {
            vec![CloseFailure { instance: "storage".into(), reason: "the thread that keeps it panicked".to_owned() }]
        })
    }
}

/// The thread.
struct Running {
    parts: Parts,
    signs: Arc<Signs>,
    requests: Receiver<Request>,
    tree: Option<Arc<Tree>>,
    /// What was open when a change failed half-way, and is not closed: it is carried over when the old tree is opened
    /// again.
    rest: Option<Arc<Tree>>,
}

impl Running {
    fn run(mut self, failed: oneshot::Sender<OpenError>) -> Vec<CloseFailure> {
        let mut failed = Some(failed);
        loop {
            if self.tree.is_none() && !self.is_stopping() {
                match self.open(&Self::is_interrupted) {
                    Ok(()) => failed = None,
                    Err(OpenError::Stopped) => {}
                    Err(error) => match failed.take() {
                        // A start that cannot succeed. Nobody listens if the worker is ending already.
                        Some(failed) => {
                            let _ = failed.send(error);
                            self.hold_on(&|| false);
                        }
                        None => {
                            error!(%error, "storage.not_opened_again");
                            self.parts.current.clear(format!("storage could not be opened again: {error}"));
                            self.hold_on(&|| self.is_interrupted());
                            if !self.is_interrupted() {
                                continue;
                            }
                        }
                    },
                }
            }
            match self.requests.recv() {
                Ok(Request::Reload { force, reply }) => {
                    let outcome = if self.is_ending() { Err(ReloadError::Ending) } else { self.change(force) };
                    self.signs.waiting.fetch_sub(1, Ordering::Relaxed);
                    if self.tree.is_some() {
                        failed = None;
                    }
                    // Who asked may have gone; the log has it too.
                    let _ = reply.send(outcome);
                    if self.is_closing() && self.signs.waiting.load(Ordering::Relaxed) == 0 {
                        break;
                    }
                }
                Ok(Request::End) | Err(_) => break,
            }
        }
        self.close()
    }

    /// Opens the plan in force, however long that takes.
    fn open(&mut self, stop: &dyn Fn(&Self) -> bool) -> Result<(), OpenError> {
        let Parts { plan, metrics, current, .. } = &self.parts;
        let rest = self.rest.clone();
        let carried = rest.as_deref().map_or_else(|| Carried::nothing(plan), |rest| Carried::from(rest, plan));
        let tree = plan.open_beside(&carried, Patience::Endless, metrics, Some(current), &|| stop(self))?;
        self.serve(Arc::new(tree));
        self.rest = None;
        Ok(())
    }

    /// Has the lanes call a tree from now on, and everybody find it.
    fn serve(&mut self, tree: Arc<Tree>) -> Arc<Served> {
        let Parts { worker, current, config, generation, .. } = &self.parts;
        let root = tree.root();
        let served = Served {
            backend: Arc::clone(root) as _,
            name: Arc::clone(root.instance()),
            generation: *generation,
            call_timeout: config.storage.call_timeout,
        };
        info!(
            backend = %root.instance(), durability = tree.durability().as_str(), generation = *generation,
            "storage.opened"
        );
        // Readers come first: what begins may move states to where the tree before does not look.
        current.put(Arc::clone(&tree));
        // And before the first event, which nobody else shall take any more.
        tree.begin();
        self.tree = Some(tree);
        worker.replace(served)
    }

    fn close(&mut self) -> Vec<CloseFailure> {
        self.parts.current.clear("the worker is ending");
        let open = self.tree.take().or_else(|| self.rest.take());
        open.map_or_else(Vec::new, |tree| tree.close(self.parts.config.storage.close_timeout))
    }

    fn is_ending(&self) -> bool {
        self.signs.ending.load(Ordering::Relaxed)
    }

    fn is_closing(&self) -> bool {
        self.signs.closing.load(Ordering::Relaxed)
    }

    /// Nothing is to be opened. While a hand-over is under way the drain still needs what it closed, or what follows.
    fn is_stopping(&self) -> bool {
        self.is_closing() || self.is_ending() && self.rest.is_none()
    }

    /// Waiting for a backend gives way to the end, and to a change: it may be what ends the waiting.
    fn is_interrupted(&self) -> bool {
        self.is_stopping() || self.signs.waiting.load(Ordering::Relaxed) > 0
    }

    fn hold_on(&self, stop: &dyn Fn() -> bool) {
        let end = Instant::now() + PAUSE;
        while Instant::now() < end && !stop() && !self.is_stopping() {
            thread::sleep(STEP);
        }
    }
}
