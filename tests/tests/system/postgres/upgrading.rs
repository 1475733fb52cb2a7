//! Tables that an older version of the plugin made become those that this one needs, whoever is at work meanwhile.

use std::thread;
use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{Call, ErrorKind, EventStamp, Fields, Outcome, Record, State, Status, with_items};
use storage_worker_tests::postgres_server::PostgresServer;

use super::{open, refusal};

/// What version 1 left: never to be changed with `schema/1_tables.sql`, of which it is what exists in databases.
const VERSION_1: &str = r#"
CREATE TABLE storage_worker_schema (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
INSERT INTO storage_worker_schema (version) VALUES (1);
CREATE TABLE evaluations (
    id varchar(64) COLLATE "C" PRIMARY KEY, code_hash varchar(64) NOT NULL, status varchar(20) NOT NULL,
    created_at timestamptz DEFAULT now(), queued_at timestamptz, started_at timestamptz, completed_at timestamptz,
    engine varchar(50), worker_id varchar(100), runtime_ms integer, memory_used_mb integer, exit_code integer,
    code_location varchar(255), output_location varchar(255), error_location varchar(255), output text, error text,
    output_size bigint, error_size bigint, metadata json, output_truncated boolean, error_truncated boolean);
CREATE INDEX ix_evaluations_status ON evaluations (status);
CREATE TABLE evaluation_events (
    id bigserial PRIMARY KEY,
    evaluation_id varchar(64) COLLATE "C" NOT NULL REFERENCES evaluations (id) ON DELETE CASCADE,
    timestamp timestamptz DEFAULT now(), event_type varchar(50) NOT NULL, message text, metadata jsonb);
CREATE INDEX idx_events_eval_time ON evaluation_events (evaluation_id, timestamp);
CREATE INDEX idx_events_type ON evaluation_events (event_type);
CREATE TABLE evaluation_metrics (
    id bigserial PRIMARY KEY,
    evaluation_id varchar(64) COLLATE "C" NOT NULL REFERENCES evaluations (id) ON DELETE CASCADE,
    metric_name varchar(100) NOT NULL, metric_value double precision NOT NULL, timestamp timestamptz DEFAULT now(),
    unit varchar(50));
CREATE INDEX idx_metrics_name_time ON evaluation_metrics (metric_name, timestamp);
CREATE INDEX idx_metrics_eval ON evaluation_metrics (evaluation_id);
INSERT INTO evaluations (id, code_hash, status, created_at, metadata)
SELECT 'old-' || n, 'x', 'queued', timestamptz '2025-01-01' + n * interval '1 second', '{"code": "print(1)", "language": "python"}'
FROM generate_series(1, 2000) AS n;
"#;

/// Longer than a migration waits for a lock before it lets others through.
const LOCKED: Duration = Duration::from_secs(3);

#[test]
fn tables_of_version_1_are_brought_up_to_date_once_without_a_rewrite() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let (database, reader) = (server.connect(), server.connect());
    database.run(VERSION_1);
    let file = "SELECT relfilenode::bigint FROM pg_class WHERE oid = 'evaluations'::regclass";
    let before = database.number(file);
    let (kind, message) = refusal(&server, cache.path(), &json!({"migrate": "check"}));
    assert_eq!(kind, ErrorKind::Configuration);
    assert!(message.contains("of version 1, 2 is needed"), "{message}");

    // Somebody reads for longer than a lock is waited for, and three workers start at once.
    reader.run("BEGIN; SELECT count(*) FROM evaluations");
    let backends: Vec<_> = thread::scope(|scope| {
        let openers: Vec<_> = (0..3).map(|_| scope.spawn(|| open(&server, cache.path(), &json!({})))).collect();
        thread::sleep(LOCKED);
        // Others are let through meanwhile.
        database.run("SET lock_timeout = '4s'; UPDATE evaluations SET code_hash = 'y' WHERE id = 'old-2'");
        reader.run("COMMIT");
        openers.into_iter().map(|opener| opener.join().expect("no panic").expect("it is taken over")).collect()
    });

    assert_eq!(database.number("SELECT count(*) FROM storage_worker_schema"), 2);
    assert_eq!(database.number(file), before, "the table was rewritten");
    let call = Call::with_budget(Duration::from_secs(20));
    let mut state = State::new();
    state.set_end(&EventStamp::new(1_767_225_600_000_000, "e"), Status::Completed);
    for (backend, id) in backends.iter().zip(["old-1", "old-2", "old-2000"]) {
        let merged = with_items(&[(id, &state)], |items| backend.merge(&call, items)).expect("it is merged");
        assert_eq!(merged[0].outcome, Outcome::Updated, "{id}");
        let found = backend.get(&call, &[id], Fields::Whole).expect("it is read").remove(0).expect("it is there");
        let record = Record::of(id, &found.state);
        assert_eq!((record.status, record.code.as_deref()), (Some(Status::Completed), Some("print(1)")), "{id}");
    }
}
