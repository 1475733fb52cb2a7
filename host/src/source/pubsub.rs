//! The source that subscribes to Redis channels.
//!
//! What Redis published while nobody listened is gone, so a lost subscription is renewed at once, and for ever; how
//! long the gaps were is measured. A subscription that is dead without a word is found by a ping. At the end it
//! unsubscribes and hands over everything that Redis had sent it by then: an event whose publisher was told of a
//! receiver is not lost by a shutdown.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Msg, RedisResult};
use tokio::runtime::{Handle, Runtime};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::overrun::{LONG_AWAY, Overruns};
use super::redis_client::{Pauses, RedisClient};
use super::standing::{Standing, Stop};
use super::{Control, Delivery, Read, Source, Status, Token, now};

/// A subscription that says nothing for so long is asked whether it is alive.
const PING_AFTER: Duration = Duration::from_secs(5);
/// At most so many deliveries, and about so many bytes, are handed over at once.
const BATCH_DELIVERIES: usize = 512;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A subscription that lived for so long was a good one: after it the first new attempt is made at once.
const STEADY_AFTER: Duration = Duration::from_secs(1);
/// A subscription that is lost so soon after nobody read it for long was most likely lost meanwhile.
const AFTERMATH: Duration = Duration::from_secs(10);

/// A subscription to channels, renewed for as long as it is read.
///
/// The connection's driver queues without a bound what the socket has. It lives on a runtime of this source that runs
/// only inside of [`Source::read`], and everything queued is taken before the driver runs again: so what waits here is
/// bounded by what one turn of the driver reads, and the rest stays with Redis.
#[derive(Debug)]
pub struct PubSub {
    /// There until this is dropped.
    runtime: Option<Runtime>,
    client: RedisClient,
    channels: HashMap<Box<[u8]>, Arc<str>>,
    subscription: Option<Subscription>,
    pauses: Pauses,
    shared: Arc<Shared>,
    /// Where it is asked why a subscription was lost.
    tasks: Handle,
    away: Away,
    ended: bool,
}

/// When nobody read.
#[derive(Debug, Default)]
struct Away {
    /// When the last read ended.
    since: Option<Instant>,
    /// The last time that this was long ago: from when, until when.
    last: Option<(Instant, Instant)>,
}

impl Away {
    fn back(&mut self) {
        let now = Instant::now();
        if let Some(since) = self.since.filter(|since| now - *since >= LONG_AWAY) {
            self.last = Some((since, now));
        }
    }

    /// When the reading stopped before a subscription was lost, if that was just now.
    fn before_loss(&mut self) -> Option<Instant> {
        let (since, until) = self.last.take()?;
        (until.elapsed() < AFTERMATH).then_some(since)
    }
}

impl PubSub {
    /// A source for these channels. Connects when it is read; why a subscription was lost is asked on `tasks`.
    ///
    /// # Errors
    /// When the operating system refuses what a runtime needs.
    pub fn new(
        client: RedisClient,
        channels: impl IntoIterator<Item = String>,
        tasks: &Handle,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let channels = channels.into_iter().map(|channel| (channel.as_bytes().into(), Arc::from(&*channel))).collect();
        let (pauses, shared) = (client.pauses(), Arc::default());
        let (tasks, away) = (tasks.clone(), Away::default());
        Ok(Self {
            runtime: Some(runtime),
            client,
            channels,
            subscription: None,
            pauses,
            shared,
            tasks,
            away,
            ended: false,
        })
    }
}

impl Drop for PubSub {
    /// Who reads it has panicked: nobody will subscribe again, and health must say so.
    fn drop(&mut self) {
        // Waits for nothing, so that a start that fails may drop it where waiting is not allowed.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
        if std::thread::panicking() {
            self.shared.standing.lost("the thread that reads it has panicked; restart the worker");
        }
    }
}

impl Source for PubSub {
    fn name(&self) -> &'static str {
        "pubsub"
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.shared) as Arc<dyn Control>
    }

    fn read(&mut self, deliveries: &mut Vec<Delivery>) -> Read {
        let mut batch = Batch { deliveries, bytes: 0, at: 0, channels: &self.channels, received: 0 };
        let reading = Reading {
            client: &self.client,
            subscription: &mut self.subscription,
            pauses: &mut self.pauses,
            shared: &self.shared,
            tasks: &self.tasks,
            away: &mut self.away,
        };
        if !self.ended {
            // Unconstrained: the turn of the driver must not come before its queue is empty.
            let runtime = self.runtime.as_ref().expect("it is there until this is dropped");
            self.ended = runtime.block_on(unconstrained(reading.fill(&mut batch)));
            self.away.since = Some(Instant::now());
            self.shared.received.fetch_add(batch.received, Ordering::Relaxed);
            if batch.received > 0 {
                return Read::Deliveries;
            }
        }
        Read::Ended
    }
}

/// A live subscription.
#[derive(Debug)]
struct Subscription {
    stream: Stream,
    sink: PubSubSink,
    ping: Ping,
    since: Instant,
}

/// The stream of messages; its own type because the crate's has no `Debug`.
struct Stream(PubSubStream);

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Stream")
    }
}

/// When and how the subscription was last asked whether it is alive.
enum Ping {
    /// It will be asked then, unless something arrives.
    At(Instant),
    /// It was asked.
    Asked(Pin<Box<dyn Future<Output = bool> + Send>>),
}

impl std::fmt::Debug for Ping {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::At(_) => "At",
            Self::Asked(_) => "Asked",
        })
    }
}

impl Ping {
    fn later() -> Self {
        Self::At(Instant::now() + PING_AFTER)
    }

    /// Comes back only when the subscription is dead.
    async fn watch(&mut self, sink: &PubSubSink, response_timeout: Duration) {
        loop {
            match self {
                Self::At(time) => {
                    sleep_until(*time).await;
                    let mut sink = sink.clone();
                    let pong = async move {
                        let pong: Result<RedisResult<redis::Value>, _> = timeout(response_timeout, sink.ping()).await;
                        matches!(pong, Ok(Ok(_)))
                    };
                    *self = Self::Asked(Box::pin(pong));
                }
                Self::Asked(pong) => {
                    let alive = pong.await;
                    *self = Self::later();
                    if !alive {
                        return;
                    }
                }
            }
        }
    }
}

/// What a read appends to.
struct Batch<'a> {
    deliveries: &'a mut Vec<Delivery>,
    channels: &'a HashMap<Box<[u8]>, Arc<str>>,
    bytes: usize,
    at: i64,
    received: u64,
}

impl Batch<'_> {
    fn push(&mut self, message: &Msg) {
        if self.received == 0 {
            self.at = now();
        }
        let name = message.get_channel_name();
        let channel = self.channels.get(name.as_bytes()).map_or_else(|| Arc::from(name), Arc::clone);
        let payload = message.get_payload_bytes().to_vec();
        self.bytes += payload.len();
        self.received += 1;
        self.deliveries.push(Delivery { channel, payload, received_at: self.at, ..Delivery::default() });
    }

    fn is_full(&self) -> bool {
        self.received >= BATCH_DELIVERIES as u64 || self.bytes >= BATCH_BYTES
    }

    /// Takes what is there already.
    fn take_ready(&mut self, stream: &mut PubSubStream) {
        while !self.is_full() {
            match stream.next().now_or_never() {
                Some(Some(message)) => self.push(&message),
                Some(None) | None => return,
            }
        }
    }
}

/// One read under way.
struct Reading<'a> {
    client: &'a RedisClient,
    subscription: &'a mut Option<Subscription>,
    pauses: &'a mut Pauses,
    shared: &'a Arc<Shared>,
    tasks: &'a Handle,
    away: &'a mut Away,
}

impl Reading<'_> {
    /// Waits until there is something, and takes it. True if nothing will follow.
    async fn fill(mut self, batch: &mut Batch<'_>) -> bool {
        self.away.back();
        let mut lost_away = None;
        // The reader may have been away for long, and the driver with it: an answer that is late proves nothing.
        if let Some(subscription) = self.subscription.as_mut() {
            subscription.ping = Ping::later();
        }
        while batch.received == 0 {
            let Some(subscription) = self.subscription.as_mut() else {
                if !self.subscribe(batch.channels).await {
                    return true;
                }
                let (shared, client, away) = (Arc::clone(self.shared), self.client.clone(), lost_away.take());
                self.tasks.spawn(async move { shared.overruns.look(&client, away).await });
                continue;
            };
            let Subscription { stream, sink, ping, .. } = subscription;
            let lost = tokio::select! {
                biased;
                () = self.shared.stop.wait() => return self.unsubscribe(batch).await,
                message = stream.0.next() => match message {
                    Some(message) => {
                        batch.push(&message);
                        batch.take_ready(&mut stream.0);
                        continue;
                    }
                    None => "the connection was closed",
                },
                () = ping.watch(sink, self.client.response_timeout()) => "a ping was not answered",
            };
            if subscription.since.elapsed() > STEADY_AFTER {
                *self.pauses = self.client.pauses();
            }
            *self.subscription = None;
            // What was published since the reading stopped may have been dropped with the buffer of the subscription.
            let stopped = self.away.before_loss();
            lost_away = stopped.map(|since| since.elapsed());
            self.shared.standing.lost_since(stopped.unwrap_or_else(Instant::now), lost);
            warn!(redis = self.client.address(), reason = lost, "subscription lost, will subscribe again");
        }
        false
    }

    /// Subscribes, however long it takes. False if asked to stop.
    async fn subscribe(&mut self, channels: &HashMap<Box<[u8]>, Arc<str>>) -> bool {
        for attempt in 1_u32.. {
            let pause = self.pauses.pause();
            let subscription = tokio::select! {
                biased;
                () = self.shared.stop.wait() => return false,
                subscription = async {
                    sleep(pause).await;
                    self.try_subscribe(channels).await
                } => subscription,
            };
            match subscription {
                Ok(subscription) => {
                    *self.subscription = Some(subscription);
                    let gap = self.shared.standing.connected();
                    let gap_seconds = gap.map(|gap| gap.as_secs_f64());
                    info!(redis = self.client.address(), channels = channels.len(), gap_seconds, "subscribed");
                    break;
                }
                Err(error) => {
                    if attempt.is_power_of_two() {
                        warn!(redis = self.client.address(), %error, attempt, "cannot subscribe, will try again");
                    }
                    self.shared.standing.failed(error);
                }
            }
        }
        true
    }

    async fn try_subscribe(&self, channels: &HashMap<Box<[u8]>, Arc<str>>) -> Result<Subscription, String> {
        let (mut sink, stream) = self.client.subscriber().await.map_err(|error| error.to_string())?.split();
        let names: Vec<&str> = channels.values().map(|channel| &**channel).collect();
        match timeout(self.client.response_timeout(), sink.subscribe(names)).await {
            Ok(Ok(())) => Ok(Subscription { stream: Stream(stream), sink, ping: Ping::later(), since: Instant::now() }),
            Ok(Err(error)) => Err(format!("redis refused to subscribe: {error}")),
            Err(_) => Err("redis did not answer to SUBSCRIBE in time".to_owned()),
        }
    }

    /// Ends the subscription. What Redis sent before its answer has arrived before its answer.
    async fn unsubscribe(&mut self, batch: &mut Batch<'_>) -> bool {
        let Some(Subscription { mut stream, mut sink, .. }) = self.subscription.take() else { return true };
        let names: Vec<&str> = batch.channels.values().map(|channel| &**channel).collect();
        if !matches!(timeout(self.client.response_timeout(), sink.unsubscribe(names)).await, Ok(Ok(()))) {
            warn!(redis = self.client.address(), "unsubscribing was not answered; what was on its way may be lost");
        }
        while let Some(Some(message)) = stream.0.next().now_or_never() {
            batch.push(&message);
        }
        self.shared.standing.lost("stopped");
        info!(redis = self.client.address(), "unsubscribed");
        true
    }
}

/// What is known of the source on other threads.
#[derive(Debug, Default)]
struct Shared {
    stop: Stop,
    received: AtomicU64,
    standing: Standing,
    overruns: Overruns,
}

impl Control for Shared {
    fn stop(&self) {
        self.stop.stop();
    }

    /// Redis forgets a published message as soon as it is sent, so there is nothing to acknowledge.
    fn acknowledge(&self, _tokens: &[Token]) {}

    fn finish(&self, _deadline: std::time::Instant) {}

    fn status(&self) -> Status {
        let (received, overruns) = (self.received.load(Ordering::Relaxed), self.overruns.count());
        Status { received, overruns, ..self.standing.status() }
    }
}
