//! Publishes the lives of evaluations at a steady rate, from a thread of its own, and remembers what Redis handed on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::generate::Generator;
use crate::publisher::Publisher;
use crate::redis_server::RedisServer;
use crate::second_model::{Sent, read};

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Evaluation and event, in the order in which they were published.
    handed_on: Mutex<Vec<(String, String)>>,
    attempts: AtomicU64,
    stopped: AtomicBool,
}

impl Load {
    /// Starts to publish so many events in a second. While Redis is away it goes on trying, with new events.
    #[must_use]
    pub fn start(redis: &RedisServer, seed: u64, per_second: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let url = redis.url();
        let pace = Duration::from_secs(1) / per_second;
        let thread = std::thread::spawn(move || publish(&url, seed, pace, &for_thread));
        Self { shared, thread: Some(thread) }
    }

    /// Evaluation and event of everything that Redis said it handed to somebody.
    #[must_use]
    pub fn handed_on(&self) -> BTreeSet<(String, String)> {
        self.shared.handed_on.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// How many were published, or could not be.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.shared.attempts.load(Ordering::Acquire)
    }

    /// Publishes nothing more, and gives what was handed on.
    pub fn stop(&mut self) -> BTreeSet<(String, String)> {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load runs until it is stopped");
        }
        self.handed_on()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn publish(url: &str, seed: u64, pace: Duration, shared: &Shared) {
    let mut generator = Generator::new(seed);
    let mut waiting: Vec<Sent> = Vec::new();
    let mut publisher = None;
    let mut due = Instant::now();
    while !shared.stopped.load(Ordering::Acquire) {
        if waiting.is_empty() {
            waiting = generator.lifecycle();
        }
        let message = waiting.remove(0);
        let told = read(&message.channel, &message.payload, 0).expect("generated events are valid");
        let connected = match publisher.take() {
            Some(connected) => Some(connected),
            None => Publisher::connect(url).ok(),
        };
        if let Some(mut connected) = connected
            && let Ok(listeners) = connected.try_publish(&message)
        {
            publisher = Some(connected);
            if listeners > 0 {
                let event = (told.evaluation_id, told.event_id);
                shared.handed_on.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        }
        shared.attempts.fetch_add(1, Ordering::AcqRel);
        due += pace;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
