//! Reads entries: first what this worker has pending, then what dead members of the group hold, then what is new.
//!
//! Each stream goes its way by itself: one that cannot be read, or whose commands are refused, does not hold the others
//! up. Whatever fails is tried again for ever, with growing pauses.

mod group;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::commands::{self, Range};
use super::entry::{Entry, EntryId, Forms, Message};
use super::failure::{Failure, Reach};
use super::shared::Shared;
use crate::source::redis_client::{Pauses, RedisClient};
use crate::source::{Delivery, Read, now};

/// About so many bytes are read at once, by all sections: fewer entries are asked for where the last ones were large.
const READ_BYTES: usize = 8 * 1024 * 1024;
/// What each section reads at least, were there many.
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
    ways: Vec<Way>,
    /// Of each stream that could not be read, until it was.
    troubles: Vec<Option<Trouble>>,
    /// About so many bytes are read at once.
    read_bytes: usize,
    /// How large an entry is, as far as is known.
    entry_bytes: usize,
}

/// How far a stream is on its way to be read.
#[derive(Debug)]
enum Way {
    /// Whether it is there, and its group, is to be looked at.
    Unknown,
    /// It cannot be read, and is looked at again then.
    Broken { at: Instant },
    /// Our own pending entries behind this one are read again.
    Own(EntryId),
    /// New entries are read.
    New,
}

/// How long a stream has not been readable.
#[derive(Debug)]
struct Trouble {
    pauses: Pauses,
    failures: u64,
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
        let streams = || shared.membership.config.streams.iter();
        let (ways, troubles) = (streams().map(|_| Way::Unknown).collect(), streams().map(|_| None).collect());
        let pauses = client.pauses();
        let read_bytes = (READ_BYTES / shared.membership.sections).max(LEAST_READ_BYTES);
        let entry_bytes = first_entry_bytes(read_bytes);
        Self { client, forms, shared, link: None, pauses, failures: 0, ways, troubles, read_bytes, entry_bytes }
    }

    /// Waits until there is something, and takes it.
    pub(super) async fn fill(&mut self, deliveries: &mut Vec<Delivery>) -> Read {
        while !self.shared.stop.is_asked() {
            match self.step(deliveries).await {
                Ok(()) => self.failures = 0,
                Err(failure) => self.recover(failure).await,
            }
            if !deliveries.is_empty() {
                return Read::Deliveries;
            }
        }
        if self.shared.standing.is_connected() {
            self.shared.standing.lost("stopped");
            info!(redis = self.client.address(), "streams are not read any more");
        }
        Read::Ended
    }

    /// Asks once for what comes first.
    async fn step(&mut self, deliveries: &mut Vec<Delivery>) -> Result<(), Failure> {
        if self.link.is_none() {
            // A read that blocks is answered late on purpose.
            let block = self.shared.membership.config.block;
            self.link = Some(self.client.connection_to(self.shared.key(0), block).await?);
        }
        self.look_at_streams().await?;
        for stream in 0..self.ways.len() {
            match self.take_pending(stream, deliveries).await {
                Ok(()) => {}
                Err(failure) if failure.reach() == Reach::Stream => self.set_broken(stream, &failure),
                Err(failure) => return Err(failure),
            }
            if !deliveries.is_empty() {
                return Ok(());
            }
        }
        self.read_new(deliveries).await
    }

    /// Takes what was delivered already: to us, or to one that is dead.
    async fn take_pending(&mut self, stream: usize, deliveries: &mut Vec<Delivery>) -> Result<(), Failure> {
        if matches!(self.ways[stream], Way::Unknown | Way::Broken { .. }) {
            return Ok(());
        }
        let settled = self.shared.settled(stream);
        if settled > MOST_SETTLED {
            return Err(Failure::Unacknowledged(settled));
        }
        if let Way::Own(after) = self.ways[stream] {
            self.read_own(stream, after, deliveries).await?;
        }
        if deliveries.is_empty() && matches!(self.ways[stream], Way::New) {
            self.claim(stream, deliveries).await?;
        }
        Ok(())
    }

    async fn recover(&mut self, failure: Failure) {
        if failure.reach() == Reach::Server {
            self.link = None;
            // The answer may have been too large to come in time.
            self.entry_bytes = (self.entry_bytes * 4).clamp(first_entry_bytes(self.read_bytes), self.read_bytes);
        }
        self.ways.iter_mut().filter(|way| !matches!(way, Way::Broken { .. })).for_each(|way| *way = Way::Unknown);
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let (redis, attempt, streams) = (self.client.address(), self.failures, self.streams());
            warn!(redis, streams, error = %failure, attempt, "cannot read streams, will try again");
        }
        match self.shared.membership.sections {
            1 => self.note_failure(failure.to_string()),
            _ => self.note_failure(format!("stream `{}`: {failure}", self.streams())),
        }
        if self.failures == 1 {
            self.pauses = self.client.pauses();
        }
        let pause = self.pauses.pause();
        tokio::select! { () = self.shared.stop.wait() => {}, () = sleep(pause) => {} }
    }

    /// The keys of the streams that this reads.
    fn streams(&self) -> String {
        self.shared.membership.config.streams.join("`, `")
    }

    fn note_failure(&self, reason: String) {
        match self.shared.standing.is_connected() {
            true => self.shared.standing.lost(&reason),
            false => self.shared.standing.failed(reason),
        }
    }

    /// Looks at the streams that are not known to be readable, and makes the groups that are not there.
    async fn look_at_streams(&mut self) -> Result<(), Failure> {
        for stream in 0..self.ways.len() {
            let is_due = match &self.ways[stream] {
                Way::Unknown => true,
                Way::Broken { at } => *at <= Instant::now(),
                Way::Own(_) | Way::New => false,
            };
            if !is_due {
                continue;
            }
            match self.prepare(stream).await {
                Ok(()) => self.ways[stream] = Way::Own(EntryId::ZERO),
                Err(failure) if failure.reach() == Reach::Stream => self.set_broken(stream, &failure),
                Err(failure) => return Err(failure),
            }
        }
        let all = self.ways.iter().all(|way| matches!(way, Way::Own(_) | Way::New));
        if all && self.troubles.iter().all(Option::is_none) && !self.shared.standing.is_connected() {
            let gap_seconds = self.shared.standing.connected().map(|gap| gap.as_secs_f64());
            let member = &self.shared.membership.member;
            let (redis, streams) = (self.client.address(), self.streams());
            info!(redis, streams, group = member.group, consumer = member.consumer, gap_seconds, "reading streams");
        }
        Ok(())
    }

    fn set_broken(&mut self, stream: usize, failure: &Failure) {
        let key = self.shared.key(stream);
        let trouble = &mut self.troubles[stream];
        let trouble = trouble.get_or_insert_with(|| Trouble { pauses: self.client.pauses(), failures: 0 });
        trouble.failures += 1;
        if trouble.failures.is_power_of_two() {
            let attempt = trouble.failures;
            error!(stream = key, error = %failure, attempt, "a stream cannot be read, will try again");
        }
        // The first pause is none.
        let at = Instant::now() + trouble.pauses.pause().max(Duration::from_millis(20));
        self.ways[stream] = Way::Broken { at };
        self.note_failure(format!("stream `{key}`: {failure}"));
    }

    /// Takes note that streams could be read.
    fn set_well(&mut self, streams: &[usize]) {
        for &stream in streams {
            if let Some(Trouble { failures, .. }) = self.troubles[stream].take() {
                info!(stream = self.shared.key(stream), failures, "a stream can be read again");
            }
        }
    }

    async fn read_own(&mut self, stream: usize, after: EntryId, out: &mut Vec<Delivery>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, member) = (shared.key(stream), &shared.membership.member);
        let count = self.count();
        let answer = self.ask(&member.read_own(count, key, after)).await?;
        let entries = commands::streams(answer)?.pop().map(|(_, entries)| entries).unwrap_or_default();
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            self.ways[stream] = Way::New;
            return Ok(());
        };
        let (first, last) = (first.id, last.id);
        let range = Range::Between { first, last };
        let answer = self.ask(&commands::pending(key, &member.group, &member.consumer, range, entries.len())).await?;
        let deliveries = commands::deliveries(answer)?.into_iter().collect();
        self.ways[stream] = Way::Own(last);
        self.hand_over(stream, entries, Came::Own, &deliveries, out);
        Ok(())
    }

    /// Takes over what a dead member of the group holds.
    async fn claim(&mut self, stream: usize, out: &mut Vec<Delivery>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, member) = (shared.key(stream), &shared.membership.member);
        let idle = shared.membership.config.claim_after.as_millis();
        let Some(dead) = shared.known(stream).dead.first().cloned() else { return Ok(()) };
        let range = Range::IdleFor { ms: idle };
        let answer = self.ask(&commands::pending(key, &member.group, &dead, range, self.count())).await?;
        let deliveries: HashMap<EntryId, u64> = commands::deliveries(answer)?.into_iter().collect();
        if deliveries.is_empty() {
            shared.known(stream).dead.retain(|name| *name != dead);
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
        self.hand_over(stream, entries, Came::Claimed, &deliveries, out);
        Ok(())
    }

    async fn read_new(&mut self, out: &mut Vec<Delivery>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let is_new = |stream: &usize| matches!(self.ways[*stream], Way::New);
        let readable: Vec<usize> = (0..self.ways.len()).filter(is_new).collect();
        if readable.is_empty() {
            let at = self.ways.iter().filter_map(|way| match way {
                Way::Broken { at } => Some(*at),
                Way::Unknown | Way::Own(_) | Way::New => None,
            });
            if let Some(at) = at.min() {
                tokio::select! { () = shared.stop.wait() => {}, () = sleep_until(at) => {} }
            }
            return Ok(());
        }
        let keys: Vec<&str> = readable.iter().map(|stream| shared.key(*stream)).collect();
        let block = shared.membership.config.block.as_millis();
        let count = (self.count() / keys.len()).max(1);
        let answer = self.ask(&shared.membership.member.read_new(count, block.max(1), &keys)).await?;
        self.set_well(&readable);
        for (key, entries) in commands::streams(answer)? {
            if let Some(place) = keys.iter().position(|known| known.as_bytes() == key) {
                self.hand_over(readable[place], entries, Came::New, &HashMap::new(), out);
            }
        }
        Ok(())
    }

    /// Makes deliveries of entries that are not in the worker's hands already.
    fn hand_over(
        &mut self,
        stream: usize,
        entries: Vec<Entry>,
        came: Came,
        deliveries: &HashMap<EntryId, u64>,
        out: &mut Vec<Delivery>,
    ) {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        self.entry_bytes = (bytes / entries.len().max(1)).max(self.entry_bytes / 2).max(1);
        let entries = self.shared.take(stream, entries, |entry| entry.id);
        let key = self.shared.key(stream);
        let (received_at, alone_after) = (now(), self.shared.membership.config.alone_after);
        let (mut missing, mut often, mut handed_over) = (Vec::new(), None, 0);
        for Entry { id, fields } in entries {
            let Some(fields) = fields else {
                missing.push((stream, id));
                continue;
            };
            let count = deliveries.get(&id).copied().unwrap_or(1);
            let alone = count > alone_after;
            if alone {
                often = Some((id, count));
            }
            let Message { channel, payload, event_id, time } = self.forms.read(fields);
            let (token, entry_time) = (Some(self.shared.token((stream, id))), time.or(id.time()));
            out.push(Delivery { channel, payload, received_at, entry_time, event_id, token, alone, is_letter: false });
            handed_over += 1;
        }
        if let Some((id, deliveries)) = often {
            warn!(stream = key, %id, deliveries, "entries were delivered often and not settled, each is merged alone");
        }
        if let Some((_, first)) = missing.first() {
            let entries = missing.len();
            warn!(stream = key, entries, %first, "pending entries were removed from the stream, their events are lost to this worker");
        }
        let mut known = self.shared.known(stream);
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
        (self.read_bytes / self.entry_bytes).clamp(1, (membership.config.count / membership.sections).max(1))
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
