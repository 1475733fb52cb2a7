//! The bare loop of the row `postgres`: an upsert with binary arrays and an insert of the history, in one transaction.
//!
//! No state, no ranks, nothing that is right about events in the wrong order: the last one wins. It writes what readers
//! of the tables need, code in the JSON among it.

use std::collections::BTreeMap;

use storage_plugin_api::{Record, State, names};
use storage_worker_tests::postgres_server::{Database, PostgresServer};
use tokio_postgres::Statement;

use crate::postgres::{BATCH, Events};

const ROWS: &str = r#"
INSERT INTO evaluations AS e (id, code_hash, status, created_at, started_at, completed_at, engine, exit_code, language,
    output, output_size, output_truncated, metadata)
SELECT id, code_hash, status, to_timestamp(created), to_timestamp(started), to_timestamp(completed), engine, exit_code,
    language, output, length(output), false, metadata::json
FROM unnest($1::varchar[], $2::varchar[], $3::varchar[], $4::float8[], $5::float8[], $6::float8[], $7::varchar[],
    $8::int4[], $9::text[], $10::text[], $11::text[])
    AS r (id, code_hash, status, created, started, completed, engine, exit_code, language, output, metadata)
ON CONFLICT (id) DO UPDATE SET
    status = excluded.status,
    started_at = coalesce(excluded.started_at, e.started_at),
    completed_at = coalesce(excluded.completed_at, e.completed_at),
    exit_code = coalesce(excluded.exit_code, e.exit_code),
    output = coalesce(excluded.output, e.output),
    output_size = coalesce(excluded.output_size, e.output_size),
    metadata = (e.metadata::jsonb || excluded.metadata::jsonb)::json
"#;

const LINES: &str = "
INSERT INTO evaluation_events (evaluation_id, event_id, timestamp, event_type, message, metadata)
SELECT id, event, to_timestamp(time), type, message, jsonb_build_object('new_status', status)
FROM unnest($1::varchar[], $2::text[], $3::float8[], $4::varchar[], $5::text[], $6::text[])
    AS h (id, event, time, type, message, status)";

/// One connection, and what it writes made ready beforehand: all that is measured is the database and the way to it.
pub(crate) struct Writer {
    batches: std::vec::IntoIter<Columns>,
    database: Database,
    rows: Statement,
    lines: Statement,
}

impl Writer {
    pub(crate) fn new(server: &PostgresServer, events: &Events) -> Self {
        let database = server.connect();
        let (runtime, client) = database.parts();
        let rows = runtime.block_on(client.prepare(ROWS)).expect("prepare the rows");
        let lines = runtime.block_on(client.prepare(LINES)).expect("prepare the lines");
        let batches: Vec<Columns> = events.chunks(BATCH).map(Columns::of).collect();
        Self { batches: batches.into_iter(), database, rows, lines }
    }

    /// Writes the next batch.
    pub(crate) fn write(&mut self) {
        let columns = self.batches.next().expect("there is a batch for every call");
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
                        &columns.started,
                        &columns.completed,
                        &columns.engines,
                        &columns.exit_codes,
                        &columns.languages,
                        &columns.outputs,
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

#[derive(Default)]
struct Columns {
    ids: Vec<String>,
    code_hashes: Vec<String>,
    statuses: Vec<&'static str>,
    created: Vec<Option<f64>>,
    started: Vec<Option<f64>>,
    completed: Vec<Option<f64>>,
    engines: Vec<Option<String>>,
    exit_codes: Vec<Option<i32>>,
    languages: Vec<Option<String>>,
    outputs: Vec<Option<String>>,
    metadata: Vec<String>,
    line_ids: Vec<String>,
    line_events: Vec<String>,
    line_times: Vec<f64>,
    line_types: Vec<String>,
    line_messages: Vec<String>,
    line_statuses: Vec<String>,
}

impl Columns {
    fn of(batch: &[(String, State)]) -> Self {
        // One statement may not meet a row twice.
        let mut joined: BTreeMap<&str, State> = BTreeMap::new();
        for (id, state) in batch {
            joined.entry(id).or_default().merge(state);
        }
        let mut columns = Self::default();
        joined.iter().for_each(|(id, state)| columns.push(id, state));
        columns
    }

    fn push(&mut self, id: &str, state: &State) {
        let record = Record::of(id, state);
        let seconds = |time: Option<i64>| time.map(|time| time as f64 / 1e6);
        let mut json = serde_json::Map::new();
        if let Some(code) = &record.code {
            json.insert(names::CODE.to_owned(), code.clone().into());
            json.insert("language".to_owned(), record.language.clone().into());
            json.insert("created_at".to_owned(), record.created_at.map(storage_plugin_api::format_time).into());
        }
        for (key, time) in [("started_at", record.started_at), ("completed_at", record.completed_at)] {
            if let Some(time) = time {
                json.insert(key.to_owned(), storage_plugin_api::format_time(time).into());
            }
        }
        let metadata = record
            .metadata
            .iter()
            .map(|(key, value)| (key.clone(), serde_json::from_str(value).expect("metadata are JSON")));
        json.insert("metadata".to_owned(), serde_json::Value::Object(metadata.collect()));
        for line in &record.history {
            self.line_ids.push(id.to_owned());
            self.line_events.push(line.event_id.clone());
            self.line_times.push(line.timestamp as f64 / 1e6);
            self.line_types.push(line.kind.clone());
            self.line_messages.push(line.message.clone());
            self.line_statuses.push(line.status.clone());
        }
        self.ids.push(id.to_owned());
        self.code_hashes.push(record.code_hash.unwrap_or_default());
        self.statuses.push(record.status.map_or("unknown", storage_plugin_api::Status::as_str));
        self.created.push(seconds(record.created_at));
        self.started.push(seconds(record.started_at));
        self.completed.push(seconds(record.completed_at));
        self.engines.push(record.engine);
        self.exit_codes.push(record.exit_code.and_then(|code| i32::try_from(code).ok()));
        self.languages.push(record.language);
        self.outputs.push(record.output);
        self.metadata.push(serde_json::Value::Object(json).to_string());
    }
}
