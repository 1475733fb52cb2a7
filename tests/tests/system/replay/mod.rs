//! `replay`: what is taken once more, from a stream or from lines, comes to the same.

mod options;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

const STREAM: &str = "evaluation:events";

fn start(redis: &RedisServer) -> (Setup, Worker) {
    let setup = Setup::new(&redis.url(), "file")
        .set("source.streams.streams", vec![STREAM])
        .set("source.streams.block", "100ms")
        .set("worker.name", "a");
    let worker = setup.start();
    let admin = worker.admin_address().to_owned();
    let fresh = setup.path("fresh").to_str().expect("Unicode").to_owned();
    let setup = setup.set("admin.listen", admin);
    (setup.set("backends.fresh.plugin", "file").set("backends.fresh.options.path", fresh), worker)
}

fn replay(setup: &Setup, arguments: &[&str]) -> Output {
    setup.command(&[&["replay", "--output", "json"], arguments].concat()).output().expect("run replay")
}

#[track_caller]
fn answer(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", errors(output));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The files of the evaluations below a directory.
fn stored(directory: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(directory.join("evaluations")).expect("there are evaluations");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.expect("a file").path();
        (path.file_name()?.to_str()?.to_owned(), std::fs::read_to_string(&path).ok()?).into()
    };
    files.filter_map(read).collect()
}

#[test]
fn a_stream_that_is_replayed_twice_into_a_fresh_backend_while_events_go_on_equals_the_live_one() {
    let redis = RedisServer::start();
    let (setup, worker) = start(&redis);
    let mut generator = Generator::new(5);
    let mut stream = Stream::new(&redis, STREAM);
    let events: Vec<Sent> = (0..200).flat_map(|_| generator.lifecycle()).collect();
    stream.add(&events);
    stream.add(&[Sent::new("evaluation:failed", &json!({"eval_id": "timeless", "error": "x"}))]);

    let (first, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let added = std::thread::scope(|scope| {
        let live = scope.spawn(|| {
            let (mut generator, mut stream, mut added) = (Generator::new(6), Stream::new(&redis, STREAM), 0);
            while !done.load(Ordering::Relaxed) {
                let events = generator.lifecycle();
                stream.add(&events);
                added += events.len();
                first.store(true, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            added
        });
        eventually(SOON, "live events", || first.load(Ordering::Relaxed));
        answer(&replay(&setup, &["--stream", STREAM, "--into", "fresh"]), 0);
        done.store(true, Ordering::Relaxed);
        live.join().expect("it does not panic")
    });
    let all = events.len() + 1 + added;
    let again = answer(&replay(&setup, &["--stream", STREAM, "--into", "fresh"]), 0);

    assert_eq!((&again["stored"], &again["refused"]), (&json!(all), &json!(0)));
    eventually(SOON, "everything to be stored", || {
        worker.http().get("/health").json()["events_processed"].as_u64() >= Some(all as u64)
    });
    worker.terminate(SOON);
    let (live, fresh) = (stored(&setup.path("data")), stored(&setup.path("fresh")));
    assert!(live.len() > 200 && live.contains_key("timeless.json"), "{} evaluations", live.len());
    assert!(live == fresh, "{} live, {} fresh evaluations", live.len(), fresh.len());
}

#[test]
fn lines_go_through_the_worker_are_confirmed_and_bad_ones_are_named() {
    let redis = RedisServer::start();
    let (setup, worker) = start(&redis);
    let confirmations = Confirmations::listen(&redis);
    let line = |value: Value| value.to_string() + "\n";
    let good = line(
        json!({"channel": "evaluation:failed", "payload": {"eval_id": "a", "error": "x"}, "event_id": "own", "time": "2025-01-01T00:00:00Z"}),
    );
    let timeless = line(json!({"channel": "evaluation:failed", "payload": "{\"eval_id\": \"b\", \"error\": \"x\"}"}));
    let bad =
        line(json!({"channel": "evaluation:failed", "payload": {"error": "x", "timestamp": "2025-01-01T00:00:00Z"}}));
    let file = setup.path("lines.jsonl");
    std::fs::write(&file, [good.as_str(), "no line\n", "\n", &timeless, &bad].concat()).expect("write it");
    let (file, position) = (file.to_str().expect("Unicode"), setup.path("position"));

    let refused = replay(&setup, &[file]);
    assert!(
        refused.status.code() == Some(2) && errors(&refused).contains("line 4") && errors(&refused).contains("--at"),
        "{}",
        errors(&refused)
    );
    assert_eq!((worker.record("a"), setup.dead_letters().len()), (None, 0), "nothing is stored before");

    let resume = ["--resume", position.to_str().expect("Unicode")];
    let at = ["--at", "2025-06-01T00:00:00Z", "--rate", "1000"];
    let replayed = replay(&setup, &[&[file], &at[..], &resume[..]].concat());

    assert_eq!(answer(&replayed, 1), json!({"stored": 2, "refused": 1, "unreadable": 1, "dead_letters": 1}));
    assert!(
        errors(&replayed).contains("line 2: ") && errors(&replayed).contains("line 5: field `eval_id`"),
        "{}",
        errors(&replayed)
    );
    let created = |id: &str| worker.record(id).expect("stored")["created_at"].clone();
    assert_eq!(
        (created("a"), created("b")),
        (json!("2025-01-01T00:00:00.000000+00:00"), json!("2025-06-01T00:00:00.000000+00:00"))
    );
    let confirmed: Vec<_> = confirmations.wait_for(2, SOON).iter().map(|confirmation| confirmation.about()).collect();
    assert!(confirmed.contains(&("a".to_owned(), "own".to_owned())), "{confirmed:?}");
    assert_eq!(setup.dead_letters().len(), 1);

    let mut lines = std::fs::read_to_string(file).expect("it is there");
    lines.push_str(&line(json!({"channel": "evaluation:failed", "payload": {"eval_id": "c", "error": "x"}, "time": "2025-01-01T00:00:00Z"})));
    std::fs::write(file, lines).expect("write it");
    let resumed = replay(&setup, &[&[file], &resume[..]].concat());
    assert_eq!(answer(&resumed, 1)["stored"], 3, "it goes on behind what was replayed");
    assert_eq!(confirmations.wait_for(3, SOON).len(), 3);
    let other = replay(&setup, &[&["--stream", STREAM], &resume[..]].concat());
    assert!(other.status.code() == Some(2) && errors(&other).contains("another replay"), "{}", errors(&other));
    worker.terminate(SOON);
    let nobody = replay(&setup, &[file]);
    assert!(nobody.status.code() == Some(1) && errors(&nobody).contains("--into"), "{}", errors(&nobody));
}

/// A batch of them used to be more than one request to the worker may hold, and ended every replay there.
#[test]
fn large_events_of_a_stream_go_through_the_worker() {
    let redis = RedisServer::start();
    let (setup, worker) = start(&redis);
    let large = |number: u32| {
        let code = "x".repeat(1 << 20);
        Sent::new("evaluation:queued", &json!({"eval_id": format!("e-{number}"), "event_id": "q", "code": code}))
    };
    let mut stream = Stream::new(&redis, "large");
    let small = |number: u32| Sent::new("evaluation:failed", &json!({"eval_id": format!("s-{number}"), "error": "x"}));
    stream.add(&(0..600).map(small).collect::<Vec<_>>());
    (0..150).for_each(|number| stream.add(&[large(number)]));

    let replayed = answer(&replay(&setup, &["--stream", "large"]), 0);

    assert_eq!((&replayed["stored"], &replayed["refused"]), (&json!(750), &json!(0)));
    assert!(worker.record("e-149").is_some());
    let mistyped = replay(&setup, &["--stream", "larg"]);
    let errors = errors(&mistyped);
    assert!(mistyped.status.code() == Some(1) && errors.contains("there is no stream `larg`"), "{errors}");
}
