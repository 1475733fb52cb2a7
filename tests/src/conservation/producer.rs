//! The producer of a run: adds events to the stream from a thread of its own, again and again until Redis says that it
//! has them, and remembers all of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::mixture::Mixture;
use crate::second_model::Sent;
use crate::streams::Stream;
use crate::wait::eventually;

/// Events of one round trip.
const PIPELINE: usize = 64;
/// How long Redis may be away.
const LIMIT: Duration = Duration::from_secs(120);

/// A running producer. It adds nothing but what it is asked for.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    goal: AtomicUsize,
    added: Mutex<Vec<Sent>>,
    stopped: AtomicBool,
}

impl Producer {
    /// Starts it; the events follow from the seed.
    #[must_use]
    pub fn start(redis_url: &str, stream: &str, seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let (url, key) = (redis_url.to_owned(), stream.to_owned());
        let thread = std::thread::spawn(move || produce(&url, &key, seed, &for_thread));
        Self { shared, thread: Some(thread) }
    }

    /// Asks for so many more events, and does not wait for them.
    pub fn ask_for(&self, events: usize) {
        self.shared.goal.fetch_add(events, Ordering::AcqRel);
    }

    /// How many events were added.
    #[must_use]
    pub fn added(&self) -> usize {
        self.shared.lock().len()
    }

    /// Whether everything that was asked for is added.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.added() >= self.shared.goal.load(Ordering::Acquire)
    }

    /// Waits until everything that was asked for is added.
    #[track_caller]
    pub fn wait(&self) {
        eventually(LIMIT, "the producer to have added its events", || self.is_idle());
    }

    /// Ends it, and gives everything that Redis said it has.
    ///
    /// # Panics
    /// When the producer panicked.
    #[must_use]
    pub fn stop(mut self) -> Vec<Sent> {
        self.shared.stopped.store(true, Ordering::Release);
        self.thread.take().expect("it is stopped once").join().expect("the producer runs until it is stopped");
        std::mem::take(&mut self.shared.lock())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sent>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn produce(url: &str, key: &str, seed: u64, shared: &Shared) {
    let mut mixture = Mixture::new(seed);
    let mut stream = None;
    let mut chunk: Vec<Sent> = Vec::new();
    while !shared.stopped.load(Ordering::Acquire) {
        let wanted = shared.goal.load(Ordering::Acquire).saturating_sub(shared.lock().len());
        if chunk.is_empty() {
            chunk.extend(mixture.by_ref().take(wanted.min(PIPELINE)));
        }
        // Whoever got no answer does not know what was added, and adds all of it again.
        let is_added = !chunk.is_empty() && {
            let connected = stream.take().or_else(|| Stream::connect(url, key).ok());
            connected.is_some_and(|mut connected| {
                let is_added = connected.try_add(&chunk).is_ok();
                stream = is_added.then_some(connected);
                is_added
            })
        };
        match is_added {
            true => shared.lock().append(&mut chunk),
            false => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
