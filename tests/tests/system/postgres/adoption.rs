//! A database that the Python service made and filled is taken over: its rows are read through us, and ours by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::{Backend, Call, Order, Prune, Pruned, Query, Record, Status};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::postgres_server::{Database, PostgresServer};
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;

use super::indexes::whole_indexes;
use super::{open, setup};
use crate::SOON;

/// What the service's two migrations leave.
pub(super) const MIGRATED: &str = r#"
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('ecb8af5d833a');
CREATE TABLE evaluations (
    id varchar(64) PRIMARY KEY, code_hash varchar(64) NOT NULL, status varchar(20) NOT NULL,
    created_at timestamptz DEFAULT now(), queued_at timestamptz, started_at timestamptz, completed_at timestamptz,
    engine varchar(50), worker_id varchar(100), runtime_ms integer, memory_used_mb integer, exit_code integer,
    code_location varchar(255), output_location varchar(255), error_location varchar(255), output text, error text,
    output_size bigint, error_size bigint, metadata json, output_truncated boolean, error_truncated boolean);
CREATE INDEX ix_evaluations_status ON evaluations (status);
CREATE TABLE evaluation_events (
    id bigserial PRIMARY KEY, evaluation_id varchar(64) NOT NULL REFERENCES evaluations (id) ON DELETE CASCADE,
    timestamp timestamptz DEFAULT now(), event_type varchar(50) NOT NULL, message text, metadata jsonb);
CREATE INDEX idx_events_eval_time ON evaluation_events (evaluation_id, timestamp);
CREATE INDEX idx_events_type ON evaluation_events (event_type);
CREATE TABLE evaluation_metrics (
    id bigserial PRIMARY KEY, evaluation_id varchar(64) NOT NULL REFERENCES evaluations (id) ON DELETE CASCADE,
    metric_name varchar(100) NOT NULL, metric_value double precision NOT NULL, timestamp timestamptz DEFAULT now(),
    unit varchar(50));
CREATE INDEX idx_metrics_name_time ON evaluation_metrics (metric_name, timestamp);
CREATE INDEX idx_metrics_eval ON evaluation_metrics (evaluation_id);
"#;

/// Rows as the service writes them: code, language and times in the JSON only.
const FILLED: &str = r#"
INSERT INTO evaluations (id, code_hash, status, created_at, output, output_size, output_truncated, error, error_size,
    error_truncated, runtime_ms, metadata) VALUES
('old_done', '6e3fac2e7d5d6ba3a53c1d7b6f7b5d9a6e3fac2e7d5d6ba3a53c1d7b6f7b5d9a', 'completed', '2025-01-01T00:00:00+00', E'42\n',
    3, false, '', 0, false, 2000,
    '{"code": "print(42)", "language": "python", "timestamp": "2025-01-01T00:00:00+00:00", "created_at": "2025-01-01T00:00:00+00:00",
      "started_at": "2025-01-01T00:00:01+00:00", "completed_at": "2025-01-01T00:00:03+00:00", "code_lines": 1, "code_size": 9,
      "timeout": 30, "priority": 0, "metadata": {"job_name": "old-done-1"}}'),
('old-open', 'x', 'running', '2025-01-02T00:00:00+00', NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    '{"code": "nul: \u0000", "language": "bash", "timestamp": "2025-01-02T00:00:00+00:00", "created_at": "2025-01-02T00:00:00+00:00"}'),
('Old_bare', 'metadata_only_hash', 'unknown', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO evaluations (id, code_hash, status, created_at, output, output_size, output_truncated, error, error_size,
    error_truncated, metadata) VALUES
('old-cut', 'x', 'failed', '2025-01-03T00:00:00+00', repeat('o', 1024), 2000000, true, repeat('e', 1024), 3000000, true,
    '{"code": "loop()", "language": "ruby", "timestamp": "2025-01-03T00:00:00+00:00", "created_at": "2025-01-03T00:00:00+00:00",
      "completed_at": "2025-01-03T00:00:01+00:00"}');
INSERT INTO evaluation_events (evaluation_id, timestamp, event_type, message, metadata) VALUES
('old_done', '2025-01-01T00:00:00+00', 'submitted', 'Evaluation submitted', '{"code_hash": "6e"}'),
('old_done', '2025-01-01T00:00:03+00', 'status_changed', 'Status changed to completed', '{"old_status": null, "new_status": "completed"}');
"#;

/// The record of a row as the service's own reader makes it.
fn read_as_python_does(database: &Database, id: &str) -> BTreeMap<String, Value> {
    let sql = format!(
        "SELECT row_to_json(r)::text FROM (SELECT id, status, code_hash, output, error, exit_code, runtime_ms, \
         memory_used_mb, engine, worker_id, metadata FROM evaluations WHERE id = '{id}') AS r"
    );
    let row: Value = serde_json::from_str(database.rows(&sql)[0].get(0)).expect("a row is JSON");
    let mut record: BTreeMap<String, Value> = row.as_object().expect("a row").clone().into_iter().collect();
    if let Some(Value::Object(overlaid)) = record.remove("metadata") {
        record.extend(overlaid);
    }
    record
}

/// More evaluations that ended as the service says of those that took too long, and more than are looked into at once
/// that began long ago and have not ended before the time of the test.
const TIMED_OUT: &str = r#"
INSERT INTO evaluations (id, code_hash, status, created_at, metadata) VALUES
('late-1', 'x', 'timeout', '2025-01-05T00:00:00+00', '{"language": "bash", "completed_at": "2025-01-05T00:01:00+00:00"}'),
('late-2', 'x', 'timeout', '2025-01-06T00:00:00+00', '{"language": "python", "completed_at": "2025-01-06T00:01:00+00:00"}'),
('odd', 'x', 'lost', '2025-01-07T00:00:00+00', '{}');
INSERT INTO evaluations (id, code_hash, status, created_at, metadata)
SELECT 'long-' || n, 'x', 'completed', timestamptz '2024-01-01' + n * interval '1 second',
    '{"completed_at": "2026-01-01T00:00:00+00:00"}' FROM generate_series(1, 1500) AS n;
INSERT INTO evaluations (id, code_hash, status, created_at, metadata) VALUES
('ended', 'x', 'completed', '2024-06-01T00:00:00+00', '{"completed_at": "2024-06-01T00:01:00+00:00"}');
"#;

#[test]
fn lists_counts_and_pruning_go_by_what_the_records_of_old_rows_say() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    server.connect().run(MIGRATED);
    server.connect().run(TIMED_OUT);
    let backend = open(&server, cache.path(), &json!({})).expect("the database is taken over");
    let call = Call::with_budget(Duration::from_secs(60));
    let ids = |order: Order, status: &str, language: Option<&str>| -> Vec<String> {
        let (status, language) = (Some(status.to_owned()), language.map(str::to_owned));
        let mut query = Query { order, status, language, limit: 1, ..Query::default() };
        let mut ids = Vec::new();
        loop {
            let page = backend.list(&call, &query).expect("a page");
            for (id, found) in page.entries {
                assert_eq!(Record::status_of(&found.state), Some(Status::Failed), "{id}");
                ids.push(id);
            }
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return ids,
            }
        }
    };

    assert_eq!(ids(Order::NewestFirst, "failed", None), ["late-2", "late-1"]);
    assert_eq!(ids(Order::Id, "failed", None), ["late-1", "late-2"]);
    assert_eq!(ids(Order::Id, "failed", Some("bash")), ["late-1"]);
    assert_eq!(ids(Order::Id, "timeout", None), [""; 0]);
    let counts = backend.counts(&call).expect("counts").by_status;
    let counts: Vec<(&str, u64)> = counts.iter().map(|(status, count)| (&**status, *count)).collect();
    assert_eq!(counts, [("completed", 1501), ("failed", 2), ("unknown", 1)]);

    // 2025-01-05T12:00:00Z: before it one timed out, and one ended that began behind many that had not.
    let mut prune = Prune { ended_before: 1_736_078_400_000_000, limit: 1, dry_run: false };
    assert_eq!(backend.prune(&call, &prune).expect("a prune"), Pruned { removed: 1, more: true });
    prune.limit = 10;
    assert_eq!(backend.prune(&call, &prune).expect("a prune"), Pruned { removed: 1, more: false });
    assert_eq!(ids(Order::Id, "failed", None), ["late-2"]);
}

/// Rows without a time, which an index has before all others, used to hide those behind them.
#[test]
fn rows_without_a_time_are_listed_where_1970_is_and_hide_nobody() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let database = server.connect();
    database.run(MIGRATED);
    let backend = open(&server, cache.path(), &json!({})).expect("the database is taken over");
    eventually(SOON, "the indexes to be built", || whole_indexes(&database) == 7);
    database.run(
        "INSERT INTO evaluations (id, code_hash, status, created_at) VALUES ('a', 'x', 'queued', NULL), \
         ('b', 'x', 'queued', NULL), ('new', 'x', 'queued', '2025-01-01'), ('newer', 'x', 'queued', '2026-01-01'), \
         ('old', 'x', 'queued', '1960-01-01')",
    );
    let call = Call::with_budget(Duration::from_secs(60));
    let ids = |backend: &Arc<dyn Backend>, mut query: Query| -> Vec<String> {
        query.limit = 1;
        let mut ids = Vec::new();
        loop {
            let page = backend.list(&call, &query).expect("a page");
            ids.extend(page.entries.into_iter().map(|(id, _)| id));
            match page.cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return ids,
            }
        }
    };
    let look = |backend: &Arc<dyn Backend>| {
        let newest = Query { order: Order::NewestFirst, ..Query::default() };
        let of_status = Query { status: Some("queued".to_owned()), ..newest.clone() };
        for query in [newest.clone(), of_status] {
            assert_eq!(ids(backend, query), ["newer", "new", "b", "a", "old"]);
        }
        let until = Some(1_735_689_600_000_001);
        assert_eq!(ids(backend, Query { until, ..newest.clone() }), ["new", "b", "a", "old"]);
        assert_eq!(ids(backend, Query { until, order: Order::Id, ..newest.clone() }), ["a", "b", "new", "old"]);
        assert_eq!(ids(backend, Query { since: Some(1), ..newest }), ["newer", "new"]);
    };
    look(&backend);
    drop(backend);

    // Where all indexes are there the next start gives them a time, too.
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    eventually(SOON, "every row to have a time", || {
        database.number("SELECT count(*) FROM evaluations WHERE created_at IS NULL") == 0
    });
    look(&backend);
}

/// The name of the C library's collation used to be believed where another one compares.
#[test]
fn ids_are_in_the_order_of_their_bytes_where_the_database_compares_otherwise() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    server
        .connect()
        .run("CREATE DATABASE icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LC_COLLATE 'C' LC_CTYPE 'C'");
    let database = Database::connect(&server.url_of("icu")).expect("there is such a database");
    database.run(MIGRATED);
    database.run(
        "INSERT INTO evaluations (id, code_hash, status) VALUES ('a', 'x', 'queued'), ('B', 'x', 'queued'), \
         ('c', 'x', 'queued')",
    );
    assert_eq!(database.number("SELECT count(*) FROM evaluations WHERE id < 'B'"), 1, "it compares as people do");

    let url = json!({"url": server.url_of("icu")});
    let backend = open(&server, cache.path(), &url).expect("the database is taken over");

    let query = Query { order: Order::Id, limit: 10, ..Query::default() };
    let page = backend.list(&Call::with_budget(Duration::from_secs(60)), &query).expect("a page");
    let ids: Vec<&str> = page.entries.iter().map(|(id, _)| &**id).collect();
    assert_eq!(ids, ["B", "a", "c"]);
}

#[test]
fn a_database_that_python_made_is_taken_over_row_by_row() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let database = server.connect();
    database.run(MIGRATED);
    database.run(FILLED);
    let file = "SELECT relfilenode::bigint FROM pg_class WHERE oid = 'evaluations'::regclass";
    let before = database.number(file);
    let setup = setup(&redis, &server);

    let worker = setup.start();

    // Old rows, read through us.
    let done = worker.record("old_done").expect("it is adopted");
    for (key, value) in [
        ("status", json!("completed")),
        ("code", json!("print(42)")),
        ("language", json!("python")),
        ("created_at", json!("2025-01-01T00:00:00.000000+00:00")),
        ("started_at", json!("2025-01-01T00:00:01.000000+00:00")),
        ("completed_at", json!("2025-01-01T00:00:03.000000+00:00")),
        ("output", json!("42\n")),
        ("runtime_ms", json!(2000)),
    ] {
        assert_eq!(done[key], value, "{key}");
    }
    assert_eq!(done["metadata"]["job_name"], "old-done-1");
    assert_eq!(done["metadata"]["timeout"], 30);
    assert_eq!(worker.history("old_done").len(), 2);
    assert_eq!(worker.record("old-open").expect("it is adopted")["code"], "nul: \0");
    let ids = |query: &str| -> Vec<String> {
        let page = worker.http().get(&format!("/evaluations?{query}")).json();
        let mut ids: Vec<String> = page["evaluations"]
            .as_array()
            .expect("a page")
            .iter()
            .map(|e| e["id"].as_str().unwrap_or("").to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("limit=10"), ["Old_bare", "old-cut", "old-open", "old_done"]);
    assert_eq!(ids("language=bash"), ["old-open"]);
    assert_eq!(ids("status=completed"), ["old_done"]);

    // Events go on where the service stopped.
    let confirmations = Confirmations::listen(&redis);
    let event = |channel: &str, body: &Value| Sent::new(channel, body);
    Publisher::new(&redis).publish(&[
        event("evaluation:completed", &json!({"eval_id": "old-open", "event_id": "c", "output": "late", "timestamp": "2025-01-03T00:00:00Z"})),
        event("evaluation:queued", &json!({"eval_id": "new", "event_id": "q", "code": "x = \"1\"\n", "language": "python", "timestamp": "2025-01-04T00:00:00Z"})),
        event("evaluation:running", &json!({"eval_id": "new", "event_id": "r", "executor_id": "job-1", "timestamp": "2025-01-04T00:00:01Z"})),
        event("evaluation:completed", &json!({"eval_id": "new", "event_id": "d", "output": "ok", "exit_code": 0, "metadata": {"a": 1.50}, "timestamp": "2025-01-04T00:00:03Z"})),
    ]);
    confirmations.wait_for(4, SOON);
    let open = worker.record("old-open").expect("it is stored");
    assert_eq!(
        (&open["status"], &open["output"], &open["code"]),
        (&json!("completed"), &json!("late"), &json!("nul: \0"))
    );
    assert_eq!(worker.history("old-open").len(), 2);

    let cut_is_kept = || {
        let cut = worker.record("old-cut").expect("it is stored");
        for (part, letter, size) in [("output", "o", 2_000_000), ("error", "e", 3_000_000)] {
            assert_eq!(cut[part], letter.repeat(1024));
            assert_eq!((&cut[format!("{part}_size")], &cut[format!("{part}_truncated")]), (&json!(size), &json!(true)));
        }
    };
    cut_is_kept();
    Publisher::new(&redis).publish(&[event(
        "evaluation:running",
        &json!({"eval_id": "old-cut", "event_id": "r", "executor_id": "job-2", "timestamp": "2025-01-03T00:00:00.5Z"}),
    )]);
    confirmations.wait_for(5, SOON);
    cut_is_kept();
    let columns = "SELECT count(*) FROM evaluations WHERE id = 'old-cut' AND state IS NOT NULL AND output_truncated \
                   AND error_truncated AND output = repeat('o', 1024) AND error = repeat('e', 1024) \
                   AND output_size = 2000000 AND error_size = 3000000";
    assert_eq!(database.number(columns), 1);

    // New rows, read by who knows only the service's columns and keys.
    let new = read_as_python_does(&database, "new");
    for (key, value) in [
        ("status", json!("completed")),
        ("code", json!("x = \"1\"\n")),
        ("language", json!("python")),
        ("timestamp", json!("2025-01-04T00:00:00.000000+00:00")),
        ("created_at", json!("2025-01-04T00:00:00.000000+00:00")),
        ("started_at", json!("2025-01-04T00:00:01.000000+00:00")),
        ("completed_at", json!("2025-01-04T00:00:03.000000+00:00")),
        ("output", json!("ok")),
        ("exit_code", json!(0)),
        ("runtime_ms", json!(2000)),
        ("executor_id", json!("job-1")),
        ("code_lines", json!(1)),
        ("metadata", json!({"a": 1.5})),
    ] {
        assert_eq!(new[key], value, "{key}");
    }
    let events =
        "SELECT event_type || ' ' || message FROM evaluation_events WHERE evaluation_id = 'new' ORDER BY timestamp";
    let events: Vec<String> = database.rows(events).iter().map(|row| row.get(0)).collect();
    assert_eq!(events[2], "status_changed Status changed to completed");
    assert_eq!(events.len(), 3);
    assert_eq!(database.number(file), before, "the table was rewritten");
    worker.terminate(Duration::from_secs(30));
}
