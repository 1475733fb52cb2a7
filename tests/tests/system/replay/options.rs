//! What the options of `replay` choose, how fast it goes, and where it goes on after it was killed.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{answer, errors, replay, stored};
use crate::SOON;

/// 2023-11-14T22:13:20Z, in milliseconds.
const START: u64 = 1_700_000_000_000;
/// Large enough to be killed in the middle of, at the rate that is asked for.
const MANY: usize = 2000;

/// No worker runs: the backend `fresh` is opened by each command.
fn setup(redis: &RedisServer) -> Setup {
    let setup = Setup::new(&redis.url(), "file");
    let path = setup.path("fresh").to_str().expect("Unicode").to_owned();
    setup
        .set("backends.fresh.plugin", "file")
        .set("backends.fresh.options.path", path)
        .set("admin.listen", "127.0.0.1:1")
}

fn failed(number: usize) -> Sent {
    Sent::new("evaluation:failed", &json!({"eval_id": format!("e-{number}"), "error": "x"}))
}

fn line(number: usize) -> String {
    json!({"channel": "evaluation:failed", "payload": {"eval_id": format!("e-{number}"), "error": "x"}}).to_string()
        + "\n"
}

/// The numbers of the evaluations that `fresh` has.
fn numbers(setup: &Setup) -> BTreeSet<usize> {
    let number = |name: &String| name.strip_prefix("e-")?.strip_suffix(".json")?.parse().ok();
    stored(&setup.path("fresh")).keys().filter_map(number).collect()
}

fn begin_anew(setup: &Setup) {
    std::fs::remove_dir_all(setup.path("fresh")).expect("it is there");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("Unicode")
}

#[test]
fn a_range_of_a_stream_is_chosen_by_ids_or_by_times_and_both_ends_belong_to_it() {
    let redis = RedisServer::start();
    let setup = setup(&redis);
    let mut stream = Stream::new(&redis, "s");
    for number in 0..10 {
        let id = format!("{}-0", START + number * 1000);
        let data = format!("{{\"eval_id\": \"e-{number}\", \"error\": \"x\"}}");
        stream.command("XADD", &[&id, "channel", "evaluation:failed", "data", &data]);
    }
    let [third, fifth] = [3, 5].map(|number| format!("{}-0", START + number * 1000));

    for (ends, expected) in [
        (vec!["--from", third.as_str(), "--to", fifth.as_str()], 3..6),
        (vec!["--from", "2023-11-14T22:13:25Z", "--to", "2023-11-14T22:13:27Z"], 5..8),
        (vec!["--from", "2023-11-14T22:13:28Z"], 8..10),
        (vec!["--to", fifth.as_str()], 0..6),
    ] {
        let replayed = replay(&setup, &[&["--stream", "s", "--into", "fresh"], &ends[..]].concat());

        assert_eq!(answer(&replayed, 0)["stored"], expected.len(), "{ends:?}");
        assert_eq!(numbers(&setup), expected.collect(), "{ends:?}");
        begin_anew(&setup);
    }
    let wrong = replay(&setup, &["--stream", "s", "--into", "fresh", "--from", "soon"]);
    assert!(
        wrong.status.code() == Some(2) && errors(&wrong).contains("`--from` cannot be `soon`"),
        "{}",
        errors(&wrong)
    );
}

fn replay_standard_input(setup: &Setup, input: &str, arguments: &[&str]) -> Output {
    let mut command = setup.command(&[&["replay", "--output", "json", "-", "--into", "fresh"], arguments].concat());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run replay");
    // It may end before it has read all of it, if it is refused.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

#[test]
fn standard_input_is_stored_at_the_time_that_is_given_and_has_no_position() {
    let redis = RedisServer::start();
    let setup = setup(&redis);
    let input: String = (0..3).map(line).collect();
    let at = ["--at", "2025-06-01T00:00:00Z"];
    let position = setup.path("position");

    let timeless = replay_standard_input(&setup, &input, &[]);
    let resumed = replay_standard_input(&setup, &input, &[&at[..], &["--resume", text(&position)]].concat());
    let replayed = replay_standard_input(&setup, &input, &at);

    assert!(timeless.status.code() == Some(2) && errors(&timeless).contains("--at"), "{}", errors(&timeless));
    assert!(resumed.status.code() == Some(2) && errors(&resumed).contains("standard input"), "{}", errors(&resumed));
    assert_eq!((answer(&replayed, 0)["stored"].clone(), position.exists()), (json!(3), false));
    let record: Value = serde_json::from_str(&stored(&setup.path("fresh"))["e-0.json"]).expect("JSON");
    assert_eq!(record["created_at"], "2025-06-01T00:00:00.000000+00:00", "{record}");
}

#[test]
fn a_rate_is_kept_to() {
    let redis = RedisServer::start();
    let setup = setup(&redis);
    Stream::new(&redis, "s").add(&(0..15).map(failed).collect::<Vec<_>>());
    let start = Instant::now();

    let replayed = replay(&setup, &["--stream", "s", "--into", "fresh", "--rate", "10"]);

    assert_eq!(answer(&replayed, 0)["stored"], 15);
    assert!(start.elapsed() >= Duration::from_millis(1400), "15 at 10 a second take longer than {:?}", start.elapsed());
}

/// Kills a replay in the middle, and gives how many events it had stored by its own account.
#[track_caller]
fn kill_in_the_middle(setup: &Setup, input: &[&str], position: &Path) -> usize {
    let known = || {
        let position: Value = serde_json::from_slice(&std::fs::read(position).ok()?).ok()?;
        position["stored"].as_u64().and_then(|stored| usize::try_from(stored).ok())
    };
    let options = ["--into", "fresh", "--rate", "1000", "--resume", text(position)];
    let replaying = setup.start_command(&[&["replay"], input, &options].concat());
    eventually(SOON, "some to be stored", || known() >= Some(200));
    replaying.kill();
    known().expect("a position is whole or not there")
}

#[test]
fn a_replay_that_was_killed_goes_on_where_it_was() {
    let redis = RedisServer::start();
    let setup = setup(&redis);
    let file = setup.path("lines.jsonl");
    std::fs::write(&file, (0..MANY).map(line).collect::<String>()).expect("write it");
    Stream::new(&redis, "s").add(&(0..MANY).map(failed).collect::<Vec<_>>());

    let lines = [text(&file), "--at", "2025-06-01T00:00:00Z"];
    for (name, input) in [("file", &lines[..]), ("stream", &["--stream", "s"])] {
        let position = setup.path(name);
        let known = kill_in_the_middle(&setup, input, &position);
        assert!(known < MANY, "it was killed in the middle");
        // What is stored from here on is what the second one stores.
        begin_anew(&setup);

        let resumed = replay(&setup, &[input, &["--into", "fresh", "--resume", text(&position)]].concat());

        assert_eq!(answer(&resumed, 0)["stored"], MANY, "{name}");
        assert_eq!(numbers(&setup), (known..MANY).collect(), "{name}");
        let elsewhere = replay(&setup, &[input, &["--into", "main", "--resume", text(&position)]].concat());
        assert_eq!(elsewhere.status.code(), Some(2), "a position is good for one target: {}", errors(&elsewhere));
        begin_anew(&setup);
    }

    std::fs::write(&file, line(0)).expect("write it");
    let shorter = replay(&setup, &[&lines[..], &["--into", "fresh", "--resume", text(&setup.path("file"))]].concat());
    assert!(
        shorter.status.code() == Some(2) && errors(&shorter).contains("not the one that was replayed"),
        "{}",
        errors(&shorter)
    );
}
