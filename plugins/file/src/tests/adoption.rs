//! A directory as the original wrote it.

use storage_plugin_api::Record;

use super::*;

const COMPLETED: &str = r#"{
  "id": "20250101_000000_abcdef01",
  "code": "print('\u00fc')\n",
  "code_hash": "0000",
  "status": "completed",
  "timestamp": "2025-01-01T00:00:00.123456+00:00",
  "created_at": "2025-01-01T00:00:00.123456+00:00",
  "code_lines": 1,
  "code_size": 11,
  "language": "python",
  "submitted_at": "2024-12-31T23:59:59.500000+00:00",
  "timeout": 30,
  "priority": 0,
  "metadata": {"job_name": "job-1", "timeout": 60, "empty": null},
  "executor_id": "executor-1",
  "container_id": "container-1",
  "started_at": "2025-01-01T00:00:01+00:00",
  "output": "42\n",
  "output_size": 3,
  "output_truncated": false,
  "error": "",
  "error_size": 0,
  "error_truncated": false,
  "completed_at": "2025-01-01T00:00:02.500000",
  "runtime_ms": 1500,
  "last_update": "2025-01-01T00:00:02.6"
}"#;

const EVENTS: &str = r#"[
  {"type": "submitted", "timestamp": "2025-01-01T00:00:00.123456+00:00", "message": "Evaluation submitted", "code_hash": "0000"},
  {"type": "status_changed", "timestamp": "2025-01-01T00:00:02.500000+00:00", "message": "Status changed to completed", "old_status": null, "new_status": "completed"}
]"#;

fn original(id: &str, record: &str, events: Option<&str>) -> TempDir {
    let directory = directory();
    for name in ["evaluations", "events", "metadata"] {
        std::fs::create_dir(directory.path().join(name)).expect("a directory");
    }
    std::fs::write(directory.path().join(format!("evaluations/{id}.json")), record).expect("written");
    if let Some(events) = events {
        std::fs::write(directory.path().join(format!("events/{id}.json")), events).expect("written");
    }
    directory
}

fn adopted(record: &str, events: Option<&str>) -> Record {
    let directory = original("x", record, events);
    Record::of("x", &get(&open(directory.path()), "x").expect("adopted").state)
}

#[test]
fn a_record_shows_what_the_original_showed() {
    let record = adopted(COMPLETED, Some(EVENTS));

    assert_eq!(record.status, Some(Status::Completed));
    assert_eq!(record.code.as_deref(), Some("print('ü')\n"));
    assert_eq!(record.code_lines, Some(1));
    assert_eq!(record.created_at, Some(START + 123_456));
    assert_eq!(record.submitted_at, Some(START - 500_000));
    assert_eq!(record.started_at, Some(START + SECOND));
    assert_eq!(record.completed_at, Some(START + 2_500_000));
    assert_eq!((record.output.as_deref(), record.error), (Some("42\n"), None));
    assert_eq!((record.runtime_ms, record.success), (Some(1500), Some(true)));
    assert_eq!(record.language.as_deref(), Some("python"));
    assert_eq!(record.executor_id.as_deref(), Some("executor-1"));
    assert_eq!(record.container_id.as_deref(), Some("container-1"));
    let metadata: Vec<_> = record.metadata.iter().map(|(key, value)| (&**key, &**value)).collect();
    let expected =
        [("job_name", "\"job-1\""), ("last_update", "\"2025-01-01T00:00:02.6\""), ("priority", "0"), ("timeout", "60")];
    assert_eq!(metadata, expected);
    let history: Vec<_> = record.history.iter().map(|entry| (&*entry.kind, &*entry.status, entry.timestamp)).collect();
    assert_eq!(
        history,
        [("submitted", "submitted", START + 123_456), ("status_changed", "completed", START + 2_500_000)]
    );
}

#[test]
fn every_status_is_taken_and_what_fits_nowhere_is_kept() {
    for status in Status::ALL {
        let record = adopted(&format!(r#"{{"id":"x","status":"{status}","created_at":"2025-01-01T00:00:00"}}"#), None);
        assert_eq!((record.status, record.created_at), (Some(status), Some(START)));
    }
    let timeout = adopted(r#"{"status":"timeout","created_at":"2025-01-01T00:00:00"}"#, None);
    assert_eq!(timeout.status, Some(Status::Failed));
    assert_eq!(timeout.metadata, [("reason".to_owned(), "\"timeout\"".to_owned())]);
    let bogus = adopted(r#"{"status":"bogus","output":"half","state":"NY","created_at":5}"#, None);
    assert_eq!(bogus.status, None);
    let keys: Vec<_> = bogus.metadata.iter().map(|(key, _)| &**key).collect();
    assert_eq!(keys, ["output", "state", "status"]);
}

/// What the original had cut off used to be taken for the whole.
#[test]
fn a_text_that_was_cut_off_stays_marked_so() {
    let record = r#"{"status":"failed","output":"be","output_truncated":true,"output_size":2000000,"error":"whole",
        "error_truncated":false,"error_size":5}"#;
    let directory = original("x", record, None);
    let look = |backend: &FileBackend| {
        let cut = Record::of("x", &get(backend, "x").expect("adopted").state);
        assert_eq!((cut.output.as_deref(), cut.output_size, cut.output_truncated), (Some("be"), Some(2_000_000), true));
        assert_eq!((cut.error.as_deref(), cut.error_size, cut.error_truncated), (Some("whole"), Some(5), false));
        assert_eq!(cut.metadata, []);
    };
    let backend = open(directory.path());
    look(&backend);

    let late = ended("late", START + 9 * SECOND, Status::Completed);
    assert_eq!(outcome(&backend, "x", &late), Outcome::Updated);
    backend.close(&call()).expect("closed");
    drop(backend);

    look(&open(directory.path()));
    let file = super::record(directory.path(), "x");
    assert_eq!((&file["output"], &file["output_truncated"]), (&"be".into(), &true.into()));
    // Of this one nothing is left but how much it was.
    let gone = adopted(r#"{"status":"failed","output":"","output_truncated":true,"output_size":2000000}"#, None);
    assert_eq!(gone.metadata.iter().map(|(_, value)| &**value).collect::<Vec<_>>(), ["2000000", "true"]);
}

#[test]
fn a_cancelled_evaluation_ended_when_its_history_says() {
    let events =
        r#"[{"type":"status_changed","timestamp":"2025-01-01T00:00:09","message":"m","new_status":"cancelled"}]"#;

    let record = adopted(r#"{"status":"cancelled","created_at":"2025-01-01T00:00:00"}"#, Some(events));

    assert_eq!(record.completed_at, Some(START + 9 * SECOND));
}

#[test]
fn adopted_files_are_listed_counted_and_merged_into() {
    let id = "20250101_000000_abcdef01";
    let directory = original(id, COMPLETED, Some(EVENTS));
    let before = {
        let backend = open(directory.path());
        assert_eq!(ids(&backend, &Query { limit: 10, ..Query::default() }), [id]);
        assert_eq!(backend.counts(&call()).expect("counted").by_status, [("completed".to_owned(), 1)].into());
        canonical(&backend, id).expect("adopted")
    };
    let written = std::fs::read_to_string(directory.path().join(format!("evaluations/{id}.json"))).expect("a file");
    assert_eq!(written, COMPLETED, "what nobody changes stays as it was");

    let backend = open(directory.path());
    let late = ended("late", START + 9 * SECOND, Status::Failed);
    assert_eq!(outcome(&backend, id, &late), Outcome::Updated);
    backend.close(&call()).expect("closed");
    drop(backend);

    let record = record(directory.path(), id);
    assert_eq!((&record["status"], &record["output"]), (&"completed".into(), &"42\n".into()));
    let mut expected = State::from_json(&before).expect("a state");
    expected.merge(&late);
    assert_eq!(canonical(&open(directory.path()), id), Some(expected.to_canonical_json()));
}
