//! What becomes of payloads: a table of inputs and results.

use super::*;

const ARRIVAL: Arrival<'_> = Arrival { received_at: 1_000, entry_time: None, event_id: None };

fn row(status: Status, require: &[&str]) -> EventRow {
    EventRow::for_test(status, require)
}

fn decode_as(status: Status, require: &[&str], payload: &str) -> Result<Event, Reject> {
    decode("channel", &row(status, require), payload.as_bytes(), ARRIVAL, &Limits::default())
}

/// The registers of an event but those that every event has: names and values, and the time if one was sent.
fn said(status: Status, fields: &str) -> String {
    let event = decode_as(status, &[], &format!(r#"{{"eval_id":"a","event_id":"e",{fields}}}"#)).expect("it is valid");
    let has_own = |name: &str| {
        name.starts_with("metadata/")
            || (!name.starts_with("history/") && !name.starts_with("end/") && !name.ends_with("_at"))
    };
    let registers =
        event.state.registers().iter().filter(|register| has_own(&register.name) && register.name != "open");
    let mut said: Vec<String> = registers
        .map(|register| match (register.value.as_json(), register.value.as_body()) {
            (Some(value), _) => format!("{}={value}", register.name),
            (None, body) => {
                format!("{}:{}", register.name, body.and_then(|body| body.as_text()).unwrap_or_default())
            }
        })
        .collect();
    if event.time != ARRIVAL.received_at {
        said.push(format!("@{}", event.time));
    }
    said.join(" ")
}

#[test]
fn fields_become_registers() {
    use Status::{Cancelled, Completed, Failed, Queued, Running, Submitted};
    for (status, fields, expected) in [
        (Queued, r#""code":"x","language":"python","engine":"docker""#, r#"code:x engine="docker" language="python""#),
        (
            Running,
            r#""executor_id":"j","container_id":"c","timeout":30"#,
            r#"container_id="c" executor_id="j" metadata/timeout=30"#,
        ),
        (
            Completed,
            r#""output":"o","exit_code":0,"metadata":{"b":[],"a":1.50}"#,
            r"completed/exit_code=0 completed/output:o metadata/a=1.50 metadata/b=[]",
        ),
        (
            Failed,
            r#""error":"e","runtime_ms":5,"memory_used_mb":7"#,
            r"failed/error:e failed/memory_used_mb=7 failed/runtime_ms=5",
        ),
        // Empty says nothing; an empty list is a value.
        (Completed, r#""output":"","error":null,"language":"","metadata":null,"x":{ },"y":"","z":[]"#, "metadata/z=[]"),
        (
            Queued,
            r#""metadata":{"a":null,"b":"","c":{},"d":false,"e":0,"f":" "}"#,
            r#"metadata/d=false metadata/e=0 metadata/f=" ""#,
        ),
        // Outcome fields on an event that is no outcome are kept under metadata, as is all that is unknown.
        (Running, r#""output":"o","exit_code":1"#, r#"metadata/exit_code=1 metadata/output="o""#),
        (Queued, r#""x":{"b":1,"a":2},"channel":"c""#, r#"metadata/channel="c" metadata/x={"a":2,"b":1}"#),
        (Queued, r#""x":1,"metadata":{"x":2}"#, "metadata/x=2"),
        (Queued, r#""x":1,"metadata":{"x":null}"#, "metadata/x=1"),
        // The status is the row's, but for failures on a terminal row.
        (Queued, r#""status":"failed""#, ""),
        (Completed, r#""status":"completed","output":"o""#, "completed/output:o"),
        (Completed, r#""status":"failed","output":"o""#, "failed/output:o"),
        (Failed, r#""status":"timeout","error":"e""#, r#"failed/error:e metadata/reason="timeout""#),
        (Failed, r#""status":"timeout","metadata":{"reason":"r"}"#, r#"metadata/reason="r""#),
        (Completed, r#""status":["failed"]"#, ""),
        // The reason of a cancelled event is its error.
        (Cancelled, r#""reason":"Job deleted","job_name":"j""#, r#"cancelled/error:Job deleted metadata/job_name="j""#),
        (Cancelled, r#""reason":"r","error":"e""#, r#"cancelled/error:e metadata/reason="r""#),
        (Cancelled, r#""reason":null,"manual_update":true"#, "metadata/manual_update=true"),
        (Failed, r#""reason":"r""#, r#"metadata/reason="r""#),
        // Optional fields of a wrong type or beyond their limit are kept under metadata.
        (
            Completed,
            r#""output":5,"exit_code":"-1","runtime_ms":"x","memory_used_mb":2147483648"#,
            r#"completed/exit_code=-1 metadata/memory_used_mb=2147483648 metadata/output=5 metadata/runtime_ms="x""#,
        ),
        (Completed, r#""exit_code":1.5,"runtime_ms":true"#, "metadata/exit_code=1.5 metadata/runtime_ms=true"),
        (Queued, r#""code":["x"],"metadata":[1]"#, r#"metadata/code=["x"] metadata/metadata=[1]"#),
        // Times that are not the event's are kept, and what is no time is none.
        (Running, r#""started_at":"1970-01-01T00:00:01Z""#, "@1000000"),
        (
            Running,
            r#""timestamp":"1970-01-01T00:00:02","started_at":"1970-01-01T00:00:01Z""#,
            r#"metadata/started_at="1970-01-01T00:00:01Z" @2000000"#,
        ),
        (
            Queued,
            r#""metadata":{"submitted_at":"1970-01-01T00:00:03Z"}"#,
            r#"metadata/submitted_at="1970-01-01T00:00:03Z" @3000000"#,
        ),
        (
            Submitted,
            r#""metadata":{"timestamp":"1970-01-01T00:00:03Z"}"#,
            r#"metadata/timestamp="1970-01-01T00:00:03Z""#,
        ),
        (
            Failed,
            r#""failed_at":"submission","metadata":{"failed_at":"1970-01-01T00:00:04Z"}"#,
            r#"metadata/failed_at="1970-01-01T00:00:04Z" @4000000"#,
        ),
        (
            Failed,
            r#""failed_at":"submission","timestamp":"1970-01-01""#,
            r#"metadata/failed_at="submission" metadata/timestamp="1970-01-01""#,
        ),
        (Failed, r#""timestamp":1700000000"#, "metadata/timestamp=1700000000"),
        // Of duplicate keys the last counts; NUL and any Unicode are text.
        (Completed, r#""output":"a","output":"b\u0000\ud83d\ude00","\u006futput":"c""#, "completed/output:c"),
        (Completed, r#""output":"\u0000é""#, "completed/output:\0é"),
    ] {
        assert_eq!(said(status, fields), expected, "{status} {fields}");
    }
}

#[test]
fn limits_are_counted_in_characters() {
    let text = |length: usize| format!(r#""language":"{}""#, "é".repeat(length));

    assert!(said(Status::Queued, &text(50)).starts_with("language="));
    assert!(said(Status::Queued, &text(51)).starts_with("metadata/language="));
}

#[test]
fn what_is_no_event_is_rejected_with_its_class() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let long_id = format!(r#"{{"eval_id":"{}"}}"#, "a".repeat(65));
    let deep = |field: &str, depth| format!(r#"{{"eval_id":"a","{field}":{}}}"#, nested(depth));
    let deep_duplicate = format!(r#"{{"eval_id":"a","x":{},"x":1,"event_id":"e"}}"#, nested(128));
    let large = format!(r#"{{"eval_id":"a","metadata":{{"x":"{}"}}}}"#, "x".repeat(1 << 20));
    for (payload, class) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        (r#"{"eval_id":"a"} x"#, "invalid_json"),
        (r#"{"eval_id":"a",}"#, "invalid_json"),
        (r#"{"eval_id":"a","x":01}"#, "invalid_json"),
        (r#"{"eval_id":"a","x":NaN}"#, "invalid_json"),
        ("{\"eval_id\":\"a\",\"x\":\"\n\"}", "invalid_json"),
        (r#"{"eval_id":"a","x":"\ud800"}"#, "invalid_json"),
        (r#"{"eval_id":"a","x":"\ud800","x":1}"#, "invalid_json"),
        (r#"{"eval_id":"a","status":"\ud800"}"#, "invalid_json"),
        (r#"{"eval_id":"a","timestamp":"\ud800","event_id":"e"}"#, "invalid_json"),
        (r#"{"eval_id":"a","metadata":{"\udc00":1}}"#, "invalid_json"),
        ("\u{feff}{}", "invalid_json"),
        ("[]", "not_an_object"),
        (" null ", "not_an_object"),
        (r#""{}""#, "not_an_object"),
        (&nested(10_000), "not_an_object"),
        ("{}", "missing_field"),
        (r#"{"eval_id":null}"#, "missing_field"),
        (r#"{"eval_id":""}"#, "missing_field"),
        (r#"{"eval_id":7}"#, "wrong_type"),
        (r#"{"eval_id":"../escape"}"#, "invalid_id"),
        (r#"{"eval_id":"a\u0000"}"#, "invalid_id"),
        (&long_id, "invalid_id"),
        (&deep("x", 128), "too_deep"),
        (&deep("x", 10_000), "too_deep"),
        (&deep("status", 10_000), "too_deep"),
        (&deep("metadata", 10_000), "too_deep"),
        (&deep_duplicate, "too_deep"),
        (&large, "metadata_too_large"),
    ] {
        let class = (class, Reject::CLASSES.contains(&class));
        let reject = decode_as(Status::Completed, &[], payload).map_err(|reject| (reject.class(), true));
        assert_eq!(reject.map(|event| event.state.to_canonical_json()), Err(class), "{payload:.80}");
    }
    assert!(decode_as(Status::Completed, &[], &deep("x", 127)).is_ok());
}

#[test]
fn bytes_that_are_no_text_and_payloads_too_large_are_rejected() {
    let limits = Limits { max_payload_bytes: 4 };
    let decode = |payload: &[u8]| decode("c", &row(Status::Queued, &[]), payload, ARRIVAL, &limits);

    assert_eq!(decode(b"{\"\xff\"}").expect_err("it is too large").class(), "too_large");
    assert_eq!(decode(b"{\"\xff").expect_err("it is not UTF-8"), Reject::InvalidUtf8 { offset: 2 });
}

#[test]
fn an_event_without_a_time_has_that_of_its_entry_or_of_its_arrival() {
    let from_stream = Arrival { received_at: 1, entry_time: Some(2), event_id: None };
    let time = |arrival| {
        let event = decode("c", &row(Status::Queued, &[]), br#"{"eval_id":"a"}"#, arrival, &Limits::default());
        event.expect("it is valid").time
    };

    assert_eq!((time(ARRIVAL), time(from_stream)), (1_000, 2));
}

#[test]
fn a_row_may_name_the_field_of_its_time() {
    let row = EventRow { time: Some("done".to_owned()), ..row(Status::Completed, &[]) };
    let payload = br#"{"eval_id":"a","done":"1970-01-01T00:00:01Z","completed_at":"1970-01-01T00:00:02Z"}"#;
    let event = decode("c", &row, payload, ARRIVAL, &Limits::default()).expect("it is valid");

    assert_eq!(event.time, 1_000_000);
    assert!(event.state.get("metadata/done").is_none());
    assert!(event.state.get("metadata/completed_at").is_some());
}

#[test]
fn an_event_id_that_is_none_is_kept_and_replaced_by_a_hash() {
    let long = "e".repeat(201);
    let event = decode_as(Status::Queued, &[], &format!(r#"{{"eval_id":"a","event_id":"{long}"}}"#)).expect("valid");

    assert_eq!(event.event_id.len(), 32);
    assert!(event.state.get("metadata/event_id").is_some());
}

#[test]
fn an_event_leaves_a_line_in_the_history() {
    let line = |status| {
        let event = decode_as(status, &[], r#"{"eval_id":"a","event_id":"e"}"#).expect("it is valid");
        event.state.get("history/e").and_then(|register| register.value.as_json().map(str::to_owned))
    };

    let submitted = r#"{"message":"Evaluation submitted","status":"submitted","type":"submitted"}"#;
    let queued = r#"{"message":"Status changed to queued","status":"queued","type":"status_changed"}"#;
    assert_eq!((line(Status::Submitted).as_deref(), line(Status::Queued).as_deref()), (Some(submitted), Some(queued)));
}
