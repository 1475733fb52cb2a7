//! Publishes the lives of evaluations at a steady rate, from a thread of its own, and remembers what Redis handed on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::generate::Generator;
use crate::publisher::Publisher;
use crate::redis_server::RedisServer;
use crate::second_model::{Sent, read};

/// At most so many go to Redis in one round trip.
const MOST_AT_ONCE: usize = 64;

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
    let mut waiting: VecDeque<Sent> = VecDeque::new();
    let mut publisher = None;
    let mut due = Instant::now();
    while !shared.stopped.load(Ordering::Acquire) {
        // On a busy machine several are due by now: they go together, so that the rate is kept.
        let mut messages = Vec::new();
        while messages.len() < MOST_AT_ONCE && due <= Instant::now() {
            if waiting.is_empty() {
                waiting.extend(generator.lifecycle());
            }
            messages.extend(waiting.pop_front());
            due += pace;
        }
        let connected = match publisher.take() {
            Some(connected) => Some(connected),
            None => Publisher::connect(url).ok(),
        };
        if let Some(mut connected) = connected
            && let Ok(listeners) = connected.try_publish_all(&messages)
        {
            publisher = Some(connected);
            let mut handed_on = shared.handed_on.lock().unwrap_or_else(PoisonError::into_inner);
            for (message, _) in messages.iter().zip(listeners).filter(|(_, listeners)| *listeners > 0) {
                let told = read(&message.channel, &message.payload, 0).expect("generated events are valid");
                handed_on.push((told.evaluation_id, told.event_id));
            }
        }
        shared.attempts.fetch_add(messages.len() as u64, Ordering::AcqRel);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
