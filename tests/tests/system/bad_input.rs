//! What is no event: answered by a log line with the reason, counted, kept as a dead letter with its original bytes,
//! and the worker goes on.

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use crate::SOON;

const MAX_PAYLOAD_BYTES: usize = 64 << 10;

struct Bad {
    name: &'static str,
    channel: &'static str,
    payload: Vec<u8>,
    /// The class under which it is counted.
    class: &'static str,
    /// What its log line must say.
    says: &'static str,
}

/// Bad payloads, sent to `evaluation:queued`, which requires `eval_id` and `code`.
fn table() -> Vec<Bad> {
    let bad = |name, payload: &[u8], class, says| Bad {
        name,
        channel: "evaluation:queued",
        payload: payload.to_vec(),
        class,
        says,
    };
    let with_id = |id: Value| json!({"eval_id": id, "code": "x"}).to_string().into_bytes();
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"eval_id":"e","code":"x","metadata":{{"deep":{open}{close}}}}}"#).into_bytes()
    };
    vec![
        bad("nothing", b"", "invalid_json", "JSON"),
        bad("no JSON", b"hello", "invalid_json", "JSON"),
        bad("half a JSON", br#"{"eval_id":"e","code":"x""#, "invalid_json", "JSON"),
        bad("more than one JSON", br#"{"eval_id":"e","code":"x"} {}"#, "invalid_json", "JSON"),
        bad("a number that is none", br#"{"eval_id":"e","code":"x","metadata":{"n":01}}"#, "invalid_json", "JSON"),
        bad("a lone surrogate", br#"{"eval_id":"e","code":"\ud800"}"#, "invalid_json", "JSON"),
        bad("invalid UTF-8", b"{\"eval_id\":\"e\",\"code\":\"\xff\"}", "invalid_utf8", "UTF-8"),
        bad("a list", br#"[{"eval_id":"e","code":"x"}]"#, "not_an_object", "object"),
        bad("a text", br#""e""#, "not_an_object", "object"),
        bad("null", b"null", "not_an_object", "object"),
        bad("no id", br#"{"code":"x"}"#, "missing_field", "eval_id"),
        bad("an id that is null", &with_id(Value::Null), "missing_field", "eval_id"),
        bad("an empty id", &with_id("".into()), "missing_field", "eval_id"),
        bad("an id that is a number", &with_id(5.into()), "wrong_type", "eval_id"),
        bad("an id of 65 characters", &with_id("a".repeat(65).into()), "invalid_id", "eval_id"),
        bad("an id with a control character", &with_id("a\nb".into()), "invalid_id", "eval_id"),
        bad("an id that leads elsewhere", &with_id("../escape".into()), "invalid_id", "eval_id"),
        bad("an id with a slash", &with_id("a/b".into()), "invalid_id", "eval_id"),
        bad("an id that is no ASCII", &with_id("größe".into()), "invalid_id", "eval_id"),
        bad("no code", br#"{"eval_id":"e"}"#, "missing_field", "code"),
        bad("an empty code", br#"{"eval_id":"e","code":""}"#, "missing_field", "code"),
        bad("a code that is null", br#"{"eval_id":"e","code":null}"#, "missing_field", "code"),
        bad("a code that is a list", br#"{"eval_id":"e","code":["x"]}"#, "wrong_type", "code"),
        bad("nested 129 levels deep", &nested(127), "too_deep", "deep"),
        bad("nested 10 000 levels deep", &nested(10_000), "too_deep", "deep"),
        bad("too large", &vec![b' '; MAX_PAYLOAD_BYTES + 1], "too_large", "max_payload_bytes"),
    ]
}

#[test]
fn what_is_no_event_is_refused_with_a_reason_and_kept() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory").set("worker.max_payload_bytes", "64KiB");
    let mut worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);

    for (number, bad) in table().into_iter().enumerate() {
        let name = bad.name;
        let label = format!("reason=\"{}\"", bad.class);
        let before = worker.http().metric("storage_worker_events_rejected_total", &[&label]);
        publisher.publish(&[Sent { channel: bad.channel.to_owned(), payload: bad.payload.clone() }]);

        eventually(SOON, name, || worker.log().all("event rejected").len() > number);
        let entry = worker.log().all("event rejected").swap_remove(number);
        assert_eq!(entry["reason"], bad.class, "{name}");
        assert!(entry["error"].as_str().is_some_and(|error| error.contains(bad.says)), "{name}: {entry}");
        assert_eq!(entry["level"], "warn", "{name}");
        assert_eq!(entry["channel"], bad.channel, "{name}");
        eventually(SOON, name, || setup.dead_letters().len() > number);
        let letter = setup.dead_letters().swap_remove(number);
        assert_eq!(original_bytes(&letter), bad.payload, "{name}");
        assert_eq!(letter["channel"], bad.channel, "{name}");
        assert_eq!(letter["reason"], bad.class, "{name}");
        assert!(letter["error"].as_str().is_some_and(|error| error.contains(bad.says)), "{name}: {letter}");
        let after = worker.http().metric("storage_worker_events_rejected_total", &[&label]);
        assert_eq!(after - before, 1.0, "{name} is counted as {label}");
    }

    // None of it was stored or confirmed, and a good event still is.
    assert_eq!(confirmations.count(), 0);
    publisher.publish(&[Sent::new("evaluation:queued", &json!({"eval_id": "e", "code": "x"}))]);
    confirmations.wait_for(1, SOON);
    assert!(worker.is_running() && worker.is_ready());
}

#[test]
fn what_is_at_its_limit_is_taken() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory").set("worker.max_payload_bytes", "64KiB");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let (open, close) = ("[".repeat(126), "]".repeat(126));
    let deepest = format!(r#"{{"eval_id":"deep","code":"x","metadata":{{"deep":{open}{close}}}}}"#);
    let mut largest = r#"{"eval_id":"large","code":"x"}"#.to_owned();
    largest.push_str(&" ".repeat(MAX_PAYLOAD_BYTES - largest.len()));
    let longest = json!({"eval_id": "a".repeat(64), "code": "x", "event_id": "ö".repeat(200)}).to_string();

    let sent = [deepest, largest, longest]
        .map(|payload| Sent { channel: "evaluation:queued".to_owned(), payload: payload.into_bytes() });
    Publisher::new(&redis).publish(&sent);

    confirmations.wait_for(sent.len(), SOON);
    let deep = worker.http().get("/evaluations/deep").body;
    assert!(deep.contains(&format!("{open}{close}")), "{deep}");
    assert_eq!(worker.history(&"a".repeat(64))[0]["event_id"], "ö".repeat(200));
    assert!(setup.dead_letters().is_empty());
}

/// The payload of a dead letter: as text where it is one, else as base64.
fn original_bytes(letter: &Value) -> Vec<u8> {
    match (&letter["payload"], &letter["payload_base64"]) {
        (Value::String(text), Value::Null) => text.as_bytes().to_vec(),
        (Value::Null, Value::String(base64)) => decode_base64(base64),
        _ => panic!("either `payload` or `payload_base64` in {letter}"),
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte).expect("a base64 digit");
        bits = (bits << 6 | u32::try_from(digit).expect("below 64")) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).expect("below 256"));
        }
    }
    bytes
}
