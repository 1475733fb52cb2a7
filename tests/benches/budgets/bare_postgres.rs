//! The bare loop of rows about PostgreSQL: an upsert with binary arrays and an insert of the history, in one transaction.
//!
//! No state, no ranks, nothing that is right about events in the wrong order: the last one wins. It writes every column
//! that readers of the tables need, code in the JSON among them: all that the plugin writes but the column `state`.

use std::collections::BTreeMap;
use std::error::Error;

use serde_json::{Map, Value as Json};
use storage_plugin_api::body::{sha256, to_hex};
use storage_plugin_api::{HistoryEntry, Record, State, Status, names};
use storage_worker_tests::postgres_server::Database;
use tokio_postgres::Statement;

use crate::traffic::CHANNELS;

const ROWS: &str = r#"
INSERT INTO evaluations AS e (id, code_hash, status, created_at, queued_at, started_at, completed_at, engine, runtime_ms,
    memory_used_mb, exit_code, language, output, output_size, output_truncated, error, error_size, error_truncated, metadata)
SELECT id, code_hash, status, to_timestamp(created), to_timestamp(queued), to_timestamp(started), to_timestamp(completed),
    engine, coalesce(runtime_ms, floor((completed - started) * 1000)), memory_used_mb, exit_code, language,
    output, length(output), false, error, length(error), false, metadata::json
FROM unnest($1::varchar[], $2::varchar[], $3::varchar[], $4::float8[], $5::float8[], $6::float8[], $7::float8[],
    $8::varchar[], $9::int4[], $10::int4[], $11::int4[], $12::text[], $13::text[], $14::text[], $15::text[])
    AS r (id, code_hash, status, created, queued, started, completed, engine, runtime_ms, memory_used_mb, exit_code,
    language, output, error, metadata)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status,
    started_at = coalesce(excluded.started_at, e.started_at),
    completed_at = coalesce(excluded.completed_at, e.completed_at),
    runtime_ms = coalesce(excluded.runtime_ms,
        floor(extract(epoch FROM excluded.completed_at - coalesce(excluded.started_at, e.started_at)) * 1000)),
    memory_used_mb = coalesce(excluded.memory_used_mb, e.memory_used_mb),
    exit_code = coalesce(excluded.exit_code, e.exit_code),
    output = coalesce(excluded.output, e.output),
    output_size = coalesce(excluded.output_size, e.output_size),
    error = coalesce(excluded.error, e.error),
    error_size = coalesce(excluded.error_size, e.error_size),
    metadata = (e.metadata::jsonb || excluded.metadata::jsonb)::json
"#;

const LINES: &str = "
INSERT INTO evaluation_events (evaluation_id, event_id, timestamp, event_type, message, metadata)
SELECT id, event, to_timestamp(time), type, message, jsonb_build_object('new_status', status)
FROM unnest($1::varchar[], $2::text[], $3::float8[], $4::varchar[], $5::text[], $6::text[])
    AS h (id, event, time, type, message, status)";

/// One connection.
pub(crate) struct Writer {
    database: Database,
    rows: Statement,
    lines: Statement,
}

impl Writer {
    pub(crate) fn connect(url: &str) -> Self {
        let database = Database::connect(url).expect("connect to PostgreSQL");
        let (runtime, client) = database.parts();
        let rows = runtime.block_on(client.prepare(ROWS)).expect("prepare the rows");
        let lines = runtime.block_on(client.prepare(LINES)).expect("prepare the lines");
        Self { database, rows, lines }
    }

    /// Makes columns of what the events of a batch tell, and writes them.
    pub(crate) fn write(&self, told: &[Told]) {
        let columns = Columns::of(told);
        let (runtime, client) = self.database.parts();
        let written = runtime.block_on(async {
            client.batch_execute("BEGIN").await?;
            client
                .execute(
                    &self.rows,
                    &[
                        &columns.ids,
                        &columns.code_hashes,
                        &columns.statuses,
                        &columns.created,
                        &columns.queued,
                        &columns.started,
                        &columns.completed,
                        &columns.engines,
                        &columns.runtimes,
                        &columns.memories,
                        &columns.exit_codes,
                        &columns.languages,
                        &columns.outputs,
                        &columns.errors,
                        &columns.metadata,
                    ],
                )
                .await?;
            client
                .execute(
                    &self.lines,
                    &[
                        &columns.line_ids,
                        &columns.line_events,
                        &columns.line_times,
                        &columns.line_types,
                        &columns.line_messages,
                        &columns.line_statuses,
                    ],
                )
                .await?;
            client.batch_execute("COMMIT").await
        });
        written.expect("the rows are written");
    }
}

/// What an event tells.
pub(crate) struct Told {
    record: Record,
    metadata: Map<String, Json>,
}

impl Told {
    /// Of an event of the traffic, with the time at which it came.
    pub(crate) fn read(channel: &[u8], payload: &[u8], event_id: &str, now: i64) -> Result<Self, Box<dyn Error>> {
        let mut event: Map<String, Json> = serde_json::from_slice(payload)?;
        let mut text = |key: &str| match event.remove(key) {
            Some(Json::String(text)) => Some(text),
            _ => None,
        };
        let queued = channel == CHANNELS[0].as_bytes();
        let running = channel == CHANNELS[1].as_bytes();
        let status = if queued {
            Status::Queued
        } else if running {
            Status::Running
        } else {
            Status::Completed
        };
        let line = HistoryEntry {
            event_id: event_id.to_owned(),
            timestamp: now,
            kind: if queued { "submitted" } else { "status_changed" }.to_owned(),
            status: status.as_str().to_owned(),
            message: format!("Status changed to {}", status.as_str()),
        };
        let at = |is: bool| is.then_some(now);
        let record = Record {
            id: text("eval_id").ok_or("an event without an id")?,
            status: Some(status),
            code: text("code"),
            language: text("language"),
            engine: text("engine"),
            executor_id: text("executor_id"),
            container_id: text("container_id"),
            created_at: Some(now),
            queued_at: at(queued),
            started_at: at(running),
            completed_at: at(status.is_terminal()),
            output: text("output"),
            exit_code: event.get("exit_code").and_then(Json::as_i64),
            history: vec![line],
            ..Record::default()
        };
        let metadata = match event.remove("metadata") {
            Some(Json::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        Ok(Self { record, metadata })
    }

    /// Its evaluation.
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }

    /// Of an event that was read already.
    pub(crate) fn of((id, state): &(String, State)) -> Self {
        let record = Record::of(id, state);
        let value = |json: &String| serde_json::from_str(json).expect("metadata are JSON");
        let metadata = record.metadata.iter().map(|(key, json)| (key.clone(), value(json))).collect();
        Self { record, metadata }
    }
}

/// What the events of a batch tell of one evaluation; one statement may not meet a row twice.
#[derive(Default)]
struct Row<'a> {
    status: Option<Status>,
    code: Option<&'a str>,
    created_at: Option<i64>,
    queued_at: Option<i64>,
    started_at: Option<i64>,
    completed_at: Option<i64>,
    engine: Option<&'a str>,
    runtime_ms: Option<i64>,
    memory_used_mb: Option<i64>,
    exit_code: Option<i64>,
    language: Option<&'a str>,
    output: Option<&'a str>,
    error: Option<&'a str>,
    executor_id: Option<&'a str>,
    container_id: Option<&'a str>,
    metadata: Map<String, Json>,
}

impl<'a> Row<'a> {
    /// What comes later wins, but for the time of the first event.
    fn take(&mut self, told: &'a Told) {
        let Told { record, metadata } = told;
        self.status = record.status.or(self.status);
        self.code = record.code.as_deref().or(self.code);
        self.created_at = self.created_at.or(record.created_at);
        self.queued_at = record.queued_at.or(self.queued_at);
        self.started_at = record.started_at.or(self.started_at);
        self.completed_at = record.completed_at.or(self.completed_at);
        self.engine = record.engine.as_deref().or(self.engine);
        self.runtime_ms = record.runtime_ms.or(self.runtime_ms);
        self.memory_used_mb = record.memory_used_mb.or(self.memory_used_mb);
        self.exit_code = record.exit_code.or(self.exit_code);
        self.language = record.language.as_deref().or(self.language);
        self.output = record.output.as_deref().or(self.output);
        self.error = record.error.as_deref().or(self.error);
        self.executor_id = record.executor_id.as_deref().or(self.executor_id);
        self.container_id = record.container_id.as_deref().or(self.container_id);
        self.metadata.extend(metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    /// What readers look for in the JSON.
    fn json(&self) -> String {
        let mut json = Map::new();
        let mut set = |key: &str, value: Json| drop(json.insert(key.to_owned(), value));
        let time = |time: i64| Json::from(storage_plugin_api::format_time(time));
        if let Some(code) = self.code {
            set(names::CODE, code.into());
            set("language", self.language.into());
            set("code_lines", code.lines().count().into());
            set("code_size", code.chars().count().into());
            for key in ["timestamp", "created_at"] {
                set(key, self.created_at.map_or(Json::Null, time));
            }
        }
        for (key, at) in [("started_at", self.started_at), ("completed_at", self.completed_at)] {
            if let Some(at) = at {
                set(key, time(at));
            }
        }
        for (key, name) in [("executor_id", self.executor_id), ("container_id", self.container_id)] {
            if let Some(name) = name {
                set(key, name.into());
            }
        }
        set("metadata", Json::Object(self.metadata.clone()));
        Json::Object(json).to_string()
    }
}

#[derive(Default)]
struct Columns<'a> {
    ids: Vec<&'a str>,
    code_hashes: Vec<String>,
    statuses: Vec<&'static str>,
    created: Vec<Option<f64>>,
    queued: Vec<Option<f64>>,
    started: Vec<Option<f64>>,
    completed: Vec<Option<f64>>,
    engines: Vec<Option<&'a str>>,
    runtimes: Vec<Option<i32>>,
    memories: Vec<Option<i32>>,
    exit_codes: Vec<Option<i32>>,
    languages: Vec<Option<&'a str>>,
    outputs: Vec<Option<&'a str>>,
    errors: Vec<Option<&'a str>>,
    metadata: Vec<String>,
    line_ids: Vec<&'a str>,
    line_events: Vec<&'a str>,
    line_times: Vec<f64>,
    line_types: Vec<&'a str>,
    line_messages: Vec<&'a str>,
    line_statuses: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [Told]) -> Self {
        let mut columns = Self::default();
        let mut rows: BTreeMap<&str, Row<'a>> = BTreeMap::new();
        for told in batch {
            rows.entry(&told.record.id).or_default().take(told);
            for line in &told.record.history {
                columns.line_ids.push(&told.record.id);
                columns.line_events.push(&line.event_id);
                columns.line_times.push(line.timestamp as f64 / 1e6);
                columns.line_types.push(&line.kind);
                columns.line_messages.push(&line.message);
                columns.line_statuses.push(&line.status);
            }
        }
        rows.iter().for_each(|(id, row)| columns.push(id, row));
        columns
    }

    fn push(&mut self, id: &'a str, row: &Row<'a>) {
        let seconds = |time: Option<i64>| time.map(|time| time as f64 / 1e6);
        let number = |number: Option<i64>| number.and_then(|number| i32::try_from(number).ok());
        self.ids.push(id);
        self.code_hashes.push(row.code.map(|code| to_hex(&sha256(code.as_bytes()))).unwrap_or_default());
        self.statuses.push(row.status.map_or("unknown", Status::as_str));
        self.created.push(seconds(row.created_at));
        self.queued.push(seconds(row.queued_at));
        self.started.push(seconds(row.started_at));
        self.completed.push(seconds(row.completed_at));
        self.engines.push(row.engine);
        self.runtimes.push(number(row.runtime_ms));
        self.memories.push(number(row.memory_used_mb));
        self.exit_codes.push(number(row.exit_code));
        self.languages.push(row.language);
        self.outputs.push(row.output);
        self.errors.push(row.error);
        self.metadata.push(row.json());
    }
}
