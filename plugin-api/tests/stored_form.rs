//! The stored form of a state, held against a golden file, so that it cannot change by accident: what an older version
//! stored must read for ever. `UPDATE_GOLDEN=1` rewrites the file for review.

use std::path::Path;

use storage_plugin_api::body::sha256;
use storage_plugin_api::{Body, EventStamp, Reference, Register, Rule, State, Status, StoredError, Value, names};

/// A life with one of everything: each rule and kind of value, a reference, a stage, a losing outcome, odd texts.
fn state() -> State {
    let mut state = State::new();
    let queued = EventStamp::new(1_700_000_000_000_001, "q-1");
    state.set_created(&queued);
    state.set_open(&queued, Status::Queued);
    state.set_stage_at(&queued, Status::Queued);
    state.set_text(&queued, names::CODE, "print(\"é\0\u{1f600}\")\n");
    state.set_string(&queued, names::LANGUAGE, "python");
    state.set_metadata(&queued, "priority", "1.50");
    state.set_metadata(&queued, "a \"key\"\n", "{\"a\":[],\"b\":null}");
    state.set_history(&queued, "status_changed", Status::Queued, "Status changed to queued");

    let completed = EventStamp::new(1_700_000_003_000_000, "c \"1\"");
    state.set_end(&completed, Status::Completed);
    state.set_number(&completed, "completed/exit_code", 0);
    state.set_history(&completed, "status_changed", Status::Completed, "Status changed to completed");
    let output = Body::reference(Reference {
        characters: 4,
        lines: 1,
        location: Some("blob:output".to_owned()),
        preview: "42".to_owned(),
        sha256: sha256(b"42\n\n"),
    });
    let register = |name: &'static str, value| Register {
        name: name.into(),
        rule: Rule::First,
        stage: 0,
        stamp: completed.clone(),
        value,
    };
    state.set(register("completed/output", Value::Body(output)));
    state.set(Register { rule: Rule::Last, stage: 3, ..register("of a newer version", Value::Json("[1,2]".into())) });

    let failed = EventStamp::new(1_700_000_004_000_000, "f-1");
    state.set_end(&failed, Status::Failed);
    state.set_text(&failed, "failed/error", "too late");
    state
}

#[test]
fn the_stored_form_does_not_change() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state.json");
    let written = state().to_canonical_json() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &written).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there; UPDATE_GOLDEN=1 writes it");

    assert_eq!(written, golden, "the stored form changed: older and newer programs would no longer agree");
    let read = State::from_json(golden.trim_end()).expect("the golden file is a stored state");
    assert_eq!(read.to_canonical_json() + "\n", golden);
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let newer = r#"{"events":"packed","format":2,"registers":[]}"#;

    assert!(matches!(State::from_json(newer), Err(StoredError::NewerFormat { found: 2 })));
    assert!(matches!(State::from_json("{}"), Err(StoredError::Malformed { .. })));
}

#[test]
fn what_is_no_stored_state_is_refused_and_never_guessed_at() {
    let with = |register: &str| format!(r#"{{"events":[["e",1]],"format":1,"registers":{{"x":{register}}}}}"#);
    assert!(State::from_json(&with(r#"{"first":0,"value":1}"#)).is_ok());
    for register in [
        r#"{"first":1,"value":1}"#,
        r#"{"value":1}"#,
        r#"{"first":0,"last":0,"value":1}"#,
        r#"{"first":0}"#,
        r#"{"first":0,"text":"a","value":1}"#,
        r#"{"first":0,"sha256":"00","text":"a"}"#,
        r#"{"first":0,"value":"\ud800"}"#,
        r#"{"first":0,"value":1"#,
    ] {
        assert!(matches!(State::from_json(&with(register)), Err(StoredError::Malformed { .. })), "{register}");
    }
}
