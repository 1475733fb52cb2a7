//! What every statement does in a large table, as the server itself logs it: none reads a table from end to end.

use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{Call, Delete, EventStamp, Fields, Order, Prune, Query, State, Status, names, with_items};
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::wait::eventually;

use super::open;
use crate::SOON;

/// Evaluations in the table, beside the one that they are made of; more if `ROWS` says so.
const ROWS: i64 = 200_000;

/// Copies of one row, of different statuses and times; a few as the Python service would have left them.
const FILL: &str = "
INSERT INTO evaluations (id, code_hash, status, created_at, completed_at, language, output, output_size, metadata, state)
SELECT 'copy-' || n, code_hash, (ARRAY['completed','completed','completed','failed','cancelled','running','queued','submitted'])[1 + n % 8],
    timestamptz '2025-01-01' + n * interval '1 second',
    CASE WHEN n % 8 < 5 THEN timestamptz '2025-01-01' + (n + 5) * interval '1 second' END,
    CASE WHEN n % 1000 = 0 THEN 'rare' ELSE 'python' END, output, output_size, metadata,
    CASE WHEN n % 5000 = 1 THEN NULL ELSE state END
FROM evaluations, generate_series(1, $rows) AS n WHERE id = 'first';
INSERT INTO evaluation_events (evaluation_id, event_id, timestamp, event_type, message)
SELECT 'copy-' || n, 'e', now(), 'submitted', 'm' FROM generate_series(1, $rows) AS n;
INSERT INTO evaluation_bodies (evaluation_id, name, body)
SELECT 'copy-' || n, 'failed/output', 'b' FROM generate_series(1, $rows / 10) AS n;
";

fn told(time: i64, status: Status) -> State {
    let stamp = EventStamp::new(time, format!("e-{time}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_end(&stamp, status);
    state.set_text(&stamp, names::CODE, "code");
    state.set_text(&stamp, &names::outcome(status, "output"), format!("output {time}"));
    state.set_history(&stamp, "status_changed", status, "over");
    state
}

/// The same without bodies.
fn silent(time: i64, status: Status) -> State {
    let mut state = State::new();
    state.set_end(&EventStamp::new(time, format!("e-{time}")), status);
    state
}

/// An event of an id that is there, told again with another time.
fn retold(time: i64, event_id: &str) -> State {
    let mut state = State::new();
    state.set_history(&EventStamp::new(time, event_id), "status_changed", Status::Completed, "over");
    state
}

#[test]
fn no_statement_reads_a_large_table_from_end_to_end() {
    let server = PostgresServer::start_with(&[
        "fsync=off",
        "max_wal_size=4GB",
        "autovacuum=off",
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "log_line_prefix=%a ",
    ]);
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    let call = Call::with_budget(Duration::from_secs(120));
    let merge = |id: &str, state: &State| {
        with_items(&[(id, state)], |items| backend.merge(&call, items)).expect("the batch is taken");
    };
    merge("first", &told(100, Status::Completed));
    let database = server.connect();
    eventually(SOON, "the indexes to be built", || {
        database.number(
            "SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'evaluations\\_%' AND tablename = 'evaluations'",
        ) >= 6
    });
    database.run("SET auto_explain.log_min_duration = -1");
    let rows = std::env::var("ROWS").map_or(ROWS, |rows| rows.parse().expect("a number of rows"));
    database.run(&FILL.replace("$rows", &rows.to_string()));
    database.run("VACUUM ANALYZE evaluations");
    database.run("VACUUM ANALYZE evaluation_events");
    database.run("VACUUM ANALYZE evaluation_bodies");
    assert_eq!(database.number("SELECT count(*) FROM evaluations"), rows + 1);
    let from = server.whole_log().len();

    // More often than the five times after which a prepared statement gets its plan for good.
    for round in 0..8 {
        // New, an event of it with an earlier time, changed, another outcome that came earlier, the first one back,
        // repeated, and one of the Python service.
        merge(&format!("new-{round}"), &told(50, Status::Completed));
        merge(&format!("new-{round}"), &retold(45, "e-50"));
        merge(&format!("new-{round}"), &told(40, Status::Failed));
        merge(&format!("new-{round}"), &silent(30, Status::Completed));
        merge(&format!("new-{round}"), &silent(30, Status::Completed));
        merge(&format!("copy-{}", 1 + 5000 * round), &told(30, Status::Completed));
        // A whole batch: some new, some that are there.
        let ids: Vec<String> =
            (0..256).flat_map(|n| [format!("batch-{round}-{n}"), format!("copy-{}", 10_000 + n)]).collect();
        let state = told(20 - round, Status::Completed);
        let batch: Vec<(&str, &State)> = ids.iter().map(|id| (&**id, &state)).collect();
        with_items(&batch, |items| backend.merge(&call, items)).expect("the batch is taken");
        for order in [Order::Id, Order::NewestFirst] {
            for filter in 0..16 {
                let mut query = Query { order, limit: 50, ..Query::default() };
                query.fields = if round % 2 == 0 { Fields::Whole } else { Fields::WithoutBodies };
                let status = if round % 4 < 2 { "running" } else { "failed" };
                query.status = (filter & 1 != 0).then(|| status.to_owned());
                query.language = (filter & 2 != 0).then(|| "rare".to_owned());
                query.since = (filter & 4 != 0).then_some(1_735_800_000_000_000);
                query.until = (filter & 8 != 0).then_some(1_735_900_000_000_000);
                let page = backend.list(&call, &query).expect("a page");
                if page.cursor.is_some() {
                    query.cursor = page.cursor;
                    backend.list(&call, &query).expect("the next page");
                }
            }
        }
        backend.get(&call, &["copy-7", "copy-5001", "new-0"], Fields::Whole).expect("states");
        backend.counts(&call).expect("counts");
        let digest = [1; 32];
        let items = [Delete { id: "copy-9", digest: Some(&digest) }, Delete { id: "gone", digest: None }];
        backend.delete(&call, &items).expect("answers");
        backend.delete(&call, &[Delete { id: &format!("copy-{}", 100 + round), digest: None }]).expect("an answer");
        let prune = Prune { ended_before: 1_735_700_000_000_000, limit: 10, dry_run: false };
        assert_eq!(backend.prune(&call, &prune).expect("a prune").removed, 10);
    }

    let log = server.whole_log();
    let plans: Vec<&str> = log[from..].split("storage-worker LOG:").filter(|entry| entry.contains("plan:")).collect();
    for part in [
        "FOR NO KEY UPDATE",
        "INSERT INTO \"public\".\"evaluations\"",
        "UPDATE \"public\".\"evaluations\"",
        "INSERT INTO \"public\".\"evaluation_bodies\"",
        "DELETE FROM \"public\".\"evaluation_bodies\"",
        "DELETE FROM \"public\".\"evaluation_events\"",
        "SKIP LOCKED",
        "GROUP BY status",
        "AS kinds",
        "completed_at < $1",
    ] {
        assert!(plans.iter().any(|plan| plan.contains(part)), "no plan of a statement with {part}");
    }
    for plan in plans {
        assert!(!plan.contains("Seq Scan on evaluation"), "{plan}");
    }
}
