//! What looks odd and is legal: accepted, and kept to the last character by every backend.

use std::time::Duration;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Expected, Sent, expected};
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

const AT: &str = "2025-01-01T12:00:00Z";

/// Events that are odd in one way each, as the text that is sent.
fn oddities() -> Vec<(&'static str, String)> {
    let all_of_ascii: String = (0..=0x7f_u8).map(char::from).collect();
    let unicode = "größe 数 🦀 \u{200b}\u{feff}\u{2028}\u{e000}\u{10ffff}\u{fffd} e\u{301} \u{1f468}\u{200d}\u{1f469}";
    let with = |more: Value| {
        let mut payload = json!({"eval_id": "odd-NUMBER", "timestamp": AT});
        payload.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        payload.to_string()
    };
    vec![
        ("NUL in bodies", with(json!({"output": "a\u{0}b\u{0}", "error": "\u{0}", "code": "\u{0}\n\u{0}"}))),
        ("every ASCII character", with(json!({"output": all_of_ascii, "metadata": {"all": all_of_ascii}}))),
        ("Unicode", with(json!({"output": unicode, "code": unicode, "metadata": {"text": unicode, unicode: 1}}))),
        ("NUL in metadata", with(json!({"metadata": {"a\u{0}": "\u{0}", "list": ["\u{0}", {"\u{0}": null}]}}))),
        ("metadata null", with(json!({"metadata": null, "output": "x"}))),
        (
            "metadata with keys of a record",
            with(json!({"metadata": {"id": "other", "status": "x", "code": 1, "language": []}})),
        ),
        ("times that are no times", with(json!({"failed_at": "submission", "completed_at": "", "started_at": 5}))),
        (
            "no time is a date alone",
            with(json!({"completed_at": "2025-01-01", "cancelled_at": "2025-13-01T00:00:00Z"})),
        ),
        ("an empty output", with(json!({"output": "", "error": "", "exit_code": 0}))),
        ("an output of a megabyte", with(json!({"output": "größe\n".repeat(150_000)}))),
        ("lines of every kind", with(json!({"code": "a\r\nb\rc\n\u{85}\u{2028}d"}))),
        (
            "digits of numbers",
            // With an id of its own: the second model's parser writes `1e5` as `1e+5`, and would hash another text.
            format!(
                r#"{{"eval_id":"odd-NUMBER","event_id":"digits","timestamp":"{AT}","metadata":{{"n":[1.50,1e5,12345678901234567890123,-0.0]}}}}"#
            ),
        ),
        (
            "escapes",
            format!(r#"{{"eval_id":"o\u0064d-NUMBER","timestamp":"{AT}","output":"\ud83e\udd80\/\u0000\u001f"}}"#),
        ),
        ("white space", format!("\r\n\t {{ \"eval_id\" :\t\"odd-NUMBER\" , \"timestamp\":\"{AT}\" }}\n ")),
        (
            "the last of duplicate keys",
            format!(r#"{{"eval_id":"x","eval_id":"odd-NUMBER","timestamp":"{AT}","output":"1","output":"2"}}"#),
        ),
    ]
}

/// Publishes each as the only event of an evaluation, and compares before and after another worker has the files.
fn what_is_odd_is_kept_whole(plugin: &str) {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), plugin);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let mut stored: Vec<(&str, String, Expected)> = Vec::new();

    for (number, (name, payload)) in oddities().into_iter().enumerate() {
        let id = format!("odd-{number}");
        let payload = payload.replace("NUMBER", &number.to_string());
        let sent = Sent { channel: "evaluation:completed".to_owned(), payload: payload.into_bytes() };
        publisher.publish(std::slice::from_ref(&sent));
        confirmations.wait_for(number + 1, SOON);
        let expected = expected(&[sent], 0).remove(&id).unwrap_or_else(|| panic!("{name} is valid"));
        stored.push((name, id, expected));
    }

    let compare = |worker: &Worker| {
        for (name, id, expected) in &stored {
            assert_eq!(worker.record(id).as_ref(), Some(&expected.record), "{name}");
            assert_eq!(worker.history(id), expected.history, "{name}");
        }
    };
    compare(&worker);
    worker.terminate(Duration::from_secs(30));
    if plugin == "file" {
        compare(&setup.start());
    }
    assert!(setup.dead_letters().is_empty());
}

#[test]
fn what_is_odd_is_kept_whole_in_memory() {
    what_is_odd_is_kept_whole("memory");
}

#[test]
fn what_is_odd_is_kept_whole_in_files() {
    what_is_odd_is_kept_whole("file");
}

/// serde_json uses two keys of an object for itself, and takes such an object for something else when it reads one.
#[test]
fn keys_that_the_json_library_keeps_for_itself_are_kept_whole() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "file");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let metadata =
        r#"{"deep":[{"$serde_json::private::RawValue":"[]"}],"number":{"$serde_json::private::Number":"1"}}"#;
    let payload = format!(r#"{{"eval_id":"odd","timestamp":"{AT}","metadata":{metadata}}}"#);

    let sent = Sent { channel: "evaluation:completed".to_owned(), payload: payload.into_bytes() };
    Publisher::new(&redis).publish(&[sent]);

    confirmations.wait_for(1, SOON);
    let body = worker.http().get("/evaluations/odd").body;
    assert!(body.contains(&format!("\"metadata\":{metadata}")), "{body}");
}
