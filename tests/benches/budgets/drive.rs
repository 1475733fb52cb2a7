//! Publishes traffic and takes the confirmations, with as little work as can be: whatever this costs, the measured side
//! lacks on a small machine. So it speaks the protocol of Redis itself, and looks for one number in a confirmation.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use storage_worker_tests::redis_server::RedisServer;

use crate::traffic::{Feed, ID_PREFIX, Traffic};

/// At most so many events are under way: published and not confirmed. Their bytes fit into what Redis and the kernel
/// keep for a subscriber, so nothing is lost, and both sides always have enough to do.
const WINDOW: u64 = 4096;

/// Events that are published in one write.
const CHUNK: u64 = 64;

/// After so long without a confirmation something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// A publisher and a listener to the confirmations, each on its own connection.
#[derive(Debug)]
pub(crate) struct Driver {
    feed: Feed,
    publisher: TcpStream,
    listener: Listener,
}

impl Driver {
    /// Connects and subscribes.
    pub(crate) fn connect(redis: &RedisServer, feed: Feed) -> Self {
        Self {
            feed,
            publisher: connect(redis),
            listener: Listener::subscribe(redis, &["storage:evaluation:created", "storage:evaluation:updated"]),
        }
    }

    /// Publishes so many events as fast as they are confirmed, and gives the time from the first to the last
    /// confirmation. Every event is confirmed, or this does not come back.
    pub(crate) fn saturate(&mut self, traffic: Traffic, events: u64) -> Duration {
        let confirmed = AtomicU64::new(0);
        let Self { feed, publisher, listener } = self;
        let start = Instant::now();
        let publishing = thread::current();
        thread::scope(|scope| {
            let listening = scope.spawn(|| listener.take(traffic, events, &confirmed, &publishing, |_, _| {}));
            let mut publishing = Publishing::new(*feed, publisher, traffic);
            let mut sent = 0;
            while sent < events {
                let next = CHUNK.min(events - sent);
                while sent + next > confirmed.load(Ordering::Acquire) + WINDOW {
                    thread::park_timeout(PATIENCE);
                    assert!(!listening.is_finished(), "the confirmations ended before the events");
                }
                publishing.publish(sent..sent + next);
                sent += next;
            }
            publishing.finish();
            listening.join().expect("every event is confirmed")
        });
        start.elapsed()
    }

    /// Publishes so many events at a steady rate, and gives for each how long after its intended time it was confirmed.
    pub(crate) fn pace(&mut self, traffic: Traffic, events: u64, per_second: u64) -> Vec<Duration> {
        let confirmed = AtomicU64::new(0);
        let Self { feed, publisher, listener } = self;
        let start = Instant::now() + Duration::from_millis(20);
        let due = |number: u64| start + Duration::from_nanos(number * 1_000_000_000 / per_second);
        let mut latencies = Vec::with_capacity(events as usize);
        thread::scope(|scope| {
            let publishing = thread::current();
            let latencies = &mut latencies;
            let confirmed = &confirmed;
            let listening = scope.spawn(move || {
                listener.take(traffic, events, confirmed, &publishing, |number, at| {
                    latencies.push(at.saturating_duration_since(due(number)));
                });
            });
            let mut publishing = Publishing::new(*feed, publisher, traffic);
            let mut sent = 0;
            while sent < events {
                thread::sleep(due(sent).saturating_duration_since(Instant::now()));
                let now = Instant::now();
                let mut next = sent;
                while next < events && due(next) <= now {
                    next += 1;
                }
                publishing.publish(sent..next);
                sent = next;
            }
            publishing.finish();
            listening.join().expect("every event is confirmed");
        });
        latencies
    }
}

/// How many events in a second the publisher alone can send to a subscriber that only reads.
pub(crate) fn publisher_alone(redis: &RedisServer, traffic: Traffic, events: u64) -> f64 {
    let mut publisher = connect(redis);
    let mut subscriber = Listener::subscribe(redis, &crate::traffic::CHANNELS);
    let read = AtomicU64::new(0);
    let start = Instant::now();
    let publishing = thread::current();
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut count = 0;
            while count < events {
                subscriber.fill();
                while subscriber.next_message().is_some() {
                    count += 1;
                }
                read.store(count, Ordering::Release);
                publishing.unpark();
            }
        });
        let mut publishing = Publishing::new(Feed::PubSub, &mut publisher, traffic);
        for sent in (0..events).step_by(CHUNK as usize) {
            while sent + CHUNK > read.load(Ordering::Acquire) + WINDOW {
                thread::park_timeout(PATIENCE);
                assert!(!reading.is_finished(), "the subscriber ended before the events");
            }
            publishing.publish(sent..events.min(sent + CHUNK));
        }
        publishing.finish();
    });
    events as f64 / start.elapsed().as_secs_f64()
}

fn connect(redis: &RedisServer) -> TcpStream {
    let connection = TcpStream::connect(("127.0.0.1", redis.port())).expect("connect to Redis");
    connection.set_nodelay(true).expect("set TCP_NODELAY");
    connection.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
    connection
}

/// Publishes with at most two writes that were not answered.
struct Publishing<'a> {
    feed: Feed,
    connection: &'a mut TcpStream,
    traffic: Traffic,
    payload: String,
    commands: Vec<u8>,
    /// Lines of answers that are still to come.
    unanswered: u64,
}

impl<'a> Publishing<'a> {
    fn new(feed: Feed, connection: &'a mut TcpStream, traffic: Traffic) -> Self {
        Self { feed, connection, traffic, payload: String::new(), commands: Vec::new(), unanswered: 0 }
    }

    fn publish(&mut self, numbers: std::ops::Range<u64>) {
        self.commands.clear();
        let count = numbers.end - numbers.start;
        for number in numbers {
            self.traffic.push_command(self.feed, number, &mut self.payload, &mut self.commands);
        }
        self.connection.write_all(&self.commands).expect("publish");
        self.unanswered += count * self.lines();
        if self.unanswered > 2 * CHUNK * self.lines() {
            self.take_answers(CHUNK * self.lines());
        }
    }

    fn finish(&mut self) {
        self.take_answers(0);
    }

    /// How many lines an answer has: the number of subscribers as `:1`, the id of an entry behind its length.
    fn lines(&self) -> u64 {
        match self.feed {
            Feed::PubSub => 1,
            Feed::Stream => 2,
        }
    }

    /// Reads answers until at most so many lines are outstanding.
    fn take_answers(&mut self, outstanding: u64) {
        let mut buffer = [0; 4096];
        while self.unanswered > outstanding {
            let read = self.connection.read(&mut buffer).expect("Redis answers");
            let answers = &buffer[..read];
            let is_well = match self.feed {
                Feed::PubSub => !answers.contains(&b'0') && !answers.contains(&b'-'),
                Feed::Stream => !answers.contains(&b'E'),
            };
            assert!(read > 0 && is_well, "nobody listens, or Redis is away");
            self.unanswered -= answers.iter().filter(|&&byte| byte == b'\n').count() as u64;
        }
    }
}

/// A subscription.
#[derive(Debug)]
struct Listener {
    connection: TcpStream,
    buffer: Vec<u8>,
    /// What was read and not looked at yet.
    start: usize,
    end: usize,
}

impl Listener {
    fn subscribe(redis: &RedisServer, channels: &[&str]) -> Self {
        let mut listener = Self { connection: connect(redis), buffer: vec![0; 1 << 20], start: 0, end: 0 };
        for channel in channels {
            let command = format!("SUBSCRIBE {channel}\r\n");
            listener.connection.write_all(command.as_bytes()).expect("subscribe");
            // The last line of the answer is the number of subscriptions.
            while !listener.buffer[..listener.end].strip_suffix(b"\r\n").is_some_and(|answer| {
                answer.rsplit(|&byte| byte == b'\n').next().is_some_and(|line| line.starts_with(b":"))
            }) {
                listener.fill();
            }
            (listener.start, listener.end) = (0, 0);
        }
        listener
    }

    /// Takes the confirmations of so many events.
    fn take(
        &mut self,
        traffic: Traffic,
        events: u64,
        confirmed: &AtomicU64,
        publisher: &Thread,
        mut on_confirmed: impl FnMut(u64, Instant),
    ) {
        let mut nth = vec![0_u8; traffic.evaluations(events) as usize];
        let mut count = 0;
        while count < events {
            self.fill();
            let now = Instant::now();
            while let Some(message) = self.next_message() {
                let id = evaluation_of(message);
                // Confirmations of what was published before may still come.
                let Some(place) = id.checked_sub(traffic.first).and_then(|place| nth.get_mut(place as usize)) else {
                    continue;
                };
                let number = traffic.number_of(id, u64::from(*place)).filter(|number| *number < events);
                let number = number.unwrap_or_else(|| panic!("evaluation {id:08x} was confirmed too often"));
                *place += 1;
                count += 1;
                on_confirmed(number, now);
            }
            confirmed.store(count, Ordering::Release);
            publisher.unpark();
        }
    }

    fn fill(&mut self) {
        if self.start > self.buffer.len() / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let read = self.connection.read(&mut self.buffer[self.end..]);
        let read = read.unwrap_or_else(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => panic!("no confirmation for {PATIENCE:?}; events are lost"),
            _ => panic!("the connection to Redis: {error}"),
        });
        assert!(read > 0, "Redis closed the connection");
        self.end += read;
    }

    /// The payload of the next message, if it was read whole.
    fn next_message(&mut self) -> Option<&[u8]> {
        let bytes = &self.buffer[self.start..self.end];
        let mut rest = bytes.strip_prefix(b"*3\r\n")?;
        let mut last: &[u8] = &[];
        for _ in 0..3 {
            let line_end = rest.iter().position(|&byte| byte == b'\r')?;
            let length = std::str::from_utf8(&rest[1..line_end]).ok()?.parse::<usize>().ok()?;
            let begin = line_end + 2;
            last = rest.get(begin..begin + length)?;
            rest = rest.get(begin + length + 2..)?;
        }
        self.start += bytes.len() - rest.len();
        Some(last)
    }
}

/// The number in the id of the evaluation that a confirmation is about.
fn evaluation_of(confirmation: &[u8]) -> u64 {
    let prefix = ID_PREFIX.as_bytes();
    let place = confirmation.windows(prefix.len()).position(|window| window == prefix);
    let digits = place.and_then(|place| confirmation.get(place + prefix.len()..place + prefix.len() + 8));
    let number = digits.and_then(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
    number.unwrap_or_else(|| panic!("a confirmation without an id: {}", String::from_utf8_lossy(confirmation)))
}
