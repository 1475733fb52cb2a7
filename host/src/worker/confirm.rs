//! Publishes confirmations, pipelined, and acknowledges what they confirm.
//!
//! One task takes what the lanes have left and publishes it in order. Confirmations that cannot be published are kept
//! until Redis is back; beyond their bound the oldest are dropped, counted and logged. Published ones may be published
//! again after a lost connection. `settle.rs` writes their text.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, RedisError, ServerErrorKind};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::counters::Counters;
use crate::source::redis_client::{Pauses, RedisClient};
use crate::source::{Control, Token};
use crate::telemetry::metrics::Metrics;

/// At most so many confirmations, and about so many bytes, are published in one pipeline.
const PIPELINE_CONFIRMATIONS: usize = 1024;
const PIPELINE_BYTES: usize = 1024 * 1024;

/// The confirmations of one merge, in one text.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The JSON of all of them, one behind the other.
    pub(super) text: String,
    entries: Vec<Entry>,
    tokens: Vec<(usize, Token)>,
}

#[derive(Debug)]
struct Entry {
    channel: Arc<str>,
    /// Where its text ends.
    end: usize,
    /// When the event was received, and its own time, in microseconds.
    times: [i64; 2],
}

impl Chunk {
    /// Ends the confirmation whose text was appended. `token` is what its source wants to have back.
    pub(super) fn finish_entry(&mut self, channel: &Arc<str>, times: [i64; 2], token: Option<(usize, Token)>) {
        self.entries.push(Entry { channel: Arc::clone(channel), end: self.text.len(), times });
        self.tokens.extend(token);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn add_to(&self, pipeline: &mut Pipeline) {
        let mut start = 0;
        for Entry { channel, end, .. } in &self.entries {
            pipeline.cmd("PUBLISH").arg(&**channel).arg(&self.text[start..*end]);
            start = *end;
        }
    }

    /// How long each event took until now, when its confirmation is published.
    fn observe_lag(&self, metrics: &Metrics) {
        let now = crate::source::now();
        #[expect(clippy::cast_precision_loss, reason = "a lag of 2^52 microseconds is more than a century")]
        let seconds = |since: i64| now.saturating_sub(since).max(0) as f64 / 1e6;
        for Entry { times: [received_at, event_time], .. } in &self.entries {
            metrics.processing_lag_seconds.observe(seconds(*received_at));
            metrics.event_lag_seconds.observe(seconds(*event_time));
        }
    }
}

/// What waits to be published.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    freed: Condvar,
    /// Lanes wait while so many confirmations are under way and Redis takes them.
    limit: usize,
    /// So many are kept while it does not.
    kept: usize,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Chunk>,
    /// Confirmations in `chunks` and in the task's hands.
    count: usize,
    /// Those of deliveries that come again unless they are acknowledged.
    kept: usize,
    connected: bool,
    closed: bool,
    aborted: bool,
    waiting: usize,
}

impl Outbox {
    pub(super) fn new(limit: usize, kept: usize) -> Self {
        let state = State {
            chunks: VecDeque::new(),
            count: 0,
            kept: 0,
            connected: true,
            closed: false,
            aborted: false,
            waiting: 0,
        };
        Self { state: Mutex::new(state), filled: Notify::new(), freed: Condvar::new(), limit, kept }
    }

    /// Leaves confirmations to be published. Waits while the task has enough to do.
    pub(super) fn push(&self, chunk: Chunk, acknowledge: &Acknowledge, counters: &Counters) {
        let mut dropped = 0;
        let mut state = self.lock();
        while state.connected && !state.aborted && state.count >= self.limit {
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.count += chunk.len();
        state.kept += chunk.tokens.len();
        state.chunks.push_back(chunk);
        while state.count > self.kept
            && let Some(oldest) = state.chunks.pop_front()
        {
            state.count -= oldest.len();
            state.kept -= oldest.tokens.len();
            dropped += oldest.len();
            // What it confirms is persisted all the same.
            acknowledge.acknowledge(&oldest.tokens);
        }
        drop(state);
        self.filled.notify_one();
        if dropped > 0 {
            counters.confirmations_dropped(dropped);
            error!(dropped, kept = self.kept, "redis is away for too long, the oldest confirmations were dropped");
        }
    }

    /// How many confirmations are not published.
    pub(super) fn len(&self) -> usize {
        self.lock().count
    }

    /// How many confirmations are not published, and of how many of these the deliveries come again.
    pub(super) fn left(&self) -> (usize, usize) {
        let state = self.lock();
        (state.count, state.kept)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.lock().connected
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Lets nobody wait any more.
    pub(super) fn abort(&self) {
        self.lock().aborted = true;
        self.freed.notify_all();
    }

    /// Waits for confirmations and takes as many as fit into a pipeline. Empty once it is closed and empty.
    async fn take(&self) -> Vec<Chunk> {
        loop {
            {
                let mut state = self.lock();
                let mut taken = Vec::new();
                let (mut count, mut bytes) = (0, 0);
                while let Some(chunk) = state.chunks.front() {
                    count += chunk.len();
                    bytes += chunk.text.len();
                    if !taken.is_empty() && (count > PIPELINE_CONFIRMATIONS || bytes > PIPELINE_BYTES) {
                        break;
                    }
                    taken.extend(state.chunks.pop_front());
                }
                if !taken.is_empty() || state.closed {
                    return taken;
                }
            }
            self.filled.notified().await;
        }
    }

    fn published(&self, count: usize, kept: usize) {
        let mut state = self.lock();
        state.count -= count;
        state.kept -= kept;
        if state.waiting > 0 {
            self.freed.notify_all();
        }
    }

    fn set_connected(&self, connected: bool) {
        self.lock().connected = connected;
        self.freed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives tokens back to the sources they came from.
#[derive(Debug)]
pub(super) struct Acknowledge {
    /// By the index of the source.
    pub(super) sources: Vec<Arc<dyn Control>>,
}

impl Acknowledge {
    pub(super) fn acknowledge(&self, tokens: &[(usize, Token)]) {
        for run in tokens.chunk_by(|a, b| a.0 == b.0) {
            let own: Vec<Token> = run.iter().map(|(_, token)| *token).collect();
            self.sources[run[0].0].acknowledge(&own);
        }
    }
}

/// The task that publishes.
#[derive(Debug)]
pub(super) struct Confirmer {
    pub(super) client: RedisClient,
    pub(super) outbox: Arc<Outbox>,
    pub(super) acknowledge: Arc<Acknowledge>,
    pub(super) counters: Arc<Counters>,
}

impl Confirmer {
    /// Publishes until the outbox is closed and empty.
    pub(super) async fn run(self) {
        let mut link = Link { connection: None, pauses: self.client.pauses(), failures: 0 };
        // Connected before there is anything to say, so that the first confirmation does not wait for it.
        if link.connect(&self.client).await {
            info!(redis = self.client.address(), "connected for confirmations");
        }
        loop {
            let chunks = self.outbox.take().await;
            if chunks.is_empty() {
                return;
            }
            let mut pipeline = Pipeline::with_capacity(chunks.iter().map(Chunk::len).sum());
            for chunk in &chunks {
                chunk.add_to(&mut pipeline);
            }
            pipeline.ignore_errors();
            let refused = self.publish(&pipeline, &mut link).await;
            self.counters.confirmed(pipeline.len() - refused);
            let metrics = &self.counters.metrics;
            chunks.iter().for_each(|chunk| chunk.observe_lag(metrics));
            for chunk in &chunks {
                self.acknowledge.acknowledge(&chunk.tokens);
            }
            let kept = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
            self.outbox.published(pipeline.len(), kept);
        }
    }

    /// Publishes, however long it takes. Returns how many were refused for good.
    async fn publish(&self, pipeline: &Pipeline, link: &mut Link) -> usize {
        loop {
            let failure = match link.publish(&self.client, pipeline).await {
                Ok(answers) => match answers.iter().filter_map(|answer| answer.as_ref().err()).find(|e| may_pass(e)) {
                    None => {
                        link.pauses = self.client.pauses();
                        if std::mem::take(&mut link.failures) > 0 {
                            self.outbox.set_connected(true);
                            info!(redis = self.client.address(), kept = self.outbox.len(), "publishing again");
                        }
                        return self.count_refused(&answers);
                    }
                    Some(error) => error.to_string(),
                },
                Err(error) => {
                    link.connection = None;
                    error
                }
            };
            link.failures += 1;
            self.outbox.set_connected(false);
            if link.failures.is_power_of_two() {
                let (redis, kept) = (self.client.address(), self.outbox.len());
                warn!(redis, error = failure, kept, "cannot publish confirmations, they are kept until it is back");
            }
            sleep(link.pauses.pause()).await;
        }
    }

    fn count_refused(&self, answers: &[Result<i64, RedisError>]) -> usize {
        let mut refused = answers.iter().filter_map(|answer| answer.as_ref().err());
        let Some(first) = refused.next() else { return 0 };
        let count = 1 + refused.count();
        self.counters.confirmations_dropped(count);
        error!(dropped = count, error = %first, "redis refused confirmations; let the worker's user PUBLISH on their channels");
        count
    }
}

/// Whether a refusal of one command is for a time: all are but a missing right, and what redis calls a plain error.
fn may_pass(error: &RedisError) -> bool {
    let is_for_good =
        matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError));
    !is_for_good
}

/// The connection, made when it is needed.
struct Link {
    connection: Option<MultiplexedConnection>,
    pauses: Pauses,
    failures: u64,
}

impl Link {
    async fn connect(&mut self, client: &RedisClient) -> bool {
        self.connection = client.connection().await.ok();
        self.connection.is_some()
    }

    async fn publish(
        &mut self,
        client: &RedisClient,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<i64, RedisError>>, String> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let connection = client.connection().await.map_err(|error| error.to_string())?;
                self.connection.insert(connection)
            }
        };
        pipeline.query_async(connection).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(texts: &[&str]) -> Chunk {
        let mut chunk = Chunk::default();
        for text in texts {
            chunk.text.push_str(text);
            chunk.finish_entry(&Arc::from("channel"), [0; 2], None);
        }
        chunk
    }

    #[test]
    fn what_redis_does_not_take_is_kept_up_to_its_bound_and_the_oldest_go_first() {
        let (outbox, counters) = (Outbox::new(2, 3), Counters::default());
        let acknowledge = Acknowledge { sources: Vec::new() };
        outbox.set_connected(false);

        for text in ["a", "b", "c", "d"] {
            outbox.push(chunk(&[text]), &acknowledge, &counters);
        }

        assert_eq!((outbox.len(), counters.confirmations_dropped.get()), (3, 1));
        assert_eq!(outbox.lock().chunks.front().map(|chunk| chunk.text.as_str()), Some("b"));
    }

    #[tokio::test]
    async fn a_pipeline_takes_what_is_there_in_order() {
        let (outbox, counters) = (Outbox::new(10_000, 10_000), Counters::default());
        let acknowledge = Acknowledge { sources: Vec::new() };
        for text in ["a", "b"] {
            outbox.push(chunk(&[text, text]), &acknowledge, &counters);
        }
        let large = "x".repeat(PIPELINE_BYTES);
        outbox.push(chunk(&[&large]), &acknowledge, &counters);

        let texts = |chunks: Vec<Chunk>| chunks.into_iter().map(|chunk| chunk.text).collect::<Vec<_>>();
        assert_eq!(texts(outbox.take().await), ["aa", "bb"]);
        assert_eq!(texts(outbox.take().await), [large]);
        outbox.close();
        assert!(outbox.take().await.is_empty());
    }
}
