//! Reads entries: first what this worker has pending, then what dead members of the group hold, then what is new.
//!
//! Each stream goes its way by itself: one that cannot be read does not hold the others up. Whatever fails is tried
//! again for ever, with growing pauses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::commands::{self, Info, Range};
use super::entry::{Entry, EntryId, Forms, Message};
use super::failure::{Failure, Reach};
use super::shared::{Shared, token};
use crate::source::config::Start;
use crate::source::redis_client::{Pauses, RedisClient};
use crate::source::{Delivery, Read, now};

/// About so many bytes are read at once: fewer entries are asked for where the last ones were large.
const READ_BYTES: usize = 8 * 1024 * 1024;

/// What an entry is taken to have before the first was seen: a few are read at once, then more with each read.
const FIRST_ENTRY_BYTES: usize = READ_BYTES / 16;
/// While Redis has to be told of more settled entries than this, nothing is read.
const MOST_SETTLED: usize = 100_000;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Reader {
    client: RedisClient,
    forms: Forms,
    shared: Arc<Shared>,
    link: Option<MultiplexedConnection>,
    pauses: Pauses,
    failures: u64,
    ways: Vec<Way>,
    /// How large an entry is, as far as is known.
    entry_bytes: usize,
}

/// How far a stream is on its way to be read.
#[derive(Debug)]
enum Way {
    /// Whether it is there, and its group, is to be looked at.
    Unknown,
    /// It cannot be read, and is looked at again then.
    Broken { at: Instant, pauses: Pauses, failures: u64 },
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
    pub(super) fn new(client: RedisClient, forms: Forms, shared: Arc<Shared>) -> Self {
        let ways = shared.membership.config.streams.iter().map(|_| Way::Unknown).collect();
        let pauses = client.pauses();
        Self { client, forms, shared, link: None, pauses, failures: 0, ways, entry_bytes: FIRST_ENTRY_BYTES }
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
        let settled = self.shared.settled();
        if settled > MOST_SETTLED {
            return Err(Failure::Unacknowledged(settled));
        }
        if self.link.is_none() {
            // A read that blocks is answered late on purpose.
            self.link = Some(self.client.patient_connection(self.shared.membership.config.block).await?);
        }
        self.look_at_streams().await?;
        for stream in 0..self.ways.len() {
            if let Way::Own(after) = self.ways[stream] {
                self.read_own(stream, after, deliveries).await?;
            }
            if deliveries.is_empty() && matches!(self.ways[stream], Way::New) {
                self.claim(stream, deliveries).await?;
            }
            if !deliveries.is_empty() {
                return Ok(());
            }
        }
        self.read_new(deliveries).await
    }

    async fn recover(&mut self, failure: Failure) {
        if failure.reach() == Reach::Server {
            self.link = None;
            // The answer may have been too large to come in time.
            self.entry_bytes = (self.entry_bytes * 4).clamp(FIRST_ENTRY_BYTES, READ_BYTES);
        }
        self.ways.iter_mut().filter(|way| !matches!(way, Way::Broken { .. })).for_each(|way| *way = Way::Unknown);
        self.failures += 1;
        if self.failures.is_power_of_two() {
            let (redis, attempt) = (self.client.address(), self.failures);
            warn!(redis, error = %failure, attempt, "cannot read streams, will try again");
        }
        self.note_failure(failure.to_string());
        if self.failures == 1 {
            self.pauses = self.client.pauses();
        }
        let pause = self.pauses.pause();
        tokio::select! { () = self.shared.stop.wait() => {}, () = sleep(pause) => {} }
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
                Way::Broken { at, .. } => *at <= Instant::now(),
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
        if all && !self.shared.standing.is_connected() {
            let gap_seconds = self.shared.standing.connected().map(|gap| gap.as_secs_f64());
            let member = &self.shared.membership.member;
            let (redis, streams) = (self.client.address(), self.ways.len());
            info!(redis, streams, group = member.group, consumer = member.consumer, gap_seconds, "reading streams");
        }
        Ok(())
    }

    fn set_broken(&mut self, stream: usize, failure: &Failure) {
        let unknown = std::mem::replace(&mut self.ways[stream], Way::Unknown);
        let (mut pauses, failures) = match unknown {
            Way::Broken { pauses, failures, .. } => (pauses, failures + 1),
            // The first pause is none.
            _ => (self.client.pauses(), 1),
        };
        let key = self.shared.key(stream);
        if failures.is_power_of_two() {
            error!(stream = key, error = %failure, attempt = failures, "a stream cannot be read, will try again");
        }
        self.note_failure(format!("stream `{key}`: {failure}"));
        let at = Instant::now() + pauses.pause().max(Duration::from_millis(20));
        self.ways[stream] = Way::Broken { at, pauses, failures };
    }

    /// Makes the group unless it is there, and notes where it is: should it be deleted, it starts there again.
    async fn prepare(&mut self, stream: usize) -> Result<(), Failure> {
        self.make_group(stream).await?;
        let shared = Arc::clone(&self.shared);
        let (key, group) = (shared.key(stream), &shared.membership.member.group);
        if shared.known(stream).acknowledged.is_none() {
            let groups = Info::all_of(self.ask(&commands::info_groups(key)).await?)?;
            let pending = self.ask(&commands::pending_summary(key, group.as_bytes())).await?;
            if let Some(info) = groups.iter().find(|info| info.bytes("name") == group.as_bytes()) {
                shared.known(stream).acknowledged = Some(commands::acknowledged(info, pending)?);
            }
        }
        Ok(())
    }

    async fn make_group(&mut self, stream: usize) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, group) = (shared.key(stream), &shared.membership.member.group);
        let groups = match self.ask(&commands::info_groups(key)).await {
            Ok(answer) => Info::all_of(answer)?,
            Err(Failure::Redis(error)) if error.code() == Some("ERR") => Vec::new(),
            Err(failure) => return Err(failure),
        };
        if groups.iter().any(|info| info.bytes("name") == group.as_bytes()) {
            return Ok(());
        }
        let known = shared.known(stream).acknowledged;
        let start = match known {
            None => match shared.membership.config.start {
                Start::Oldest => "0".to_owned(),
                Start::New => "$".to_owned(),
            },
            Some(acknowledged) => self.start_again(key, acknowledged).await?.to_string(),
        };
        match self.ask(&commands::create_group(key, group, &start)).await {
            Ok(_) if known.is_none() => info!(stream = key, group, start, "consumer group created"),
            Ok(_) => warn!(
                stream = key,
                group,
                start,
                "the consumer group was deleted and is created anew, to start where all was acknowledged; what is read again does no harm"
            ),
            // Another worker was faster.
            Err(Failure::Redis(error)) if error.code() == Some("BUSYGROUP") => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Where a group starts that was deleted: behind what was acknowledged, or at the beginning of another stream.
    async fn start_again(&mut self, key: &str, acknowledged: EntryId) -> Result<EntryId, Failure> {
        let last = match self.ask(&commands::info_stream(key)).await {
            Ok(answer) => Info::of(answer)?.id("last-generated-id"),
            Err(Failure::Redis(error)) if error.code() == Some("ERR") => None,
            Err(failure) => return Err(failure),
        };
        Ok(if last.is_some_and(|last| last >= acknowledged) { acknowledged } else { EntryId::ZERO })
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
                Way::Broken { at, .. } => Some(*at),
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
            let (token, entry_time) = (Some(token((stream, id))), time.or(id.time()));
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
        (READ_BYTES / self.entry_bytes).clamp(1, self.shared.membership.config.count)
    }

    async fn ask(&mut self, command: &redis::Cmd) -> Result<Value, Failure> {
        let link = self.link.as_mut().expect("a step begins with a connection");
        Ok(command.query_async(link).await?)
    }
}
