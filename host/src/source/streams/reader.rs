//! Reads the entries of a stream: first what this worker has pending, then what dead members of the group hold, then what
//! is new. Whatever fails is tried again for ever, with growing pauses.

mod group;

use std::collections::HashMap;
use std::sync::Arc;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::sleep;
use tracing::{info, warn};

use super::commands::{self, Range};
use super::entry::{Entry, EntryId, Forms, Message};
use super::failure::{Failure, Reach};
use super::shared::Shared;
use crate::source::redis_client::{Pauses, RedisClient};
use crate::source::{Delivery, Read, now};

/// About so many bytes are read at once, of all streams: fewer entries are asked for where the last ones were large.
const READ_BYTES: usize = 8 * 1024 * 1024;
/// What is read of each at least, were there many.
const LEAST_READ_BYTES: usize = 512 * 1024;
/// While Redis has to be told of more settled entries of a stream than this, that one is not read.
const MOST_SETTLED: usize = 100_000;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Reader {
    client: RedisClient,
    forms: Arc<Forms>,
    shared: Arc<Shared>,
    link: Option<MultiplexedConnection>,
    pauses: Pauses,
    failures: u64,
    way: Way,
    /// About so many bytes are read at once.
    read_bytes: usize,
    /// How large an entry is, as far as is known.
    entry_bytes: usize,
}

/// How far the stream is on its way to be read.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Whether it is there, and its group, is to be looked at.
    Unknown,
    /// Our own pending entries behind this one are read again.
    Own(EntryId),
    /// New entries are read.
    New,
}

/// How an entry came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    New,
    Own,
    Claimed,
}

impl Reader {
    pub(super) fn new(client: RedisClient, forms: Arc<Forms>, shared: Arc<Shared>) -> Self {
        let pauses = client.pauses();
        let read_bytes = (READ_BYTES / shared.membership.streams).max(LEAST_READ_BYTES);
        let entry_bytes = first_entry_bytes(read_bytes);
        Self { client, forms, shared, link: None, pauses, failures: 0, way: Way::Unknown, read_bytes, entry_bytes }
    }

    /// Waits until there is something, and takes it.
    pub(super) async fn fill(&mut self, deliveries: &mut Vec<Delivery>) -> Read {
        while !self.shared.stop.is_asked() {
            match self.step(deliveries).await {
                Ok(()) => {
                    self.set_connected();
                    self.failures = 0;
                }
                Err(failure) => self.recover(failure).await,
            }
            if !deliveries.is_empty() {
                return Read::Deliveries;
            }
        }
        if self.shared.standing.is_connected() {
            self.shared.standing.lost("stopped");
            info!(redis = self.client.address(), stream = self.shared.key(), "stream is not read any more");
        }
        Read::Ended
    }

    /// Asks once for what comes first.
    async fn step(&mut self, deliveries: &mut Vec<Delivery>) -> Result<(), Failure> {
        let settled = self.shared.settled();
        if settled > MOST_SETTLED {
            return Err(Failure::Unacknowledged(settled));
        }
        if self.link.is_none() {
            // A read that blocks is answered late on purpose.
            let block = self.shared.membership.config.block;
            self.link = Some(self.client.connection_to(self.shared.key(), block).await?);
        }
        if let Way::Unknown = self.way {
            self.prepare().await?;
            self.way = Way::Own(EntryId::ZERO);
            // After a failure it is only known once it was read.
            if self.failures == 0 {
                self.set_connected();
            }
        }
        if let Way::Own(after) = self.way {
            self.read_own(after, deliveries).await?;
        }
        if deliveries.is_empty() && matches!(self.way, Way::New) {
            self.claim(deliveries).await?;
            if deliveries.is_empty() {
                self.read_new(deliveries).await?;
            }
        }
        Ok(())
    }

    async fn recover(&mut self, failure: Failure) {
        if failure.reach() == Reach::Server {
            self.link = None;
            // The answer may have been too large to come in time.
            self.entry_bytes = (self.entry_bytes * 4).clamp(first_entry_bytes(self.read_bytes), self.read_bytes);
        }
        self.way = Way::Unknown;
        self.failures += 1;
        let (redis, stream, attempt) = (self.client.address(), self.shared.key(), self.failures);
        if attempt.is_power_of_two() {
            warn!(redis, stream, error = %failure, attempt, "cannot read a stream, will try again");
        }
        let reason = format!("stream `{stream}`: {failure}");
        match self.shared.standing.is_connected() {
            true => self.shared.standing.lost(&reason),
            false => self.shared.standing.failed(reason),
        }
        if self.failures == 1 {
            self.pauses = self.client.pauses();
        }
        let pause = self.pauses.pause();
        tokio::select! { () = self.shared.stop.wait() => {}, () = sleep(pause) => {} }
    }

    fn set_connected(&self) {
        if !self.shared.standing.is_connected() {
            let gap_seconds = self.shared.standing.connected().map(|gap| gap.as_secs_f64());
            let member = &self.shared.membership.member;
            let (redis, stream) = (self.client.address(), self.shared.key());
            info!(redis, stream, group = member.group, consumer = member.consumer, gap_seconds, "reading a stream");
        }
    }

    async fn read_own(&mut self, after: EntryId, out: &mut Vec<Delivery>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, member) = (shared.key(), &shared.membership.member);
        let count = self.count();
        let answer = self.ask(&member.read_own(count, key, after)).await?;
        let entries = commands::streams(answer)?.pop().map(|(_, entries)| entries).unwrap_or_default();
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            self.way = Way::New;
            return Ok(());
        };
        let (first, last) = (first.id, last.id);
        let range = Range::Between { first, last };
        let answer = self.ask(&commands::pending(key, &member.group, &member.consumer, range, entries.len())).await?;
        let deliveries = commands::deliveries(answer)?.into_iter().collect();
        self.way = Way::Own(last);
        self.hand_over(entries, Came::Own, &deliveries, out);
        Ok(())
    }

    /// Takes over what a dead member of the group holds.
    async fn claim(&mut self, out: &mut Vec<Delivery>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, member) = (shared.key(), &shared.membership.member);
        let idle = shared.membership.config.claim_after.as_millis();
        let Some(dead) = shared.known().dead.first().cloned() else { return Ok(()) };
        let range = Range::IdleFor { ms: idle };
        let answer = self.ask(&commands::pending(key, &member.group, &dead, range, self.count())).await?;
        let deliveries: HashMap<EntryId, u64> = commands::deliveries(answer)?.into_iter().collect();
        if deliveries.is_empty() {
            shared.known().dead.retain(|name| *name != dead);
            return Ok(());
        }
        let ids: Vec<EntryId> = deliveries.keys().copied().collect();
        let mut entries = commands::entries(self.ask(&member.claim(key, idle, &ids)).await?)?;
        entries.sort_by_key(|entry| entry.id);
        info!(stream = key, consumer = dead, entries = entries.len(), "took over entries of a consumer that is gone");
        // One more delivery: this one.
        let deliveries = deliveries.into_iter().map(|(id, count)| (id, count + 1)).collect();
        // Redis hands over nothing for an entry that was removed, nor for one that another member was faster to take.
        for id in
            ids.into_iter().filter(|id| entries.binary_search_by_key(id, |entry| entry.id).is_err()).collect::<Vec<_>>()
        {
            if commands::entries(self.ask(&commands::entry(key, id)).await?)?.is_empty() {
                entries.push(Entry { id, fields: None });
            }
        }
        self.hand_over(entries, Came::Claimed, &deliveries, out);
        Ok(())
    }

    async fn read_new(&mut self, out: &mut Vec<Delivery>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let block = shared.membership.config.block.as_millis();
        let command = shared.membership.member.read_new(self.count(), block.max(1), shared.key());
        let answer = self.ask(&command).await?;
        for (_, entries) in commands::streams(answer)? {
            self.hand_over(entries, Came::New, &HashMap::new(), out);
        }
        Ok(())
    }

    /// Makes deliveries of entries that are not in the worker's hands already.
    fn hand_over(
        &mut self,
        entries: Vec<Entry>,
        came: Came,
        deliveries: &HashMap<EntryId, u64>,
        out: &mut Vec<Delivery>,
    ) {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        self.entry_bytes = (bytes / entries.len().max(1)).max(self.entry_bytes / 2).max(1);
        let entries = self.shared.take(entries, |entry| entry.id);
        let key = self.shared.key();
        let (received_at, alone_after) = (now(), self.shared.membership.config.alone_after);
        let (mut missing, mut often, mut handed_over) = (Vec::new(), None, 0);
        for Entry { id, fields } in entries {
            let Some(fields) = fields else {
                missing.push(id);
                continue;
            };
            let count = deliveries.get(&id).copied().unwrap_or(1);
            let alone = count > alone_after;
            if alone {
                often = Some((id, count));
            }
            let Message { channel, payload, event_id, time } = self.forms.read(fields);
            let (token, entry_time) = (Some(self.shared.token(id)), time.or(id.time()));
            out.push(Delivery { channel, payload, received_at, entry_time, event_id, token, alone, is_letter: false });
            handed_over += 1;
        }
        if let Some((id, deliveries)) = often {
            warn!(stream = key, %id, deliveries, "entries were delivered often and not settled, each is merged alone");
        }
        if let Some(first) = missing.first() {
            let entries = missing.len();
            warn!(stream = key, entries, %first, "pending entries were removed from the stream, their events are lost to this worker");
        }
        let mut known = self.shared.known();
        known.status.missing += missing.len() as u64;
        match came {
            Came::New => known.status.read += handed_over,
            Came::Own => known.status.redelivered += handed_over,
            Came::Claimed => known.status.claimed += handed_over,
        }
        drop(known);
        if !missing.is_empty() {
            self.shared.settle(missing.into_iter());
        }
    }

    /// How many entries are asked for: less where they are large.
    fn count(&self) -> usize {
        let membership = &self.shared.membership;
        (self.read_bytes / self.entry_bytes).clamp(1, (membership.config.count / membership.streams).max(1))
    }

    async fn ask(&mut self, command: &redis::Cmd) -> Result<Value, Failure> {
        let link = self.link.as_mut().expect("a step begins with a connection");
        Ok(command.query_async(link).await?)
    }
}

/// What an entry is taken to have before the first was seen: a few are read at once, then more with each read.
fn first_entry_bytes(read_bytes: usize) -> usize {
    read_bytes / 16
}
