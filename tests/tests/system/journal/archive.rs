//! `replay --journal`: what arrived is taken once more, from the archive and from what the journal still holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Expected, Sent, expected};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{entries, segments};
use crate::SOON;

fn replay(setup: &Setup, journal: &str, arguments: &[&str]) -> Output {
    let arguments = [&["replay", "--output", "json", "--journal", journal], arguments].concat();
    setup.command(&arguments).output().expect("run replay")
}

#[track_caller]
fn answer(output: &Output, code: i32) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The files of the evaluations below a directory.
fn stored(directory: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(directory.join("evaluations")).expect("there are evaluations");
    let read = |file: std::io::Result<fs::DirEntry>| {
        let path = file.expect("a file").path();
        Some((path.file_name()?.to_str()?.to_owned(), fs::read_to_string(&path).ok()?))
    };
    files.filter_map(read).collect()
}

#[test]
fn what_arrived_is_replayed_from_the_archive_and_equals_what_is_stored_and_the_model() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "file").set("journal.archive", true).set("journal.max_bytes", "1MiB");
    let worker = setup.start();
    let admin = worker.admin_address().to_owned();
    let confirmations = Confirmations::listen(&redis);
    let mut generator = Generator::new(16);
    let events: Vec<Sent> = (0..300).flat_map(|_| generator.any_set()).collect();
    let mut mixed = generator.shuffle_and_repeat(&events);
    let large = |number: u32| {
        let at = "2025-01-01T12:00:00Z";
        json!({"eval_id": format!("large-{number}"), "timestamp": at, "output": "x".repeat(20_000)})
    };
    mixed.extend((0..50).map(|number| Sent::new("evaluation:completed", &large(number))));
    // Its time is that of its arrival, which the journal keeps; and what is no event arrived too.
    mixed.push(Sent::new("evaluation:failed", &json!({"eval_id": "timeless", "error": "x"})));
    mixed.push(Sent::new("evaluation:queued", &json!({"no": "event"})));
    Publisher::new(&redis).publish(&mixed);
    confirmations.wait_for(mixed.len() - 1, SOON);
    eventually(SOON, "the rest to be settled", || setup.dead_letters().len() == 1 && entries(&worker) == 0);
    assert!(fs::read_dir(setup.path("journal/archive")).expect("there is an archive").count() > 3);
    let fresh = setup.path("fresh").display().to_string();
    let setup =
        setup.set("admin.listen", admin).set("backends.fresh.plugin", "file").set("backends.fresh.options.path", fresh);

    let first = answer(&replay(&setup, "journal", &["--into", "fresh"]), 1);
    let second = answer(&replay(&setup, "journal", &["--into", "fresh"]), 1);
    let live = answer(&replay(&setup, "journal", &[]), 0);

    let all = mixed.len() - 1;
    assert_eq!((&first["stored"], &first["refused"], &first["unreadable"]), (&json!(all), &json!(1), &json!(0)));
    assert_eq!(first, second);
    assert_eq!((&live["stored"], &live["dead_letters"]), (&json!(all), &json!(1)), "through the worker that runs");
    let model: BTreeMap<String, Expected> = expected(&events, 0);
    assert!(model.len() > 200);
    for (id, expected) in model {
        assert_eq!(worker.record(&id), Some(expected.record), "record of {id}");
        assert_eq!(worker.history(&id), expected.history, "history of {id}");
    }
    worker.terminate(SOON);
    let (live, fresh) = (stored(&setup.path("data")), stored(&setup.path("fresh")));
    assert!(live.contains_key("timeless.json") && live.contains_key("large-49.json"));
    assert!(live == fresh, "{} live, {} fresh evaluations", live.len(), fresh.len());
}

#[test]
fn a_range_of_times_is_replayed_resumed_and_damage_is_named() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let event = |number: u32| {
        let id = format!("e-{number}");
        Sent::new("evaluation:queued", &json!({"eval_id": id, "event_id": id, "code": "x"}))
    };
    Publisher::new(&redis).publish(&(0..20).map(event).collect::<Vec<_>>());
    confirmations.wait_for(20, SOON);
    worker.terminate(SOON);
    let fresh = setup.path("fresh").display().to_string();
    let setup = setup.set("backends.fresh.plugin", "file").set("backends.fresh.options.path", fresh);
    let position = setup.path("position").display().to_string();
    let into = ["--into", "fresh"];

    let none = answer(&replay(&setup, "journal", &[&into[..], &["--to", "2025-01-01T00:00:00Z"]].concat()), 0);
    let some = answer(&replay(&setup, "journal", &[&into[..], &["--resume", &position]].concat()), 0);
    let more = answer(&replay(&setup, "journal", &[&into[..], &["--resume", &position]].concat()), 0);

    assert_eq!((&none["stored"], &some["stored"], &more["stored"]), (&json!(0), &json!(20), &json!(20)));
    let other =
        replay(&setup, "journal", &[&into[..], &["--resume", &position, "--from", "2025-01-01T00:00:00Z"]].concat());
    assert!(String::from_utf8_lossy(&other.stderr).contains("another replay"), "it is another range");
    answer(&other, 2);
    let segment = segments(&setup).into_iter().find(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0));
    let segment = segment.expect("what was settled last is still there");
    let mut bytes = fs::read(&segment).expect("it is readable");
    let place = bytes.windows(4).position(|window| window == b"e-7\"").expect("the event is there");
    bytes[place] ^= 1;
    fs::write(&segment, bytes).expect("it is writable");
    let damaged = replay(&setup, "journal", &into);
    let said = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert_eq!(answer(&damaged, 1)["unreadable"], json!(1), "{said}");
    assert!(said.contains("is damaged") && said.contains(".segment"), "{said}");
    let nothing = replay(&setup, "fresh", &into);
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(nothing.status.code() == Some(1) && said.contains("holds no segment of a journal"), "{said}");
}
