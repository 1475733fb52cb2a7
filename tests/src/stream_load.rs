//! Adds the events of evaluations to a stream at a steady rate, from a thread of its own, and keeps what it added.
//!
//! Many evaluations are under way at once, so that what happens to storage meanwhile happens in the midst of their lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::generate::Generator;
use crate::redis_server::RedisServer;
use crate::second_model::Sent;
use crate::streams::Stream;

/// Events are added so many times in a second, each time some.
const STEPS: u32 = 100;

/// A running load.
#[derive(Debug)]
pub struct StreamLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    added: Mutex<Vec<Sent>>,
    stopped: AtomicBool,
}

impl StreamLoad {
    /// Starts to add so many events in a second, of as many evaluations at once.
    ///
    /// # Panics
    /// When Redis does not answer.
    #[must_use]
    pub fn start(redis: &RedisServer, key: &str, seed: u64, per_second: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let stream = Stream::new(redis, key);
        let thread = std::thread::spawn(move || add(stream, seed, per_second, &for_thread));
        Self { shared, thread: Some(thread) }
    }

    /// How many were added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.lock().len()
    }

    /// Adds nothing more, and gives everything that was added.
    ///
    /// # Panics
    /// When Redis did not take an event.
    pub fn stop(mut self) -> Vec<Sent> {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("Redis takes every event");
        }
        std::mem::take(&mut self.shared.lock())
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sent>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamLoad {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn add(mut stream: Stream, seed: u64, per_second: u32, shared: &Shared) {
    let mut generator = Generator::new(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    // What is still to be told of each evaluation that is under way, the next event last.
    let mut lives: Vec<Vec<Sent>> = Vec::new();
    let (start, mut added) = (Instant::now(), 0_u64);
    let mut steps = 0;
    while !shared.stopped.load(Ordering::Acquire) {
        steps += 1;
        let due = u64::from(per_second) * steps / u64::from(STEPS);
        let mut batch = Vec::new();
        while added < due {
            if lives.len() < per_second as usize {
                let mut life = generator.any_set();
                life.reverse();
                lives.push(life);
            }
            let index = random.usize(..lives.len());
            match lives[index].pop() {
                Some(event) => {
                    batch.push(event);
                    added += 1;
                }
                None => drop(lives.swap_remove(index)),
            }
        }
        stream.add(&batch);
        shared.lock().extend(batch);
        let next = start + Duration::from_secs(1) * u32::try_from(steps).unwrap_or(u32::MAX) / STEPS;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
