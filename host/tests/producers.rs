//! What the producers of today send, each variant as they send it, and what becomes of it; and what holds of any payload.

use proptest::prelude::*;
use serde_json::{Value, json};
use storage_plugin_api::{Record, Status};
use storage_worker::event::Event;
use storage_worker::event::decode::{Arrival, Limits, decode};
use storage_worker::event::reject::Reject;
use storage_worker::event::row::EventRows;

const ARRIVAL: Arrival<'_> = Arrival { received_at: 1_800_000_000_000_000, entry_time: None, event_id: None };
const ID: &str = "20240115_103000_1a2b3c4d";
const SENT_AT: &str = "2024-01-15T10:30:00.123456+00:00";
const SENT: i64 = 1_705_314_600_123_456;

fn decode_bytes(status: Status, payload: &[u8]) -> Result<Event, Reject> {
    let (rows, channel) = (EventRows::default(), format!("evaluation:{status}"));
    let row = rows.get(&channel).expect("it is a built-in row");
    decode(&channel, row, payload, ARRIVAL, &Limits::default())
}

/// The record that an event alone makes.
fn record_of(status: Status, mut payload: Value) -> (i64, Value) {
    payload["eval_id"] = json!(ID);
    let event = decode_bytes(status, payload.to_string().as_bytes()).expect("producers send it");
    assert_eq!(&*event.evaluation_id, ID);
    let record = serde_json::to_value(Record::of(ID, &event.state)).expect("a record is JSON");
    (event.time, record)
}

/// Asserts what a record says under some of its keys.
fn assert_says((_, record): &(i64, Value), expected: Value) {
    for (key, value) in expected.as_object().expect("it is an object") {
        assert_eq!(&record[key], value, "`{key}` of {record}");
    }
}

#[test]
fn a_submission_tells_the_code_and_its_own_time() {
    let metadata = json!({"submitted_at": SENT_AT, "timeout": 30, "priority": 0, "batch": true});
    let payload = json!({"code": "print(42)\n", "language": "python", "engine": "docker", "metadata": metadata});

    let said = record_of(Status::Submitted, payload.clone());
    assert_eq!(said.0, SENT);
    assert_says(&said, json!({"status": "submitted", "code": "print(42)\n", "language": "python", "engine": "docker"}));
    assert_says(&said, json!({"created_at": SENT_AT, "submitted_at": SENT_AT, "code_lines": 1, "metadata": metadata}));

    let said = record_of(Status::Queued, payload);
    assert_says(&said, json!({"status": "queued", "queued_at": SENT_AT, "submitted_at": null, "success": null}));
}

#[test]
fn a_run_tells_who_runs_it_and_where() {
    let said = record_of(
        Status::Running,
        json!({"executor_id": "job-1", "container_id": "job-1", "timeout": 300, "started_at": SENT_AT}),
    );
    assert_eq!(said.0, SENT);
    assert_says(&said, json!({"executor_id": "job-1", "container_id": "job-1", "started_at": SENT_AT}));
    assert_says(&said, json!({"status": "running", "metadata": {"timeout": 300}}));

    let said = record_of(Status::Running, json!({"executor_id": "j", "container_id": null, "timeout": "30"}));
    assert_eq!(said.0, ARRIVAL.received_at);
    assert_says(&said, json!({"container_id": null, "metadata": {"timeout": "30"}}));
}

#[test]
fn every_completion_is_taken() {
    let metadata = json!({"job_name": "job-1", "completed_at": SENT_AT, "log_source": "kubernetes"});
    let said = record_of(Status::Completed, json!({"output": "42\n", "exit_code": 0, "metadata": metadata}));
    assert_eq!(said.0, SENT);
    assert_says(&said, json!({"status": "completed", "output": "42\n", "exit_code": 0, "success": true}));
    assert_says(&said, json!({"completed_at": SENT_AT, "metadata": metadata, "error": null}));

    // Without its log, which comes later.
    let said = record_of(Status::Completed, json!({"output": "", "exit_code": 0, "metadata": metadata}));
    assert_says(&said, json!({"output": null, "output_truncated": false}));

    // By hand.
    let manual = json!({"status": "completed", "manual_update": true, "reason": null});
    assert_says(
        &record_of(Status::Completed, manual),
        json!({"status": "completed", "metadata": {"manual_update": true}}),
    );

    // By the old executor.
    let old = json!({"status": "completed", "output": "o", "error": "", "exit_code": 0, "executor_id": "e",
                     "completed_at": SENT_AT, "runtime_ms": 12, "memory_used_mb": 34});
    let said = record_of(Status::Completed, old);
    assert_eq!(said.0, SENT);
    assert_says(&said, json!({"runtime_ms": 12, "memory_used_mb": 34, "executor_id": "e", "metadata": {}}));
}

#[test]
fn every_failure_is_taken() {
    let metadata = json!({"job_name": "job-1", "failed_at": SENT_AT, "log_source": "unknown"});
    let said = record_of(Status::Failed, json!({"error": "Traceback", "exit_code": 1, "metadata": metadata}));
    assert_eq!(said.0, SENT);
    assert_says(&said, json!({"status": "failed", "error": "Traceback", "exit_code": 1, "success": false}));
    assert_says(&said, json!({"completed_at": SENT_AT, "metadata": metadata}));

    for word in ["submission", "batch_submission"] {
        let said = record_of(Status::Failed, json!({"error": "no broker", "failed_at": word}));
        assert_eq!(said.0, ARRIVAL.received_at);
        assert_says(&said, json!({"error": "no broker", "metadata": {"failed_at": word}}));
    }

    assert_says(&record_of(Status::Failed, json!({"error": "HTTP 500"})), json!({"error": "HTTP 500", "metadata": {}}));
    let manual = json!({"status": "failed", "manual_update": true, "reason": "stuck"});
    let kept = json!({"manual_update": true, "reason": "stuck"});
    assert_says(&record_of(Status::Failed, manual), json!({"status": "failed", "error": null, "metadata": kept}));

    let timeout = json!({"exit_code": -1, "error": "", "metadata": {"reason": "timeout"}});
    assert_says(&record_of(Status::Failed, timeout), json!({"exit_code": -1, "metadata": {"reason": "timeout"}}));
    let timeout = json!({"status": "timeout", "output": "so far", "exit_code": "-1"});
    let said = record_of(Status::Completed, timeout);
    assert_says(&said, json!({"status": "failed", "output": "so far", "exit_code": -1, "success": false}));
    assert_says(&said, json!({"metadata": {"reason": "timeout"}}));
}

#[test]
fn every_cancellation_is_taken() {
    for reason in ["Job deleted", "Job deleted via API"] {
        let said = record_of(Status::Cancelled, json!({"job_name": "j", "cancelled_at": SENT_AT, "reason": reason}));
        assert_eq!(said.0, SENT);
        assert_says(&said, json!({"status": "cancelled", "error": reason, "metadata": {"job_name": "j"}}));
        assert_says(&said, json!({"completed_at": SENT_AT, "success": false}));
    }
    let manual = json!({"status": "cancelled", "manual_update": true, "reason": null});
    assert_says(&record_of(Status::Cancelled, manual), json!({"error": null, "metadata": {"manual_update": true}}));
}

#[test]
fn a_submission_without_code_is_rejected() {
    let reject = decode_bytes(Status::Submitted, br#"{"eval_id":"a","code":""}"#).expect_err("it has no code");

    let message = "field `code` is missing or empty, and every event of `evaluation:submitted` must have it";
    assert_eq!((reject.class(), reject.to_string().as_str()), ("missing_field", message));
}

/// Writes a value with its keys in another order, other white space and other escapes.
fn disguise(value: &Value, out: &mut String, seed: u64) {
    let space = ["", " ", "\n\t", " \r\n "][usize::try_from(seed % 4).expect("it is below 4")];
    match value {
        Value::Object(map) => {
            out.push('{');
            let mut entries: Vec<_> = map.iter().collect();
            let by = usize::try_from(seed % 7).expect("it is below 7") % entries.len().max(1);
            entries.rotate_left(by);
            for (index, (key, value)) in entries.into_iter().enumerate() {
                out.push_str(if index == 0 { space } else { "," });
                disguise(&Value::String(key.clone()), out, seed / 3);
                out.push_str(space);
                out.push(':');
                disguise(value, out, seed / 2);
                out.push_str(space);
            }
            out.push('}');
        }
        Value::String(text) => {
            out.push('"');
            for (index, unit) in text.encode_utf16().enumerate() {
                match char::from_u32(unit.into()) {
                    Some(plain) if plain.is_ascii_alphanumeric() && !(index as u64 + seed).is_multiple_of(3) => {
                        out.push(plain)
                    }
                    _ => out.push_str(&format!("\\u{unit:04X}")),
                }
            }
            out.push('"');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn payload() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "eval_id",
        "event_id",
        "code",
        "output",
        "error",
        "reason",
        "status",
        "timestamp",
        "submitted_at",
        "metadata",
        "exit_code",
        "runtime_ms",
        "language",
        "executor_id",
        "x",
        "",
        "é\u{10ffff}",
    ]);
    let text = prop_oneof![
        prop::sample::select(vec!["a", "b-1", "../escape", "", "failed", "timeout", SENT_AT, "7"])
            .prop_map(str::to_owned),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::String),
    ];
    let value = leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((".{0,3}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    });
    let fields = prop::collection::vec((key, value), 0..8);
    (fields, any::<bool>()).prop_map(|(fields, has_ids)| {
        let mut payload: serde_json::Map<_, _> =
            fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        if has_ids {
            payload.insert("eval_id".to_owned(), json!("a"));
            payload.insert("code".to_owned(), json!("print(42)"));
        }
        Value::Object(payload)
    })
}

fn status() -> impl Strategy<Value = Status> {
    let has_row = |status: &Status| *status != Status::Provisioning;
    prop::sample::select(Status::ALL.into_iter().filter(has_row).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_make_it_panic(status in status(), bytes in any::<Vec<u8>>(), payload in payload(), at: prop::sample::Index, byte: u8) {
        let _ = decode_bytes(status, &bytes);
        let mut damaged = payload.to_string().into_bytes();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        let _ = decode_bytes(status, &damaged);
        damaged.truncate(at);
        let _ = decode_bytes(status, &damaged);
    }

    #[test]
    fn order_of_keys_white_space_and_escapes_change_nothing(status in status(), payload in payload(), seed: u64) {
        let mut disguised = " ".to_owned();
        disguise(&payload, &mut disguised, seed);

        let said = |text: &str| decode_bytes(status, text.as_bytes()).map(|event| (event.event_id, event.state.to_canonical_json()));
        prop_assert_eq!(said(&payload.to_string()), said(&disguised), "{}", disguised);
    }

    #[test]
    fn an_event_is_a_state_that_can_be_stored(status in status(), payload in payload()) {
        let Ok(event) = decode_bytes(status, payload.to_string().as_bytes()) else { return Ok(()) };

        let registers = event.state.registers();
        prop_assert!(registers.iter().all(|register| register.stamp.time == event.time));
        prop_assert!(registers.iter().all(|register| register.stamp.event_id == event.event_id));
        prop_assert!((0..=253_402_300_799_999_999).contains(&event.time));
        let stored = event.state.to_canonical_json();
        let reread = storage_plugin_api::State::from_json(&stored).expect("it was just written");
        prop_assert_eq!(reread.to_canonical_json(), stored);
        prop_assert_eq!(Record::status_of(&event.state), Some(event.status));
    }
}
