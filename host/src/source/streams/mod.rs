//! The source that reads streams as a member of a consumer group.
//!
//! Redis keeps an entry pending until it is acknowledged, which happens after it was stored and confirmed: so whatever
//! dies, every entry is delivered to somebody, if need be again. What this worker had pending comes first after a start
//! and after a lost connection; then what dead members of the group hold; then what nobody has read. `keeper.rs` is the
//! task that acknowledges, and says that this worker lives. For operators: `docs/streams.md`.

mod commands;
mod entry;
mod failure;
mod keeper;
mod range;
mod reader;
mod shared;
mod side_by_side;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{Handle, Runtime};
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use self::commands::Member;
pub use self::entry::EntryForm;
use self::entry::Forms;
pub(crate) use self::failure::advice;
use self::keeper::{Keeper, run_name};
pub use self::range::{Range, RangeEntry};
use self::reader::Reader;
use self::shared::{Membership, Shared};
use self::side_by_side::SideBySide;
use super::config::StreamsConfig;
use super::redis_client::RedisClient;
use super::{Control, Delivery, Read, Source};

/// After a reader stayed away for so long, answers have waited for it.
const LONG_AWAY: Duration = Duration::from_secs(1);
const CATCH_UP: Duration = Duration::from_millis(20);

/// A reader of streams. It reads when it is read, no more than one answer of Redis at a time for each stream.
#[derive(Debug)]
pub struct Streams {
    runtime: Runtime,
    /// Those that read. What one has received stays in it until it is taken.
    readers: FuturesUnordered<Reading>,
    streams: SideBySide,
    /// When it was read last.
    left_at: Option<Instant>,
}

/// A reader until it has read something, then with that.
type Reading = Pin<Box<dyn Future<Output = (Reader, Vec<Delivery>, Read)> + Send>>;

impl Streams {
    /// A source that reads under this name; connects when it is read. `channels` are those that entries will name. The
    /// tasks that acknowledge run on `tasks`.
    ///
    /// # Errors
    /// When the operating system refuses what a runtime needs.
    pub fn new(
        client: &RedisClient,
        config: &StreamsConfig,
        consumer: &str,
        channels: impl IntoIterator<Item = String>,
        tasks: &Handle,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let member = |consumer: String| Member { group: config.group.clone(), consumer };
        let (member, run) = (member(consumer.to_owned()), member(run_name(consumer)));
        let forms = Arc::new(Forms::new(config, channels));
        let shared = |(place, stream): (usize, &String)| {
            let (member, run) = (member.clone(), run.clone());
            let (stream, streams) = (stream.clone(), config.streams.len());
            Arc::new(Shared::new(Membership { config: config.clone(), stream, place, streams, member, run }))
        };
        let streams: Vec<Arc<Shared>> = config.streams.iter().enumerate().map(shared).collect();
        let readers = FuturesUnordered::new();
        for shared in &streams {
            tasks.spawn(Keeper::new(client.clone(), Arc::clone(shared)).run());
            readers.push(reading(Reader::new(client.clone(), Arc::clone(&forms), Arc::clone(shared))));
        }
        Ok(Self { runtime, readers, streams: SideBySide(streams), left_at: None })
    }
}

fn reading(mut reader: Reader) -> Reading {
    Box::pin(async move {
        let mut deliveries = Vec::new();
        let read = reader.fill(&mut deliveries).await;
        (reader, deliveries, read)
    })
}

impl Drop for Streams {
    /// Who reads it has panicked: nobody will read again, and health must say so.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for stream in &self.streams.0 {
                stream.standing.lost("the thread that reads it has panicked; restart the worker");
            }
        }
    }
}

impl Source for Streams {
    fn name(&self) -> &'static str {
        "streams"
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::new(self.streams.clone())
    }

    fn read(&mut self, deliveries: &mut Vec<Delivery>) -> Read {
        let away = self.left_at.take().is_some_and(|left_at| left_at.elapsed() > LONG_AWAY);
        let is_alone = self.streams.0.len() == 1;
        if away && !is_alone {
            // Answers that came meanwhile are taken in before anybody finds them late.
            self.runtime.block_on(sleep(CATCH_UP));
        }
        while let Some((reader, read, how)) = self.runtime.block_on(unconstrained(self.readers.next())) {
            self.left_at = Some(Instant::now());
            if how == Read::Deliveries {
                deliveries.extend(read);
                // It goes on when this source is read again.
                self.readers.push(reading(reader));
                return Read::Deliveries;
            }
        }
        Read::Ended
    }
}
