//! Trees of backends as operators write them: the examples run. What cannot work is in `bad_trees.rs`.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use storage_worker_tests::bucket_servers::S3Server;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use crate::SOON;

fn examples() -> Vec<std::path::PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/configs");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).expect("the examples").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

#[test]
fn every_example_configuration_runs_and_stores() {
    let (redis, database) = (RedisServer::start(), PostgresServer::start_with(&["fsync=on"]));
    let buckets = S3Server::start();
    buckets.make_bucket("evaluation-bodies");
    let names = examples();
    assert!(names.len() >= 7, "{names:?}");

    for (number, path) in names.into_iter().enumerate() {
        let setup = Setup::of_file(&path)
            .environment("REDIS_URL", &redis.url())
            .environment("DATABASE_URL", &database.url())
            .environment("WORKER_NAME", "a")
            .environment("AWS_ENDPOINT", &buckets.endpoint())
            .environment("AWS_ALLOW_HTTP", "true")
            .environment("AWS_ACCESS_KEY_ID", "somebody")
            .environment("AWS_SECRET_ACCESS_KEY", "geheim");
        let explained = setup.command(&["explain"]).output().expect("explain runs");
        assert!(explained.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&explained.stderr));
        let worker = setup.start();
        let id = format!("example-{number}");
        let events = [
            Sent::new("evaluation:queued", &json!({"eval_id": id, "code": "print(42)", "language": "python"})),
            Sent::new(
                "evaluation:completed",
                &json!({"eval_id": id, "output": "42\n".repeat(1 << 19), "exit_code": 0}),
            ),
        ];
        if path.ends_with("streams.toml") {
            Stream::new(&redis, "evaluation:events").add(&events);
        } else {
            Publisher::new(&redis).publish(&events);
        }
        eventually(SOON, &format!("an evaluation to be stored by {}", path.display()), || {
            worker.record(&id).is_some_and(|record| record["status"] == "completed")
        });
        let output = worker.record(&id).expect("it is stored")["output"].as_str().map(str::len);
        assert_eq!(output, Some(3 << 19), "{}", path.display());
        let (status, log) = worker.terminate(Duration::from_secs(30));
        assert!(status.success(), "{}: {log}", path.display());
    }
    assert!(!buckets.objects("evaluation-bodies").is_empty());
}

/// It used to be drawn without what each part promises, which is what one needs to see then.
#[test]
fn a_tree_that_is_weaker_than_the_guarantee_is_explained_and_refused() {
    let setup = Setup::new("redis://127.0.0.1:1", "mirror")
        .set("storage.guarantee", "durable")
        .set("backends.main.options.ack", "all")
        .set("backends.main.children.primary", "disk")
        .set("backends.main.children.shadow", "ram")
        .set("backends.disk.plugin", "file")
        .set("backends.disk.options.path", "./data")
        .set("backends.ram.plugin", "memory");

    let explained = setup.command(&["explain"]).output().expect("explain runs");
    let as_json = setup.command(&["explain", "--output", "json"]).output().expect("explain runs");
    let checked = setup.command(&["check"]).output().expect("check runs");

    assert_eq!([&explained, &as_json, &checked].map(|output| output.status.code()), [Some(2); 3]);
    let text = String::from_utf8(explained.stdout).expect("text");
    assert!(text.contains("volatile, 1 of 2 durable; a crash here may lose events"), "{text}");
    assert!(text.contains("Guarantee: volatile. A crash may lose confirmed evaluations, because of `ram`"), "{text}");
    for errors in [explained.stderr, checked.stderr] {
        let said = String::from_utf8(errors).expect("text");
        assert!(said.contains("cannot be kept: a crash may lose what `ram` holds"), "{said}");
    }
    let json: serde_json::Value = serde_json::from_slice(&as_json.stdout).expect("JSON");
    assert_eq!(json["problems"][0]["key"], "storage.guarantee", "{json}");
    assert_eq!(json["tree"]["children"][1]["capabilities"]["durable"], false, "{json}");
}
