//! Copies what is published on channels into a stream, so that events are kept before their producers change a line.
//!
//! Each event goes with its id and the time of its arrival: whichever way it comes to a worker, and however many bridges
//! copy it, it is the same event, and storing it again changes nothing. What Redis does not take waits in a buffer that
//! is bounded; beyond it events are dropped, counted and named in the log, while reading goes on.

mod buffer;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError};
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tracing::{info, warn};

use self::buffer::{Buffer, Waiting};
use crate::event::decode::Arrival;
use crate::event::identity::identify;
use crate::event::row::EventRows;
use crate::source::pubsub::PubSub;
use crate::source::redis_client::{Pauses, RedisClient};
use crate::source::streams::{EntryForm, advice};
use crate::source::{Control, Delivery, Read, Source};

/// How often the log says how much was copied.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// What is copied, and where to.
#[derive(Debug)]
pub struct Plan {
    /// The channels.
    pub channels: Vec<String>,
    /// What the events of a channel mean, as far as is known; their times are found by it.
    pub rows: EventRows,
    /// The key of the stream.
    pub stream: String,
    /// How its entries look.
    pub form: EntryForm,
    /// About how many entries it keeps; none for all.
    pub max_entries: Option<u64>,
    /// About how many bytes may wait for Redis to take them.
    pub buffer_bytes: usize,
    /// How long what was received may take to be added at the end.
    pub drain_timeout: Duration,
}

/// What became of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Those that were received.
    pub received: u64,
    /// Those that are in the stream.
    pub added: u64,
    /// Those that were dropped, since the buffer was full.
    pub dropped: u64,
    /// Those that were received and not added when it ended.
    pub left: u64,
}

/// Copies until `told_to_end` comes back, then adds what was received by then.
///
/// # Errors
/// When the operating system refuses what reading needs, and when reading ends by itself, which is a defect.
pub async fn run(plan: Plan, client: RedisClient, told_to_end: impl Future<Output = ()>) -> io::Result<Copied> {
    let source = PubSub::new(client.clone(), plan.channels.iter().cloned(), &Handle::current())?;
    copy(Box::new(source), plan, client, told_to_end).await
}

async fn copy(
    source: Box<dyn Source>,
    plan: Plan,
    client: RedisClient,
    told_to_end: impl Future<Output = ()>,
) -> io::Result<Copied> {
    let control = source.control();
    let buffer = Arc::new(Buffer::new(plan.buffer_bytes));
    let reader = Reader { rows: plan.rows, buffer: Arc::clone(&buffer) };
    // It ends by itself once the control is told to stop.
    let reading = thread::Builder::new().name("bridge-reader".to_owned()).spawn(move || reader.run(source))?;
    let adder = Adder {
        buffer: Arc::clone(&buffer),
        pauses: client.pauses(),
        client,
        link: None,
        stream: plan.stream,
        form: plan.form,
        max_entries: plan.max_entries,
        failures: 0,
    };
    let mut adding = std::pin::pin!(adder.run());
    let mut reports = interval(REPORT_EVERY);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reports.reset();
    let mut told_to_end = std::pin::pin!(told_to_end);
    loop {
        tokio::select! {
            () = &mut told_to_end => break,
            // The reader has ended unasked.
            () = &mut adding => {
                report(&buffer, &*control, "bridge.copied");
                return Err(io::Error::other("the thread that reads them has ended by itself, see the log"));
            }
            _ = reports.tick() => report(&buffer, &*control, "bridge.copied"),
        }
    }
    control.stop();
    let in_time = buffer.is_finished() || timeout_at(Instant::now() + plan.drain_timeout, adding).await.is_ok();
    report(&buffer, &*control, if in_time { "bridge.drained" } else { "bridge.not_drained" });
    // In time means that it is at its end, at least.
    if in_time && reading.join().is_err() {
        return Err(io::Error::other("the thread that reads them has panicked, see the log"));
    }
    Ok(buffer.copied())
}

fn report(buffer: &Buffer, control: &dyn Control, message: &'static str) {
    let Copied { received, added, dropped, left } = buffer.copied();
    let status = control.status();
    let (connections, gap_seconds) = (status.connections, status.disconnected.as_secs_f64());
    info!(received, added, dropped, waiting = left, connections, gap_seconds, "{message}");
}

/// The thread that reads the channels.
struct Reader {
    rows: EventRows,
    buffer: Arc<Buffer>,
}

impl Reader {
    fn run(self, mut source: Box<dyn Source>) {
        let mut deliveries = Vec::new();
        while source.read(&mut deliveries) == Read::Deliveries {
            let waiting = deliveries.drain(..).map(|delivery| self.waiting(delivery));
            self.buffer.push(waiting.collect());
        }
    }

    fn waiting(&self, delivery: Delivery) -> Waiting {
        let Delivery { channel, payload, received_at, .. } = delivery;
        let row = self.rows.get(&channel);
        let arrival = Arrival { received_at, entry_time: None, event_id: None };
        let event_id = identify(&channel, row, &payload, arrival).event_id;
        Waiting { channel, payload, event_id, received_at }
    }
}

impl Drop for Reader {
    /// At its end, and when it panics: nothing more will come.
    fn drop(&mut self) {
        self.buffer.close();
    }
}

/// The task that adds to the stream.
struct Adder {
    buffer: Arc<Buffer>,
    client: RedisClient,
    link: Option<MultiplexedConnection>,
    pauses: Pauses,
    stream: String,
    form: EntryForm,
    max_entries: Option<u64>,
    failures: u64,
}

impl Adder {
    /// Adds until nothing more comes, however long Redis takes.
    async fn run(mut self) {
        loop {
            let mut batch = self.buffer.take().await;
            if batch.is_empty() {
                return;
            }
            while !batch.is_empty() {
                let failure = match self.add(&batch).await {
                    Ok(answers) => self.settle(&mut batch, &answers),
                    Err(failure) => {
                        self.link = None;
                        Some(failure)
                    }
                };
                match failure {
                    None => self.recovered(),
                    Some(failure) => self.pause(&failure, batch.len()).await,
                }
            }
        }
    }

    async fn add(&mut self, batch: &[Waiting]) -> Result<Vec<Result<redis::Value, RedisError>>, String> {
        let link = match &mut self.link {
            Some(link) => link,
            None => {
                let link = self.client.connection_to(&self.stream, Duration::ZERO).await;
                self.link.insert(link.map_err(|error| error.to_string())?)
            }
        };
        let mut pipeline = Pipeline::with_capacity(batch.len());
        for Waiting { channel, payload, event_id, received_at } in batch {
            let carried = Some((&**event_id, *received_at));
            pipeline.add_command(self.form.add(&self.stream, self.max_entries, channel, payload, carried));
        }
        pipeline.ignore_errors();
        pipeline.query_async(link).await.map_err(|error: RedisError| error.to_string())
    }

    /// Leaves in the batch what was not added, and says why.
    fn settle(&self, batch: &mut Vec<Waiting>, answers: &[Result<redis::Value, RedisError>]) -> Option<String> {
        let failure = answers.iter().find_map(|answer| answer.as_ref().err());
        let mut answers = answers.iter();
        let mut added = Vec::with_capacity(batch.len());
        batch.retain_mut(|waiting| {
            let is_added = answers.next().is_some_and(Result::is_ok);
            if is_added {
                added.push(waiting.size());
            }
            !is_added
        });
        self.buffer.added(&added);
        failure.map(|error| format!("{error}{}", advice(error)))
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.pauses = self.client.pauses();
            info!(stream = self.stream, redis = self.client.address(), "adding to the stream again");
        }
    }

    async fn pause(&mut self, failure: &str, batch: usize) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let (stream, redis, attempt) = (&self.stream, self.client.address(), self.failures);
            let waiting = self.buffer.copied().left;
            warn!(stream, redis, error = failure, batch, waiting, attempt, "cannot add to the stream, will try again");
        }
        // The stream may live elsewhere by now.
        self.link = None;
        sleep(self.pauses.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::config::{RedisConfig, StreamsConfig};
    use crate::source::fed::Fed;

    /// Channels that cannot be read.
    struct Broken(Fed);

    impl Source for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }

        fn control(&self) -> Arc<dyn Control> {
            self.0.control()
        }

        fn read(&mut self, _deliveries: &mut Vec<Delivery>) -> Read {
            panic!("this is what is tested");
        }
    }

    /// It used to end as if it had been told to, and had copied everything.
    #[tokio::test]
    async fn a_reader_that_panics_is_an_error() {
        let plan = Plan {
            channels: Vec::new(),
            rows: EventRows::default(),
            stream: "s".to_owned(),
            form: EntryForm::new(&StreamsConfig::default()),
            max_entries: None,
            buffer_bytes: 1024,
            drain_timeout: Duration::from_secs(1),
        };
        let client = RedisClient::new(&RedisConfig::default()).expect("the default is a URL");

        let copied = copy(Box::new(Broken(Fed::default())), plan, client, std::future::pending()).await;

        let error = copied.expect_err("it has panicked").to_string();
        assert!(error.contains("ended by itself"), "{error}");
    }
}
