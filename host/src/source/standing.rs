//! Whether deliveries can arrive, how long they could not, and the wish to stop: what every source shares with other
//! threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Status;

/// The state of a source's connection, and the gaps so far.
#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<Connection>);

#[derive(Debug, Default)]
struct Connection {
    connected: bool,
    connections: u64,
    lost_at: Option<Instant>,
    gaps: Duration,
    last_error: Option<String>,
}

impl Standing {
    /// Returns how long the gap was that this ends; none for the first connection.
    pub(super) fn connected(&self) -> Option<Duration> {
        let mut connection = self.lock();
        let gap = connection.lost_at.take().map(|lost_at| lost_at.elapsed());
        connection.gaps += gap.unwrap_or_default();
        connection.connected = true;
        connection.connections += 1;
        connection.last_error = None;
        gap
    }

    /// Nothing can arrive from now on.
    pub(super) fn lost(&self, reason: &str) {
        self.lost_since(Instant::now(), reason);
    }

    /// Nothing could arrive since then.
    pub(super) fn lost_since(&self, since: Instant, reason: &str) {
        let mut connection = self.lock();
        connection.connected = false;
        connection.lost_at = Some(since);
        connection.last_error = Some(reason.to_owned());
    }

    /// An attempt to connect failed.
    pub(super) fn failed(&self, error: String) {
        self.lock().last_error = Some(error);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.lock().connected
    }

    /// The part of a status that this knows.
    pub(super) fn status(&self) -> Status {
        let connection = self.lock();
        Status {
            connected: connection.connected,
            connections: connection.connections,
            disconnected: connection.gaps + connection.lost_at.map(|at| at.elapsed()).unwrap_or_default(),
            last_error: connection.last_error.clone(),
            ..Status::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wish to stop that stays.
#[derive(Debug, Default)]
pub(super) struct Stop {
    asked: AtomicBool,
    notify: Notify,
}

impl Stop {
    pub(super) fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Comes back once it was asked for. Only one may wait.
    pub(super) async fn wait(&self) {
        while !self.is_asked() {
            self.notify.notified().await;
        }
    }
}
