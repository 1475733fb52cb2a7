//! The checker finds what it is there for: a store, confirmations and dead letters that were tampered with.

use serde_json::json;
use storage_worker_tests::conservation::{Run, STREAM};
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;

use super::verdict;

/// Everything that is spoiled is found, under its kind and by its name, and nothing else.
#[test]
fn what_is_removed_altered_doubled_made_up_or_foreign_is_found() {
    let mut run = Run::to_postgres(5, 2);
    run.publish(2000);
    run.settle();
    let database = run.postgres().connect();
    // Three evaluations that have an output, so that each is spoiled in its own way.
    let with_output = "SELECT id FROM evaluations WHERE output <> '' ORDER BY id LIMIT 3";
    let ids: Vec<String> = database.rows(with_output).iter().map(|row| row.get(0)).collect();
    let [removed, altered, doubled] = ids.try_into().expect("there are three");

    let lines = database.number(&format!("SELECT count(*) FROM evaluation_events WHERE evaluation_id = '{removed}'"));
    database.run(&format!("DELETE FROM evaluations WHERE id = '{removed}'"));
    database.run(&format!("UPDATE evaluations SET output = output || ' and more' WHERE id = '{altered}'"));
    database.run(&format!(
        "INSERT INTO evaluation_events (evaluation_id, timestamp, event_type, message, metadata, event_id)
         SELECT evaluation_id, timestamp, event_type, message, metadata, event_id FROM evaluation_events
         WHERE evaluation_id = '{doubled}' ORDER BY id LIMIT 1"
    ));
    let foreign =
        json!({"eval_id": "foreign", "event_id": "smuggled", "error": "x", "timestamp": "2025-01-01T00:00:00Z"});
    Stream::new(run.redis(), STREAM).add(&[Sent::new("evaluation:failed", &foreign)]);
    let made_up = json!({"eval_id": "nobody", "event_id": "made-up", "durability": "durable"}).to_string();
    redis::cmd("PUBLISH")
        .arg("storage:evaluation:updated")
        .arg(made_up)
        .exec(&mut run.redis().connect())
        .expect("publish");
    run.settle();
    let letters: Vec<_> = (0..2).map(|place| run.crew().setup(place).path("dead-letters.jsonl")).collect();
    let texts: Vec<String> = letters.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect();
    let spoilt = usize::from(texts[0].is_empty());
    let (first, rest) = texts[spoilt].split_once('\n').expect("one of the two has letters");
    let [one, other] = ["0", "1"].map(|id| json!({"id": id, "channel": "evaluation:failed", "payload": "{}"}));
    std::fs::write(&letters[spoilt], format!("{rest}{one}\n{other}\n")).expect("spoil the dead letters");

    let verdict = verdict("a spoiled run", 5, run);

    let found = |kind: &str| {
        let found = verdict.findings().into_iter().find(|(name, _)| *name == kind).expect("there is such a kind");
        found.1.join("; ")
    };
    assert_eq!(verdict.missing.len() as i64, 1 + lines);
    assert!(found("missing").contains(&format!("evaluation {removed}")), "{verdict}");
    assert!(
        verdict.wrong.len() == 1 && found("wrong").starts_with(&format!("evaluation {altered}: output")),
        "{verdict}"
    );
    assert!(verdict.unknown.len() == 2 && found("unknown").contains("smuggled"), "{verdict}");
    assert!(verdict.duplicate_history.len() == 1 && found("duplicate history").contains(&doubled), "{verdict}");
    // What is removed was confirmed, too.
    assert_eq!(verdict.false_confirmations.len() as i64, 1 + lines, "{verdict}");
    assert!(found("false confirmations").contains("made-up"), "{verdict}");
    assert!(verdict.missing_letters.len() == 1 && !first.is_empty(), "{verdict}");
    assert_eq!(verdict.wrong_letters.len(), 2, "{verdict}");
}
