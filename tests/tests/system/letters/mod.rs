//! Dead letters repaired by hand: edited, tried again through the live worker, parked if they fail again.

mod in_a_stream;
mod interrupted;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

/// A worker whose admin listener is where the commands of the set-up look for it.
fn start(setup: Setup) -> (Setup, Worker) {
    let worker = setup.start();
    let admin = worker.admin_address().to_owned();
    (setup.set("admin.listen", admin), worker)
}

#[track_caller]
fn letters(setup: &Setup, code: i32, arguments: &[&str]) -> Value {
    let output = setup.command(&[&["dead-letters", "--output", "json"], arguments].concat()).output().expect("run it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn matched(setup: &Setup, arguments: &[&str]) -> Value {
    letters(setup, 0, &[&["list"], arguments].concat())["matched"].clone()
}

#[test]
fn five_hundred_letters_are_repaired_by_one_expression_and_a_second_failure_parks() {
    let redis = RedisServer::start();
    let (setup, worker) = start(Setup::new(&redis.url(), "file"));
    let audit =
        |setup: &Setup| std::fs::read_to_string(setup.path("dead-letters.audit.jsonl")).expect("there is an audit");
    repair_five_hundred(&redis, &setup, &worker, &audit);
}

/// The letters, whole, as `show` gives them.
#[track_caller]
fn shown(setup: &Setup) -> BTreeMap<String, Value> {
    let listed = letters(setup, 0, &["list", "--limit", "1000"]);
    let ids: Vec<&str> =
        listed["letters"].as_array().expect("a list").iter().filter_map(|letter| letter["id"].as_str()).collect();
    let shown = letters(setup, 0, &[&["show"], &ids[..]].concat());
    let letters = shown["letters"].as_array().expect("a list").clone();
    letters.into_iter().map(|letter| (letter["id"].as_str().expect("an id").to_owned(), letter)).collect()
}

fn repair_five_hundred(redis: &RedisServer, setup: &Setup, worker: &Worker, audit: &dyn Fn(&Setup) -> String) {
    let confirmations = Confirmations::listen(redis);
    // The spaces are the producer's own, so that another way to write the same would show.
    let bad = |number: u32| Sent {
        channel: "evaluation:queued".to_owned(),
        payload: format!("{{\"eval_id\" :  \"e-{number}\", \"source\": \"print({number})\", \"n\": 1.50}}")
            .into_bytes(),
    };
    let mut events: Vec<Sent> = (0..500).map(bad).collect();
    events.push(Sent { channel: "evaluation:queued".to_owned(), payload: b"\xff no JSON".to_vec() });
    Publisher::new(redis).publish(&events);
    eventually(SOON, "the letters", || matched(setup, &[]) == 501);
    let before = shown(setup);
    let sent_as = |letter: &Value| {
        events.iter().any(|sent| Some(&*sent.payload) == letter["payload"].as_str().map(str::as_bytes))
    };
    assert_eq!(before.values().filter(|letter| sent_as(letter)).count(), 500, "byte-identical");
    assert_eq!((matched(setup, &[]), matched(setup, &["--reason", "missing_field"])), (json!(501), json!(500)));
    assert_eq!(matched(setup, &["--eval-id", "e-7"]), json!(1));

    let which = ["--reason", "missing_field"];
    let failed = letters(setup, 1, &["retry", "--eval-id", "e-7"]);
    assert_eq!(failed["letters"][0]["outcome"], "parked");
    assert_eq!((matched(setup, &["--state", "parked"]), worker.record("e-7")), (json!(1), None));
    let again = setup.command(&["dead-letters", "retry", "--eval-id", "e-7"]).output().expect("run it");
    assert_eq!(String::from_utf8_lossy(&again.stdout), "no letters\n", "what is parked is left alone");
    let note = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(note.contains("1 letter left alone") && note.contains("--state parked"), "{note}");
    letters(setup, 0, &[&["edit", ".code = .source | del(.source)", "--dry-run"], &which[..]].concat());
    assert_eq!(matched(setup, &["--state", "parked"]), json!(1), "a dry run changes nothing");
    let edited = letters(setup, 0, &[&["edit", ".code = .source | del(.source)"], &which[..]].concat());
    assert_eq!(edited["edited"], 500);
    assert_eq!(matched(setup, &["--state", "edited"]), json!(500));
    for (id, letter) in shown(setup) {
        assert_eq!(letter["payload"], before[&id]["payload"], "byte-identical, though it is edited");
    }
    let retried = letters(setup, 0, &[&["retry"], &which[..]].concat());

    assert_eq!(retried["letters"].as_array().map(Vec::len), Some(500));
    let confirmed: BTreeMap<String, String> =
        confirmations.wait_for(500, SOON).iter().map(|confirmation| confirmation.about()).collect();
    assert_eq!(matched(setup, &[]), json!(1), "only what is no JSON is left");
    for number in [0, 7, 499] {
        let id = format!("e-{number}");
        let record = worker.record(&id).expect("it is stored");
        assert_eq!(record["code"], format!("print({number})"));
        let letter = before.values().find(|letter| letter["eval_id"] == *id).expect("it was one");
        assert_eq!(
            (&record["created_at"], confirmed[&id].as_str().into()),
            (&letter["time"], letter["event_id"].clone())
        );
    }
    let audit = audit(setup);
    let audit: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let edits: Vec<&Value> = audit.iter().filter(|line| line["action"] == "edit").collect();
    assert_eq!(edits.len(), 500);
    for edit in edits {
        let original = &before[edit["id"].as_str().expect("an id")];
        assert_eq!(edit["letter"]["payload"], original["payload"], "byte-identical");
    }
    let stored = audit.iter().filter(|line| line["outcome"] == "stored").count();
    assert_eq!((stored, audit.iter().filter(|line| line["outcome"] == "parked").count()), (500, 1));
}

#[test]
fn letters_are_worked_on_without_a_worker_and_tried_into_a_backend() {
    let redis = RedisServer::start();
    let (setup, worker) = start(Setup::new(&redis.url(), "file"));
    let fresh = setup.path("fresh");
    let setup =
        setup.set("backends.fresh.plugin", "file").set("backends.fresh.options.path", fresh.to_str().expect("Unicode"));
    let unknown = |id: &str| Sent::new("evaluation:queued", &json!({"eval_id": id}));
    Publisher::new(&redis).publish(&[unknown("a"), unknown("b"), unknown("c")]);
    eventually(SOON, "the letters", || setup.dead_letters().len() == 3);
    worker.terminate(SOON);

    letters(&setup, 0, &["edit", ".code = \"x\"", "--eval-id", "a"]);
    let refused = letters(&setup, 1, &["retry", "--all"]);
    assert_eq!(refused, Value::Null, "nobody is there to try them");
    let tried = letters(&setup, 1, &["retry", "--all", "--into", "fresh"]);
    let dropped = letters(&setup, 0, &["drop", "--eval-id", "b"]);
    letters(&setup, 2, &["drop"]);

    let outcomes: Vec<&Value> =
        tried["letters"].as_array().expect("a list").iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "stored").count(), 1, "{tried}");
    assert_eq!(dropped["letters"][0]["outcome"], "dropped");
    assert_eq!((matched(&setup, &[]), matched(&setup, &["--state", "parked"])), (json!(1), json!(1)));
    assert!(fresh.join("evaluations/a.json").exists());
}
