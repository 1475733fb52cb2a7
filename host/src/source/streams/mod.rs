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

use std::sync::Arc;

use tokio::runtime::{Handle, Runtime};
use tokio::task::coop::unconstrained;

use self::commands::Member;
pub use self::entry::EntryForm;
use self::entry::Forms;
pub(crate) use self::failure::advice;
use self::keeper::{Keeper, run_name};
pub use self::range::{Range, RangeEntry};
use self::reader::Reader;
use self::shared::{Membership, Shared};
use super::config::StreamsConfig;
use super::redis_client::RedisClient;
use super::{Control, Delivery, Read, Source};

/// A reader of streams. It reads when it is read, no more than one answer of Redis at a time.
#[derive(Debug)]
pub struct Streams {
    runtime: Runtime,
    reader: Reader,
    shared: Arc<Shared>,
}

impl Streams {
    /// A source that reads under this name; connects when it is read. `channels` are those that entries will name. The
    /// task that acknowledges runs on `tasks`.
    ///
    /// # Errors
    /// When the operating system refuses what a runtime needs.
    pub fn new(
        client: RedisClient,
        config: &StreamsConfig,
        consumer: &str,
        channels: impl IntoIterator<Item = String>,
        tasks: &Handle,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let member = |consumer: String| Member { group: config.group.clone(), consumer };
        let membership =
            Membership { config: config.clone(), member: member(consumer.to_owned()), run: member(run_name(consumer)) };
        let shared = Arc::new(Shared::new(membership));
        tasks.spawn(Keeper::new(client.clone(), Arc::clone(&shared)).run());
        let reader = Reader::new(client, Forms::new(config, channels), Arc::clone(&shared));
        Ok(Self { runtime, reader, shared })
    }
}

impl Drop for Streams {
    /// Who reads it has panicked: nobody will read again, and health must say so.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.standing.lost("the thread that reads it has panicked; restart the worker");
        }
    }
}

impl Source for Streams {
    fn name(&self) -> &'static str {
        "streams"
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.shared) as Arc<dyn Control>
    }

    fn read(&mut self, deliveries: &mut Vec<Delivery>) -> Read {
        self.runtime.block_on(unconstrained(self.reader.fill(deliveries)))
    }
}
