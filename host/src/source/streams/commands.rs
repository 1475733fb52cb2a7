//! The commands about streams and groups, and how their answers read. No state, no decisions.

use redis::{Cmd, ErrorKind, RedisError, Value, cmd};

use super::entry::{Entry, EntryId, Field};

/// Entries of a consumer group, seen from one of its consumers.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) group: String,
    pub(super) consumer: String,
}

impl Member {
    /// Reads entries that nobody has read yet.
    pub(super) fn read_new(&self, count: usize, block_ms: u128, stream: &str) -> Cmd {
        let mut command = self.read(count);
        command.arg("BLOCK").arg(block_ms.to_string()).arg("STREAMS").arg(stream).arg(">");
        command
    }

    /// Reads entries again that this consumer has read and not acknowledged.
    pub(super) fn read_own(&self, count: usize, stream: &str, after: EntryId) -> Cmd {
        let mut command = self.read(count);
        command.arg("STREAMS").arg(stream).arg(after.to_string());
        command
    }

    /// Says that the consumer lives, and makes it if there is none: a read that finds nothing does both.
    pub(super) fn beat(&self, stream: &str) -> Cmd {
        self.read_own(1, stream, EntryId { milliseconds: u64::MAX, sequence: 0 })
    }

    fn read(&self, count: usize) -> Cmd {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.group).arg(&self.consumer).arg("COUNT").arg(count);
        command
    }

    /// Takes entries over that have been pending for so long.
    pub(super) fn claim(&self, stream: &str, idle_ms: u128, ids: &[EntryId]) -> Cmd {
        let mut command = cmd("XCLAIM");
        command.arg(stream).arg(&self.group).arg(&self.consumer).arg(idle_ms.to_string()).arg(texts(ids));
        command
    }

    /// Says that entries are settled.
    pub(super) fn acknowledge(&self, stream: &str, ids: &[EntryId]) -> Cmd {
        let mut command = cmd("XACK");
        command.arg(stream).arg(&self.group).arg(texts(ids));
        command
    }

    /// Removes the consumer with whatever it holds, so only our own run, which never holds anything.
    pub(super) fn remove_run(&self, stream: &str) -> Cmd {
        let mut command = cmd("XGROUP");
        command.arg("DELCONSUMER").arg(stream).arg(&self.group).arg(&self.consumer);
        command
    }

    /// Removes the consumer if it holds nothing and has said nothing for so long. One step for Redis: between two, the
    /// consumer could come back, and what it had read meanwhile would be removed with it.
    pub(super) fn remove(&self, stream: &str, idle_ms: u128) -> Cmd {
        const SCRIPT: &str = "
            for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
                local consumer = {}
                for place = 1, #flat, 2 do consumer[flat[place]] = flat[place + 1] end
                if consumer.name == ARGV[2] and consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) then
                    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
                    return 1
                end
            end
            return 0";
        let mut command = cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(stream).arg(&self.group).arg(&self.consumer).arg(idle_ms.to_string());
        command
    }
}

/// The pending entries of a consumer, oldest first, with how often each was delivered.
pub(super) fn pending(stream: &str, group: &str, consumer: &str, range: Range, count: usize) -> Cmd {
    let mut command = cmd("XPENDING");
    command.arg(stream).arg(group);
    match range {
        Range::IdleFor { ms } => command.arg("IDLE").arg(ms.to_string()).arg("-").arg("+"),
        Range::Between { first, last } => command.arg(first.to_string()).arg(last.to_string()),
    };
    command.arg(count).arg(consumer);
    command
}

/// Which pending entries are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Range {
    /// Those that have been pending for so long.
    IdleFor {
        /// In milliseconds.
        ms: u128,
    },
    /// Those from one to another.
    Between {
        /// The first.
        first: EntryId,
        /// The last.
        last: EntryId,
    },
}

/// How many entries of a group are pending, and which is the oldest.
pub(super) fn pending_summary(stream: &str, group: &[u8]) -> Cmd {
    let mut command = cmd("XPENDING");
    command.arg(stream).arg(group);
    command
}

pub(super) fn info_groups(stream: &str) -> Cmd {
    let mut command = cmd("XINFO");
    command.arg("GROUPS").arg(stream);
    command
}

pub(super) fn info_consumers(stream: &str, group: &str) -> Cmd {
    let mut command = cmd("XINFO");
    command.arg("CONSUMERS").arg(stream).arg(group);
    command
}

pub(super) fn info_stream(stream: &str) -> Cmd {
    let mut command = cmd("XINFO");
    command.arg("STREAM").arg(stream);
    command
}

pub(super) fn create_group(stream: &str, group: &str, start: &str) -> Cmd {
    let mut command = cmd("XGROUP");
    command.arg("CREATE").arg(stream).arg(group).arg(start).arg("MKSTREAM");
    command
}

pub(super) fn entry(stream: &str, id: EntryId) -> Cmd {
    let mut command = cmd("XRANGE");
    command.arg(stream).arg(id.to_string()).arg(id.to_string());
    command
}

/// Removes entries below an id, a node of the stream at a time.
pub(super) fn trim(stream: &str, least: EntryId) -> Cmd {
    let mut command = cmd("XTRIM");
    command.arg(stream).arg("MINID").arg("~").arg(least.to_string());
    command
}

fn texts(ids: &[EntryId]) -> Vec<String> {
    ids.iter().map(EntryId::to_string).collect()
}

/// The key of a stream, and what was found in it.
pub(super) type Found = (Vec<u8>, Vec<Entry>);

/// The entries of an answer to XREADGROUP, by stream.
pub(super) fn streams(answer: Value) -> Result<Vec<Found>, RedisError> {
    let pairs = match answer {
        Value::Nil => Vec::new(),
        Value::Map(pairs) => pairs,
        other => list(other)?.into_iter().map(pair).collect::<Result<_, _>>()?,
    };
    pairs.into_iter().map(|(key, found)| Ok((bytes(key)?, entries(found)?))).collect()
}

/// The entries of an answer to XCLAIM or XRANGE.
pub(super) fn entries(answer: Value) -> Result<Vec<Entry>, RedisError> {
    let read = |value: Value| {
        let (id, fields) = pair(value)?;
        let fields = match fields {
            Value::Nil => None,
            fields => Some(fields_of(fields)?),
        };
        Ok(Entry { id: id_of(id)?, fields })
    };
    // Redis 6.2 gives nothing for an entry that was removed.
    list(answer)?.into_iter().filter(|value| *value != Value::Nil).map(read).collect()
}

fn fields_of(answer: Value) -> Result<Vec<Field>, RedisError> {
    let flat = list(answer)?;
    let mut fields = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        fields.push((bytes(name)?, bytes(value)?));
    }
    Ok(fields)
}

/// Ids and numbers of deliveries in an answer to XPENDING with a range.
pub(super) fn deliveries(answer: Value) -> Result<Vec<(EntryId, u64)>, RedisError> {
    let read = |value: Value| match <[Value; 4]>::try_from(list(value)?) {
        Ok([id, _, _, count]) => Ok((id_of(id)?, number(&count).ok_or_else(unexpected)?)),
        Err(_) => Err(unexpected()),
    };
    list(answer)?.into_iter().map(read).collect()
}

/// Up to where a group has acknowledged everything, by what XINFO said of it and XPENDING without a range said then.
///
/// What it read between the two lies behind the position that it had at first.
pub(super) fn acknowledged(info: &Info, pending: Value) -> Result<EntryId, RedisError> {
    let read = info.id("last-delivered-id").unwrap_or(EntryId::ZERO);
    match list(pending)?.into_iter().nth(1) {
        None => Err(unexpected()),
        Some(Value::Nil) => Ok(read),
        Some(oldest) => Ok(id_of(oldest)?.previous().min(read)),
    }
}

/// What XINFO says of one thing.
#[derive(Clone, Debug)]
pub(super) struct Info(Vec<(Value, Value)>);

impl Info {
    pub(super) fn of(answer: Value) -> Result<Self, RedisError> {
        if let Value::Map(pairs) = answer {
            return Ok(Self(pairs));
        }
        let mut flat = list(answer)?.into_iter();
        let mut pairs = Vec::new();
        while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn all_of(answer: Value) -> Result<Vec<Self>, RedisError> {
        list(answer)?.into_iter().map(Self::of).collect()
    }

    /// A number; none where Redis does not know it, or is too old to tell.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        number(self.get(key)?)
    }

    pub(super) fn bytes(&self, key: &str) -> &[u8] {
        match self.get(key) {
            Some(Value::BulkString(bytes)) => bytes,
            Some(Value::SimpleString(text)) => text.as_bytes(),
            _ => &[],
        }
    }

    pub(super) fn id(&self, key: &str) -> Option<EntryId> {
        EntryId::parse(self.bytes(key))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let is_key = |name: &Value| match name {
            Value::BulkString(bytes) => bytes == key.as_bytes(),
            Value::SimpleString(text) => text == key,
            _ => false,
        };
        self.0.iter().find(|(name, _)| is_key(name)).map(|(_, value)| value)
    }
}

fn list(value: Value) -> Result<Vec<Value>, RedisError> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        Value::ServerError(error) => Err(error.into()),
        _ => Err(unexpected()),
    }
}

fn pair(value: Value) -> Result<(Value, Value), RedisError> {
    <[Value; 2]>::try_from(list(value)?).map(|[one, other]| (one, other)).map_err(|_| unexpected())
}

fn bytes(value: Value) -> Result<Vec<u8>, RedisError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        _ => Err(unexpected()),
    }
}

fn id_of(value: Value) -> Result<EntryId, RedisError> {
    EntryId::parse(&bytes(value)?).ok_or_else(unexpected)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "an answer about streams is not of the form that Redis 6.2 to 8 give").into()
}
