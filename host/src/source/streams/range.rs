//! Reads a range of a stream once, outside of any group: for a replay. Blocks.

use redis::{Connection, RedisError, Value, cmd};

use super::commands;
use super::entry::{EntryId, Forms, Message};
use crate::source::config::StreamsConfig;

/// An entry of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeEntry {
    /// Its id.
    pub id: String,
    /// The channel that it names; empty if none.
    pub channel: String,
    /// The event.
    pub payload: Vec<u8>,
    /// The id that travelled with the event.
    pub event_id: Option<String>,
    /// The time that travelled with it, else that of the entry, in microseconds since 1970.
    pub time: Option<i64>,
}

/// A reader of a range.
#[allow(missing_debug_implementations, reason = "a connection has none")]
pub struct Range {
    connection: Connection,
    stream: String,
    /// Where the next read begins, as XRANGE takes it.
    from: String,
    to: String,
    forms: Forms,
}

impl Range {
    /// From one id to another, both included; `-` and `+` are the ends of the stream.
    #[must_use]
    pub fn new(connection: Connection, stream: &str, from: &str, to: &str, config: &StreamsConfig) -> Self {
        let (from, to) = (from.to_owned(), to.to_owned());
        Self { connection, stream: stream.to_owned(), from, to, forms: Forms::new(config, []) }
    }

    /// The next entries, at most so many; none at the end.
    ///
    /// # Errors
    /// When Redis does not give them.
    pub fn read(&mut self, count: usize) -> Result<Vec<RangeEntry>, RedisError> {
        let mut command = cmd("XRANGE");
        command.arg(&self.stream).arg(&self.from).arg(&self.to).arg("COUNT").arg(count);
        let entries = commands::entries(command.query::<Value>(&mut self.connection)?)?;
        if let Some(last) = entries.last() {
            self.from = format!("({}", last.id);
        }
        let read = |id: EntryId, fields| {
            let Message { channel, payload, event_id, time } = self.forms.read(fields);
            let (channel, event_id) = (channel.to_string(), event_id.map(|id| id.to_string()));
            RangeEntry { id: id.to_string(), channel, payload, event_id, time: time.or(id.time()) }
        };
        Ok(entries.into_iter().filter_map(|entry| Some(read(entry.id, entry.fields?))).collect())
    }

    /// Begins behind an entry.
    pub fn skip_to(&mut self, id: &str) {
        self.from = format!("({id}");
    }
}
