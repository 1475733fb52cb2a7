//! The letters in a stream of Redis: an entry for each letter, and one for each edit and each letter that was parked.
//!
//! An entry has one field, `letter` or `action`, with the line that a file would have. What is stored or dropped is removed
//! with all that was said of it, so the stream holds what is open. Beside it `<key>:audit` has what was done.

use std::collections::HashSet;
use std::fmt;
use std::io;

use redis::{Connection, Pipeline, RedisError, RedisResult, cmd, pipe};
use tracing::warn;

use super::fold::Snapshot;
use super::line::{self, Action};
use crate::source::redis_client::RedisClient;
use crate::source::streams::advice;

/// The fields of an entry.
const LETTER: &str = "letter";
const ACTION: &str = "action";
/// So many entries are removed in one command.
const REMOVED_AT_ONCE: usize = 500;
/// About so many bytes are read at once.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Of a stream that is full so much is left, in quarters.
const QUARTERS_LEFT: u64 = 3;

/// The streams of the letters and of the audit.
#[derive(Debug)]
pub(crate) struct StreamLog {
    letters: Stream,
    audit: Stream,
    max_bytes: u64,
    /// About how many bytes of lines it holds, once that was looked at.
    bytes: Option<u64>,
    /// Letters that were dropped and nobody was told of yet, since what followed failed.
    dropped: usize,
}

impl StreamLog {
    pub(super) fn new(redis: RedisClient, key: &str, max_bytes: u64) -> Self {
        let audit = Stream { redis: redis.clone(), key: format!("{key}:audit"), connection: None };
        let letters = Stream { redis, key: key.to_owned(), connection: None };
        Self { letters, audit, max_bytes, bytes: None, dropped: 0 }
    }

    pub(super) fn prepare(&mut self) -> io::Result<()> {
        let letters = &mut self.letters;
        letters.length()?;
        // Some servers do not let everybody ask; then nothing is known of it.
        let persistence = letters.ask(|connection| cmd("INFO").arg("persistence").query::<String>(connection));
        if persistence.is_ok_and(|said| said.lines().any(|line| line.trim_end() == "aof_enabled:0")) {
            let stream = &letters.key;
            warn!(stream, "redis keeps no append-only file, its end would lose dead letters; set `appendonly yes`");
        }
        Ok(())
    }

    /// Adds letters. Returns how many old ones were dropped, since the stream was full of others.
    pub(super) fn append(&mut self, lines: &str) -> io::Result<usize> {
        let held = match self.bytes {
            Some(held) => held,
            None => self.snapshot()?.bytes(),
        };
        self.bytes = Some(held);
        let added = lines.len() as u64;
        if held > 0 && held + added > self.max_bytes {
            self.compact(added)?;
        }
        // Those that were added before another one failed come once more, which is harmless.
        let mut adding = pipe();
        lines.lines().for_each(|line| add(&mut adding, &self.letters.key, LETTER, line));
        self.letters.ask(|connection| exec(&adding, connection))?;
        self.bytes = self.bytes.map(|held| held + added);
        Ok(std::mem::take(&mut self.dropped))
    }

    pub(super) fn snapshot(&self) -> io::Result<Snapshot> {
        let Stream { key, .. } = &self.letters;
        Snapshot::of_stream(Lines { connection: self.letters.connect()?, key: key.clone(), after: None, count: 16 })
    }

    pub(super) fn change(&mut self, snapshot: &Snapshot, actions: &[Action]) -> io::Result<()> {
        let mut changing = pipe();
        changing.atomic();
        let mut removed: Vec<&str> = Vec::new();
        for action in actions {
            match action {
                Action::Edit { .. } | Action::Park { .. } => {
                    add(&mut changing, &self.letters.key, ACTION, &line::action_text(action));
                }
                Action::Remove { id } => removed.extend(snapshot.find(id).into_iter().flat_map(Snapshot::lines_of)),
            }
        }
        remove(&mut changing, &self.letters.key, &removed);
        self.letters.ask(|connection| exec(&changing, connection))
    }

    /// Adds lines to `<key>:audit`, which is trimmed to about as many bytes as the letters may have.
    pub(super) fn audit(&mut self, lines: &str) -> io::Result<()> {
        let audit = &mut self.audit;
        let mut adding = pipe();
        lines.lines().for_each(|line| add(&mut adding, &audit.key, ACTION, line));
        audit.ask(|connection| exec(&adding, connection))?;
        let mut usage = cmd("MEMORY");
        usage.arg("USAGE").arg(&audit.key);
        // Who may not ask how large it is trims it by other means.
        let Ok(Some(bytes)) = audit.ask(|connection| usage.query::<Option<u64>>(connection)) else { return Ok(()) };
        if bytes > self.max_bytes {
            let mut trim = cmd("XTRIM");
            trim.arg(&audit.key).arg("MAXLEN").arg(audit.length()? / 4 * QUARTERS_LEFT);
            audit.ask(|connection| trim.exec(connection))?;
        }
        Ok(())
    }

    /// Makes room: removes what says nothing, and if that is not enough the oldest letters, and what is too large by itself.
    fn compact(&mut self, room: u64) -> io::Result<()> {
        let snapshot = self.snapshot()?;
        let all: u64 = snapshot.entries().map(Snapshot::size).sum();
        // What was removed by others may have made room enough. What is too large by itself does not get it.
        let most = match all.saturating_add(room) <= self.max_bytes {
            true => all,
            false if room > self.max_bytes => self.max_bytes / 4 * QUARTERS_LEFT,
            false => (self.max_bytes / 4 * QUARTERS_LEFT).saturating_sub(room),
        };
        snapshot.tell_too_large(self.max_bytes);
        let kept: HashSet<&str> = snapshot.fitting(most).into_iter().map(|entry| &*entry.letter.id).collect();
        let (kept, dropped): (Vec<_>, Vec<_>) = snapshot.entries().partition(|entry| kept.contains(&*entry.letter.id));
        let removed: Vec<&str> = snapshot.spare().chain(dropped.iter().copied().flat_map(Snapshot::lines_of)).collect();
        for some in removed.chunks(REMOVED_AT_ONCE) {
            let mut removing = pipe();
            remove(&mut removing, &self.letters.key, some);
            self.letters.ask(|connection| exec(&removing, connection))?;
        }
        self.dropped += dropped.len();
        self.bytes = Some(kept.into_iter().map(Snapshot::size).sum());
        Ok(())
    }
}

/// A stream, and the connection to it.
#[derive(Debug)]
struct Stream {
    redis: RedisClient,
    key: String,
    connection: Option<Connected>,
}

impl Stream {
    fn length(&mut self) -> io::Result<u64> {
        let mut length = cmd("XLEN");
        length.arg(&self.key);
        self.ask(|connection| length.query(connection))
    }

    /// Asks over the connection, which is given up if that fails.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Connection) -> RedisResult<T>) -> io::Result<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = question(&mut connection.0).map_err(|error| failed(&self.key, &error))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn connect(&self) -> io::Result<Connected> {
        self.redis.blocking_connection(Some(&self.key)).map(Connected).map_err(io::Error::other)
    }
}

/// Reads the lines of a stream: all of them in order, and then any of them again.
#[derive(Debug)]
pub(super) struct Lines {
    connection: Connected,
    key: String,
    after: Option<String>,
    count: usize,
}

/// An entry as Redis gives it: its id, and names and values in turn.
type Raw = (String, Vec<Vec<u8>>);

/// The id of an entry, and its line.
type Line = (String, Vec<u8>);

impl Lines {
    /// Some more lines with the ids of their entries; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<Line>>> {
        let from = self.after.as_ref().map_or_else(|| "-".to_owned(), |last| format!("({last}"));
        let entries = self.range(&from, "+", self.count)?;
        let Some((last, _)) = entries.last() else { return Ok(None) };
        self.after = Some(last.clone());
        let lines: Vec<_> = entries.into_iter().map(|(id, fields)| (id, line_of(fields))).collect();
        let bytes: usize = lines.iter().map(|(_, line)| line.len()).sum();
        self.count = (READ_BYTES * lines.len() / bytes.max(1)).clamp(1, 1000);
        Ok(Some(lines))
    }

    /// The line of an entry; none if it is gone.
    pub(super) fn read(&mut self, id: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.range(id, id, 1)?.pop().map(|(_, fields)| line_of(fields)))
    }

    fn range(&mut self, from: &str, to: &str, count: usize) -> io::Result<Vec<Raw>> {
        let mut command = cmd("XRANGE");
        command.arg(&self.key).arg(from).arg(to).arg("COUNT").arg(count);
        command.query(&mut self.connection.0).map_err(|error| failed(&self.key, &error))
    }
}

/// A connection; its own type because the crate's has no `Debug`.
struct Connected(Connection);

impl fmt::Debug for Connected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Connected")
    }
}

fn add(pipeline: &mut Pipeline, key: &str, field: &str, line: &str) {
    pipeline.cmd("XADD").arg(key).arg("*").arg(field).arg(line).ignore();
}

fn remove(pipeline: &mut Pipeline, key: &str, ids: &[&str]) {
    for some in ids.chunks(REMOVED_AT_ONCE) {
        pipeline.cmd("XDEL").arg(key).arg(some).ignore();
    }
}

/// The line that an entry holds; what is none, if the entry is not of ours.
fn line_of(fields: Vec<Vec<u8>>) -> Vec<u8> {
    match <[Vec<u8>; 2]>::try_from(fields) {
        Ok([name, line]) if name == LETTER.as_bytes() || name == ACTION.as_bytes() => line,
        Ok(_) | Err(_) => b"no line".to_vec(),
    }
}

/// Sends commands at once, and gives up at the first answer that is an error or does not come: the crate's own way waits the
/// whole time again for each further answer of a server that vanished.
fn exec(commands: &Pipeline, connection: &mut Connection) -> RedisResult<()> {
    connection.send_packed_command(&commands.get_packed_pipeline())?;
    let around = if commands.is_transaction() { 2 } else { 0 };
    (0..commands.len() + around).try_for_each(|_| connection.recv_response()?.extract_error().map(drop))
}

/// Says what failed: of many commands at once the first, which is what the others failed for too.
fn failed(key: &str, error: &RedisError) -> io::Error {
    let errors = error.clone().into_server_errors();
    let first = errors.and_then(|errors| Some(RedisError::from(errors.first()?.1.clone())));
    let error = first.as_ref().unwrap_or(error);
    let advice = match error.code() {
        Some("WRONGTYPE") => "; the key holds something else than a stream: rename it, or change `dead_letters.stream`",
        Some("NOPERM") => "; give the worker's user the commands and keys that docs/dead-letters.md names",
        _ => advice(error),
    };
    io::Error::other(format!("stream `{key}`: {error}{advice}"))
}
