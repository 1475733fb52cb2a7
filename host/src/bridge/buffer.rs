//! What was received and is not in the stream yet: bounded in bytes, and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::error;

use super::Copied;

/// At most so many entries, and about so many bytes, are added in one pipeline.
const PIPELINE_ENTRIES: usize = 512;
const PIPELINE_BYTES: usize = 1024 * 1024;
/// Room that an event takes beside its payload, in bytes.
const OVERHEAD_BYTES: usize = 256;

/// An event that waits to be added.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) channel: Arc<str>,
    pub(super) payload: Vec<u8>,
    pub(super) event_id: Arc<str>,
    /// In microseconds since 1970.
    pub(super) received_at: i64,
}

impl Waiting {
    pub(super) fn size(&self) -> usize {
        self.payload.len() + OVERHEAD_BYTES
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Buffer {
    limit: usize,
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Of all that is not added, what was taken from here included.
    bytes: usize,
    copied: Copied,
    closed: bool,
    /// How many were dropped when the log last told of it.
    told: u64,
}

impl Buffer {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), filled: Notify::new() }
    }

    /// Takes what fits and drops the rest. An event that is larger than the limit fits when it is alone.
    pub(super) fn push(&self, events: Vec<Waiting>) {
        let mut state = self.lock();
        for waiting in events {
            state.copied.received += 1;
            let size = waiting.size();
            if state.bytes > 0 && state.bytes + size > self.limit {
                state.copied.dropped += 1;
                continue;
            }
            state.bytes += size;
            state.copied.left += 1;
            state.waiting.push_back(waiting);
        }
        let dropped = state.copied.dropped;
        if dropped > state.told && dropped >= 2 * state.told {
            state.told = dropped;
            drop(state);
            let limit_bytes = self.limit;
            error!(
                dropped,
                limit_bytes,
                "the buffer is full, events are dropped; see why the stream takes none, or raise `--buffer`"
            );
        }
        self.filled.notify_one();
    }

    /// Waits for events and takes some; they keep their room until they are added. Empty at the end.
    pub(super) async fn take(&self) -> Vec<Waiting> {
        loop {
            {
                let mut state = self.lock();
                let mut bytes = 0;
                let mut fits = |waiting: &Waiting| {
                    bytes += waiting.size();
                    bytes <= PIPELINE_BYTES
                };
                let count = state.waiting.iter().take(PIPELINE_ENTRIES).take_while(|waiting| fits(waiting)).count();
                let count = count.max(1).min(state.waiting.len());
                if count > 0 || state.closed {
                    return state.waiting.drain(..count).collect();
                }
            }
            self.filled.notified().await;
        }
    }

    /// Says that events of these sizes are in the stream.
    pub(super) fn added(&self, sizes: &[usize]) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(sizes.iter().sum());
        state.copied.added += sizes.len() as u64;
        state.copied.left -= sizes.len() as u64;
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Nothing more will come, and everything is added.
    pub(super) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.closed && state.copied.left == 0
    }

    pub(super) fn copied(&self) -> Copied {
        self.lock().copied
    }

    /// A thread that panicked with the lock held left nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(bytes: usize) -> Waiting {
        let payload = vec![b'x'; bytes - OVERHEAD_BYTES];
        Waiting { channel: "c".into(), payload, event_id: "e".into(), received_at: 0 }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted_until_there_is_room() {
        let buffer = Buffer::new(1000);
        buffer.push(vec![waiting(600), waiting(600), waiting(400), waiting(300)]);
        assert_eq!(buffer.copied(), Copied { received: 4, added: 0, dropped: 2, left: 2 });

        let taken = buffer.take().await;
        buffer.push(vec![waiting(300)]);
        buffer.added(&[taken[0].size()]);
        buffer.push(vec![waiting(300)]);

        assert_eq!(buffer.copied(), Copied { received: 6, added: 1, dropped: 3, left: 2 });
    }

    #[tokio::test]
    async fn an_event_larger_than_the_buffer_passes_alone_and_the_end_is_empty() {
        let buffer = Buffer::new(1000);
        buffer.push(vec![waiting(5000), waiting(300)]);
        buffer.close();

        assert_eq!(buffer.take().await.len(), 1);
        assert!(buffer.take().await.is_empty());
        assert!(!buffer.is_finished());
        buffer.added(&[5000]);
        assert!(buffer.is_finished());
    }
}
