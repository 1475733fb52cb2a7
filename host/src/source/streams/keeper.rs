//! The task beside the reader: acknowledges what is settled, says that this worker lives, and looks after the group.
//!
//! The reader may stay away for long, because the worker is full; what must go on meanwhile is here. Acknowledgements go
//! out as they come, in pipelines. Twice a second it looks: which members of the group are dead, so that the reader
//! takes over what they hold; whether another worker goes by our name; how far the group is behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

use super::commands::{self, Info, Member};
use super::entry::EntryId;
use super::failure::{Failure, Reach};
use super::shared::Shared;
use crate::source::redis_client::{Pauses, RedisClient};

/// How often it says that the worker lives, and looks after the group.
const EVERY: Duration = Duration::from_millis(500);
/// At most so many entries are acknowledged in one pipeline, and in one command.
const PIPELINE_ENTRIES: usize = 8192;
const COMMAND_ENTRIES: usize = 1024;
/// A run that said nothing for so long has ended: it says so every `EVERY` otherwise.
const RUN_ENDED_AFTER: Duration = Duration::from_secs(10);
/// So much earlier than we began may another run of our name have said something, clocks and machines being slow.
const RUN_MARGIN: Duration = Duration::from_secs(1);
/// At most so many nodes of a stream are trimmed at a look, so that Redis has time for others.
const TRIMS: usize = 64;

/// The task's state.
#[derive(Debug)]
pub(super) struct Keeper {
    client: RedisClient,
    shared: Arc<Shared>,
    link: Option<MultiplexedConnection>,
    pauses: Pauses,
    failures: u64,
    began: Instant,
    /// How often Redis did not take acknowledgements, and whether none is sent until the next look.
    refusals: u64,
    is_refusing: bool,
    /// Another run that goes by our name, which the log told of.
    double: Option<String>,
    /// What the log told of that Redis refuses us.
    refused: BTreeMap<&'static str, String>,
}

impl Keeper {
    pub(super) fn new(client: RedisClient, shared: Arc<Shared>) -> Self {
        let pauses = client.pauses();
        Self {
            client,
            shared,
            link: None,
            pauses,
            failures: 0,
            began: Instant::now(),
            refusals: 0,
            is_refusing: false,
            double: None,
            refused: BTreeMap::new(),
        }
    }

    /// Runs until nothing more will be settled and Redis was told of all that was.
    pub(super) async fn run(mut self) {
        let mut looks = interval(EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = tokio::select! {
                biased;
                _ = looks.tick() => true,
                () = self.shared.filled.notified() => false,
            };
            match self.turn(look).await {
                Ok(()) => {
                    if self.failures > 0 {
                        info!(redis = self.client.address(), "acknowledging again");
                        self.failures = 0;
                        self.pauses = self.client.pauses();
                    }
                }
                Err(failure) => {
                    self.link = None;
                    self.failures += 1;
                    if self.failures.is_power_of_two() {
                        let (redis, settled) = (self.client.address(), self.shared.settled());
                        let stream = self.shared.key();
                        warn!(redis, stream, error = %failure, settled, "cannot acknowledge entries and look after the group, will try again");
                    }
                    // There is nothing to tell that Redis, and others remove what is left of us.
                    if self.shared.is_finishing() && self.shared.settled() == 0 {
                        self.shared.set_done();
                        return;
                    }
                    sleep(self.pauses.pause()).await;
                    // The next turn is a whole one: only that shows whether the trouble is over.
                    looks.reset_immediately();
                    continue;
                }
            }
            if self.shared.is_finishing() && self.shared.settled() == 0 {
                self.leave().await;
                self.shared.set_done();
                return;
            }
        }
    }

    async fn turn(&mut self, look: bool) -> Result<(), Failure> {
        if self.link.is_none() {
            self.link = Some(self.client.connection_to(self.shared.key(), Duration::ZERO).await?);
        }
        self.is_refusing &= !look;
        if !self.is_refusing && self.acknowledge().await? {
            // The rest in the next turn, so that a look that is due comes first.
            self.shared.filled.notify_one();
        }
        if look && let Err(failure) = self.look().await {
            self.refused("redis does not tell how a stream is", failure)?;
        }
        Ok(())
    }

    /// Acknowledges some of what is settled. False if there is nothing.
    async fn acknowledge(&mut self) -> Result<bool, Failure> {
        let shared = Arc::clone(&self.shared);
        let settled = shared.take_settled(PIPELINE_ENTRIES);
        if settled.is_empty() {
            return Ok(false);
        }
        let chunks = || settled.chunks(COMMAND_ENTRIES);
        let mut pipeline = redis::pipe();
        for ids in chunks() {
            pipeline.add_command(shared.membership.member.acknowledge(shared.key(), ids));
        }
        let answers = self.query(&mut pipeline).await;
        let answers = answers.inspect_err(|_| shared.settle(settled.iter().copied()))?;
        let mut failed = None;
        for (ids, answer) in chunks().zip(answers) {
            match answer.map_err(Failure::from) {
                Ok(_) => {
                    shared.acknowledged(ids);
                    self.refusals = 0;
                }
                // A key that is no stream any more has nothing to acknowledge.
                Err(failure) if failure.code() == Some("WRONGTYPE") => shared.acknowledged(ids),
                Err(failure) => {
                    shared.settle(ids.iter().copied());
                    match failure.reach() {
                        Reach::Stream => self.not_acknowledged(&failure),
                        Reach::Server => failed = Some(failure),
                    }
                }
            }
        }
        failed.map_or(Ok(true), Err)
    }

    /// Takes note that Redis refuses acknowledgements: they are sent again with the next look.
    fn not_acknowledged(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.is_refusing, true) {
            self.refusals += 1;
            if self.refusals.is_power_of_two() {
                let (stream, settled) = (self.shared.key(), self.shared.settled());
                error!(stream, error = %failure, settled, "redis does not take the acknowledgements of a stream");
            }
        }
    }

    /// Says that we live, and learns how the group is.
    async fn look(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, membership) = (shared.key(), &shared.membership);
        let group = &membership.member.group;
        let mut pipeline = redis::pipe();
        pipeline.add_command(membership.member.beat(key)).add_command(membership.run.beat(key));
        pipeline.add_command(commands::info_groups(key)).add_command(commands::info_consumers(key, group));
        let mut answers = Vec::new();
        for answer in self.query(&mut pipeline).await? {
            match answer.map_err(Failure::from) {
                // The stream may live elsewhere by now.
                Err(failure) if failure.reach() == Reach::Server => return Err(failure),
                answer => answers.push(answer.ok()),
            }
        }
        let mut answers = answers.into_iter().skip(2);
        let (Some(Some(groups)), Some(Some(consumers))) = (answers.next(), answers.next()) else {
            // The reader finds out what is wrong with the stream, and says so.
            let mut known = shared.known();
            (known.status.lag, known.status.pending) = (None, 0);
            known.dead.clear();
            return Ok(());
        };
        let (groups, consumers) = (Info::all_of(groups)?, Info::all_of(consumers)?);
        let trim_to = self.positions(&groups).await?;
        self.look_at_consumers(&consumers).await?;
        match trim_to {
            Some(least) if membership.config.trim => self.trim(least).await,
            _ => Ok(()),
        }
    }

    /// Notes how far our group is. Gives the position that every group of the stream has acknowledged.
    async fn positions(&mut self, groups: &[Info]) -> Result<Option<EntryId>, Failure> {
        let shared = Arc::clone(&self.shared);
        let (key, own) = (shared.key(), &shared.membership.member.group);
        let is_asked = |info: &&Info| shared.membership.config.trim || info.bytes("name") == own.as_bytes();
        let groups: Vec<&Info> = groups.iter().filter(is_asked).collect();
        let mut pipeline = redis::pipe();
        for info in &groups {
            pipeline.add_command(commands::pending_summary(key, info.bytes("name")));
        }
        let mut least = None::<EntryId>;
        for (info, answer) in groups.iter().zip(self.query(&mut pipeline).await?) {
            let acknowledged = commands::acknowledged(info, answer?)?;
            least = Some(least.map_or(acknowledged, |least| least.min(acknowledged)));
            if info.bytes("name") == own.as_bytes() {
                let mut known = shared.known();
                known.acknowledged = Some(acknowledged);
                known.status.lag = info.number("lag");
                known.status.pending = info.number("pending").unwrap_or(0);
            }
        }
        Ok(least)
    }

    async fn look_at_consumers(&mut self, consumers: &[Info]) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let membership = &shared.membership;
        let (mut dead, mut gone, mut double) = (Vec::new(), Vec::new(), None);
        for info in consumers {
            let name = String::from_utf8_lossy(info.bytes("name")).into_owned();
            let idle = Duration::from_millis(info.number("idle").unwrap_or(0));
            if name == membership.member.consumer || name == membership.run.consumer {
                continue;
            }
            let is_run = is_run_of_any(&name);
            let is_empty = info.number("pending") == Some(0);
            if is_run
                && idle + RUN_MARGIN < self.began.elapsed()
                && name.starts_with(&run_prefix(&membership.member.consumer))
            {
                double = double.or(Some(name.clone()));
            }
            let remove_after = if is_run { RUN_ENDED_AFTER } else { membership.config.remove_after };
            if is_empty && idle > remove_after {
                gone.push((name, remove_after));
            } else if !is_empty && idle > membership.config.claim_after {
                dead.push(name);
            }
        }
        shared.known().dead = dead;
        if membership.place == 0 {
            self.tell_of_double(double);
        }
        for (consumer, idle) in gone {
            let member = Member { consumer, ..membership.member.clone() };
            let key = shared.key();
            match self.ask(&member.remove(key, idle.as_millis())).await {
                Ok(Value::Int(1)) if !is_run_of_any(&member.consumer) => {
                    info!(stream = key, consumer = member.consumer, "a consumer that is gone was removed");
                }
                Ok(_) => {}
                Err(failure) => self.refused("consumers that are gone cannot be removed", failure)?,
            }
        }
        Ok(())
    }

    fn tell_of_double(&mut self, double: Option<String>) {
        if let Some(run) = &double
            && self.double.is_none()
        {
            let consumer = &self.shared.membership.member.consumer;
            error!(
                consumer,
                run, "another worker of this name reads the streams; give each a `worker.name` of its own"
            );
        }
        self.double = double;
    }

    async fn trim(&mut self, least: EntryId) -> Result<(), Failure> {
        let command = commands::trim(self.shared.key(), least);
        for _ in 0..TRIMS {
            match self.ask(&command).await {
                Ok(Value::Int(trimmed)) if trimmed > 0 => {}
                Ok(_) => break,
                Err(failure) => return self.refused("a stream cannot be trimmed", failure),
            }
        }
        Ok(())
    }

    /// Takes note that Redis does not let us do what we can do without.
    fn refused(&mut self, what: &'static str, failure: Failure) -> Result<(), Failure> {
        if failure.reach() == Reach::Server {
            return Err(failure);
        }
        let error = failure.to_string();
        if self.refused.get(what) != Some(&error) {
            warn!(stream = self.shared.key(), error, "{what}");
            self.refused.insert(what, error);
        }
        Ok(())
    }

    /// Takes this run out of the group. What fails here is found by the others.
    async fn leave(&mut self) {
        let command = self.shared.membership.run.remove_run(self.shared.key());
        let _ = self.ask(&command).await;
    }

    async fn query(&mut self, pipeline: &mut Pipeline) -> Result<Vec<Result<Value, RedisError>>, Failure> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let link = self.link.as_mut().expect("a turn begins with a connection");
        Ok(pipeline.ignore_errors().query_async(link).await?)
    }

    async fn ask(&mut self, command: &redis::Cmd) -> Result<Value, Failure> {
        let link = self.link.as_mut().expect("a turn begins with a connection");
        Ok(command.query_async(link).await?)
    }
}

/// What the runs of a consumer are called before their own number.
fn run_prefix(consumer: &str) -> String {
    format!("{consumer} run ")
}

/// The name of a run.
pub(super) fn run_name(consumer: &str) -> String {
    format!("{}{:08x}", run_prefix(consumer), fastrand::u32(..))
}

fn is_run_of_any(consumer: &str) -> bool {
    let number = consumer.rsplit_once(" run ").map(|(_, number)| number);
    number.is_some_and(|number| number.len() == 8 && number.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
