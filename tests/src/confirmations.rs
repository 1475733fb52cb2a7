//! Listens to what the worker confirms.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::{Client, PubSub, RedisResult};
use serde_json::Value;

use crate::redis_server::RedisServer;
use crate::wait::eventually;

/// One confirmation.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// The channel that it was published on.
    pub channel: String,
    /// When it was received here.
    pub received_at: Instant,
    /// Its JSON.
    pub body: Value,
}

impl Confirmation {
    /// A text of its JSON, empty where there is none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.body[key].as_str().unwrap_or_default()
    }

    /// The evaluation and event that it is about.
    #[must_use]
    pub fn about(&self) -> (String, String) {
        (self.text("eval_id").to_owned(), self.text("event_id").to_owned())
    }
}

/// A listener to `storage:*`, on a thread of its own. Subscribes again when the connection is lost.
#[derive(Debug)]
pub struct Confirmations {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Vec<Confirmation>>,
    subscriptions: AtomicU64,
    stopped: AtomicBool,
}

impl Confirmations {
    /// Listens, from before this returns.
    #[must_use]
    pub fn listen(redis: &RedisServer) -> Self {
        let client = Client::open(redis.url()).expect("a Redis URL");
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || listen(&client, &for_thread));
        let confirmations = Self { shared, thread: Some(thread) };
        confirmations.wait_for_subscription(1);
        confirmations
    }

    /// How many times it has subscribed so far.
    #[must_use]
    pub fn subscriptions(&self) -> u64 {
        self.shared.subscriptions.load(Ordering::Acquire)
    }

    /// Waits until it has subscribed so many times in all.
    pub fn wait_for_subscription(&self, count: u64) {
        eventually(Duration::from_secs(30), "the listener to subscribe", || self.subscriptions() >= count);
    }

    /// How many were received.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Everything received so far.
    #[must_use]
    pub fn received(&self) -> Vec<Confirmation> {
        self.lock().clone()
    }

    /// Forgets what was received, and gives it.
    pub fn take(&self) -> Vec<Confirmation> {
        std::mem::take(&mut self.lock())
    }

    /// Which events of which evaluations were confirmed.
    #[must_use]
    pub fn events(&self) -> BTreeSet<(String, String)> {
        self.lock().iter().map(Confirmation::about).collect()
    }

    /// Waits until so many were received since the last `take`, and gives them.
    ///
    /// # Panics
    /// When fewer come within the limit.
    #[track_caller]
    pub fn wait_for(&self, count: usize, limit: Duration) -> Vec<Confirmation> {
        let start = Instant::now();
        while self.count() < count {
            assert!(start.elapsed() < limit, "{} of {count} confirmations within {limit:?}", self.count());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.received()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Confirmation>> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Confirmations {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It panicked only if a confirmation was no JSON, and that is worth failing for.
            let outcome = thread.join();
            assert!(outcome.is_ok() || std::thread::panicking(), "a confirmation could not be read");
        }
    }
}

fn listen(client: &Client, shared: &Shared) {
    while !shared.stopped.load(Ordering::Acquire) {
        // A lost connection, or a server that is away: try again, quickly, for the length of a test.
        if listen_once(client, shared).is_err() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn listen_once(client: &Client, shared: &Shared) -> RedisResult<()> {
    let mut connection = client.get_connection()?;
    let mut subscription = connection.as_pubsub();
    subscription.psubscribe("storage:*")?;
    subscription.set_read_timeout(Some(Duration::from_millis(50)))?;
    shared.subscriptions.fetch_add(1, Ordering::AcqRel);
    while !shared.stopped.load(Ordering::Acquire) {
        if let Some(confirmation) = next(&mut subscription)? {
            shared.received.lock().unwrap_or_else(PoisonError::into_inner).push(confirmation);
        }
    }
    Ok(())
}

/// The next confirmation, or none if there was none for a while.
fn next(subscription: &mut PubSub<'_>) -> RedisResult<Option<Confirmation>> {
    let message = match subscription.get_message() {
        Ok(message) => message,
        Err(error) if error.is_timeout() || is_interrupted(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let payload: Vec<u8> = message.get_payload()?;
    Ok(Some(Confirmation {
        channel: message.get_channel_name().to_owned(),
        received_at: Instant::now(),
        body: serde_json::from_slice(&payload).expect("a confirmation is JSON"),
    }))
}

fn is_interrupted(error: &redis::RedisError) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|io| io.kind() == ErrorKind::Interrupted)
}
