//! Adds events to streams as producers do, and looks at consumer groups as operators do.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Connection, RedisResult, Value, cmd};
use serde_json::Value as Json;

use crate::redis_server::RedisServer;
use crate::second_model::Sent;
use crate::wait::eventually;

/// How many entries go to Redis in one round trip.
const PIPELINE: usize = 256;

/// A stream, seen over a connection of its own.
#[allow(missing_debug_implementations, reason = "a connection has none")]
pub struct Stream {
    connection: Connection,
    key: String,
}

impl Stream {
    /// A stream of that key.
    #[must_use]
    pub fn new(redis: &RedisServer, key: &str) -> Self {
        Self { connection: redis.connect(), key: key.to_owned() }
    }

    /// A stream of that key in a Redis of that URL, if it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn connect(url: &str, key: &str) -> RedisResult<Self> {
        let connection = redis::Client::open(url)?.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { connection, key: key.to_owned() })
    }

    /// Adds events, each as JSON in one field.
    ///
    /// # Panics
    /// When Redis does not take them.
    #[track_caller]
    pub fn add(&mut self, events: &[Sent]) {
        for chunk in events.chunks(PIPELINE) {
            self.try_add(chunk).expect("add entries");
        }
    }

    /// Adds events in one round trip, each as JSON in one field.
    ///
    /// # Errors
    /// When Redis does not say that it has them all; then nobody knows which it has.
    pub fn try_add(&mut self, events: &[Sent]) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for event in events {
            pipeline.cmd("XADD").arg(&self.key).arg("*");
            pipeline.arg("channel").arg(&event.channel).arg("data").arg(&event.payload);
        }
        pipeline.exec(&mut self.connection)
    }

    /// Adds an event of its own fields: texts as they are, everything else as JSON.
    ///
    /// # Panics
    /// When it is no object, or Redis does not take it.
    #[track_caller]
    pub fn add_fields(&mut self, channel: &str, event: &Json) {
        let mut command = cmd("XADD");
        command.arg(&self.key).arg("*").arg("channel").arg(channel);
        for (name, value) in event.as_object().expect("an event is an object") {
            command.arg(name).arg(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        command.exec(&mut self.connection).expect("add an entry");
    }

    /// Reads entries in the name of a consumer, as one that is killed before it has stored them.
    ///
    /// # Panics
    /// When there are fewer.
    #[track_caller]
    pub fn read_as(&mut self, group: &str, consumer: &str, count: usize) {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(count).arg("STREAMS").arg(&self.key).arg(">");
        let answer: Vec<(String, Vec<Value>)> = command.query(&mut self.connection).expect("read entries");
        assert_eq!(answer.first().map(|(_, entries)| entries.len()), Some(count));
    }

    /// How many entries of a group are pending.
    ///
    /// # Panics
    /// When there is no such group.
    #[must_use]
    pub fn pending(&mut self, group: &str) -> u64 {
        let summary: Vec<Value> =
            cmd("XPENDING").arg(&self.key).arg(group).query(&mut self.connection).expect("ask for pending entries");
        match summary.first() {
            Some(Value::Int(count)) => u64::try_from(*count).expect("a count"),
            other => panic!("no count: {other:?}"),
        }
    }

    /// Waits until every entry was read by a group, and is stored, confirmed and acknowledged.
    ///
    /// # Panics
    /// When that is not so within the limit.
    #[track_caller]
    pub fn wait_until_settled(&mut self, group: &str, limit: Duration) {
        eventually(limit, "every entry to be read and acknowledged", || {
            let position = self.group_value(group, "last-delivered-id");
            let last: Vec<(String, Value)> =
                redis::from_redis_value(self.command("XREVRANGE", &["+", "-", "COUNT", "1"])).expect("entries");
            self.pending(group) == 0 && last.first().is_none_or(|(id, _)| *id == position)
        });
    }

    /// What Redis says of a group under a name; empty where there is no such group.
    ///
    /// # Panics
    /// When there is no stream.
    #[must_use]
    #[track_caller]
    pub fn group_value(&mut self, group: &str, name: &str) -> String {
        let groups: Vec<BTreeMap<String, Value>> =
            redis::from_redis_value(self.command("XINFO GROUPS", &[])).expect("a list of groups");
        let text = |value: &Value| redis::from_redis_value::<String>(value.clone()).unwrap_or_default();
        let found = groups.iter().find(|found| text(&found["name"]) == group);
        found.map(|found| text(&found[name])).unwrap_or_default()
    }

    /// The ids of entries of a group that a consumer has pending, at most a hundred thousand.
    ///
    /// # Panics
    /// When there is no such group.
    #[must_use]
    #[track_caller]
    pub fn pending_of(&mut self, group: &str, consumer: &str) -> Vec<String> {
        let answer = self.command("XPENDING", &[group, "-", "+", "100000", consumer]);
        let entries: Vec<(String, Value, Value, Value)> = redis::from_redis_value(answer).expect("pending entries");
        entries.into_iter().map(|(id, ..)| id).collect()
    }

    /// The event of an entry that was added as JSON in one field.
    ///
    /// # Panics
    /// When there is no such entry.
    #[must_use]
    #[track_caller]
    pub fn event(&mut self, id: &str) -> Sent {
        let answer = self.command("XRANGE", &[id, id]);
        let entries: Vec<(String, BTreeMap<String, Vec<u8>>)> = redis::from_redis_value(answer).expect("entries");
        let (_, mut fields) = entries.into_iter().next().unwrap_or_else(|| panic!("there is no entry {id}"));
        let mut field = |name| fields.remove(name).unwrap_or_else(|| panic!("entry {id} has no field `{name}`"));
        let channel = String::from_utf8(field("channel")).expect("a channel is text");
        Sent { channel, payload: field("data") }
    }

    /// How many entries there are.
    ///
    /// # Panics
    /// When Redis does not answer.
    #[must_use]
    pub fn len(&mut self) -> u64 {
        cmd("XLEN").arg(&self.key).query(&mut self.connection).expect("ask for the length")
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Any command, whose first argument is the key.
    ///
    /// # Panics
    /// When Redis refuses it.
    #[track_caller]
    pub fn command(&mut self, name: &str, arguments: &[&str]) -> Value {
        let mut words = name.split(' ');
        let mut command = cmd(words.next().expect("a split text has a part"));
        words.for_each(|word| {
            command.arg(word);
        });
        command.arg(&self.key).arg(arguments);
        command.query(&mut self.connection).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The names of the consumers of a group.
    ///
    /// # Panics
    /// When there is no such group.
    #[must_use]
    #[track_caller]
    pub fn consumers(&mut self, group: &str) -> Vec<String> {
        let found: Vec<std::collections::HashMap<String, Value>> =
            redis::from_redis_value(self.command("XINFO CONSUMERS", &[group])).expect("a list of consumers");
        let name = |consumer: &std::collections::HashMap<String, Value>| {
            redis::from_redis_value(consumer["name"].clone()).expect("a consumer has a name")
        };
        found.iter().map(name).collect()
    }
}
