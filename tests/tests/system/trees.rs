//! Trees of backends as operators write them: the examples run, and what cannot work is refused with what to do.

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

/// What `check` says of backends below `[storage] backend = "main"`; panics unless it refuses them.
fn refusal(backends: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("storage-worker.toml");
    std::fs::write(&path, format!("[storage]\nbackend = \"main\"\n\n{backends}")).expect("written");
    let setup = Setup::of_file(&path);
    let output = setup.command(&["check"]).output().expect("check runs");
    assert_eq!(output.status.code(), Some(2), "{backends}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_tree_that_cannot_work_is_refused_with_what_to_do() {
    const STORES: &str = "\n[backends.f]\nplugin = \"file\"\noptions = { path = \"./f\" }\n[backends.m]\nplugin = \"memory\"\n\
        [backends.hot]\nplugin = \"memory\"\noptions = { evict = true }\n";
    let composite = |children: &str| {
        refusal(&format!("[backends.main]\nplugin = \"cached-composite\"\nchildren = {{ {children} }}\n{STORES}"))
    };
    let cases = [
        (composite("primary = \"main\""), "go round in a circle; take one child out"),
        (composite("primary = \"g\""), "unknown child `g`"),
        (
            composite("cache = \"hot\""),
            "cannot work without a child as `primary`; add `children = { primary = \"…\" }`",
        ),
        (composite("primary = \"f\", fallbck = \"m\""), "no role `fallbck`; did you mean `fallback`?"),
        (
            composite("primary = \"f\", fallback = \"f\""),
            "stands 2 times in the tree (below `main`); give each place a backend of its own",
        ),
        (composite("primary = \"f\", fallback = \"m\""), "`m` is volatile"),
        (composite("primary = \"f\", cache = \"m\""), "`m` never forgets"),
        (composite("primary = \"hot\""), "`hot` may forget what it stored (it is evicting); it can only be `cache`"),
        (
            refusal("[backends.main]\nplugin = \"memory\"\noptions = { evict = true }\n"),
            "it can only be the cache of a layer; choose another root",
        ),
        (refusal("[backends.main]\nplugin = \"postgresql\"\n"), "there is no plugin `postgresql`"),
    ];
    for (said, expected) in cases {
        assert!(said.contains(expected), "expected: {expected}\nsaid: {said}");
    }
    let unknown = refusal("[backends.main]\nplugin = \"postgresql\"\n");
    assert!(unknown.contains("cached-composite") && unknown.contains("looked in"), "{unknown}");
}
