//! The commands that answer from the configuration, and `publish` with a real Redis.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn worker(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storage-worker"));
    command.env_clear().args(arguments);
    command
}

fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// A Redis of its own, on a socket in a directory of its own.
struct Redis {
    process: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("`redis-server` starts; install the package `redis-server`");
        let redis = Self { process, url: format!("unix://{}", socket.display()), _directory: directory };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !Path::new(&socket).exists() || redis.connection().is_err() {
            assert!(Instant::now() < deadline, "redis-server did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    fn connection(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url.as_str())?.get_connection()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Best effort: the test is over either way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn explain_draws_the_tree_and_names_origins_without_secrets() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = "[redis]\nurl = 'redis://worker:${PASSWORD}@redis'\n[storage]\nbackend = 'pg'\n[backends.pg]\nplugin = 'postgres'\n\
                options = { url = 'postgres://a:geheim@db/x', admin_token = 'geheim' }\n[backends.idle]\nplugin = 'file'\n";
    std::fs::write(directory.path().join("storage-worker.toml"), file).expect("written");

    let output = worker(&["explain", "--set", "worker.lanes=8"])
        .env("PASSWORD", "geheim")
        .env("ENABLE_CACHING", "true")
        .current_dir(directory.path())
        .output()
        .expect("the worker starts");

    // These plugins are not here, so the tree is drawn as it is written, and what is wrong is said.
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("plugin `postgres`"), "{errors}");
    assert!(!text.contains("geheim") && !errors.contains("geheim"), "{text}{errors}");
    assert!(
        text.starts_with(
            "cached  plugin cached-composite\n├─ primary: pg  plugin postgres\n└─ cache: cache  plugin memory\n"
        ),
        "{text}"
    );
    let origin = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} is not in\n{text}"));
        line.rsplit("  ").next().unwrap_or_default().to_owned()
    };
    assert_eq!(origin("redis.url "), "storage-worker.toml:2");
    assert_eq!(origin("worker.lanes "), "command line `--set worker.lanes`");
    assert_eq!(origin("storage.backend "), "environment variable `ENABLE_CACHING`");
    assert_eq!(origin("http.listen "), "default");
    assert!(errors.contains("the backend `idle` is not below the root"), "{errors}");
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = worker(&["completions", shell]).output().expect("the worker starts");

        assert!(answer(&output).contains("storage-worker"), "{shell}");
    }
}

#[test]
fn publish_sends_what_it_is_given_and_counts_subscribers() {
    let redis = Redis::start();
    let mut connection = redis.connection().expect("a connection");
    let mut subscription = connection.as_pubsub();
    subscription.subscribe("evaluation:queued").expect("subscribed");
    let publish = |arguments: &[&str], input: &[u8]| {
        let mut child = worker(&["publish", "--output", "json"])
            .args(arguments)
            .env("REDIS_URL", &redis.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        child.stdin.take().expect("piped").write_all(input).expect("written");
        child.wait_with_output().expect("it ends")
    };

    let output = publish(&["evaluation:queued", "{\"eval_id\":\"a\"}"], b"");
    let counts: Value = serde_json::from_str(&answer(&output)).expect("JSON");
    assert_eq!(counts, serde_json::json!({ "events": 1, "reached": 1, "subscribers": 1 }));
    let message = subscription.get_message().expect("a message");
    assert_eq!(message.get_payload_bytes(), b"{\"eval_id\":\"a\"}");

    let output = publish(&["evaluation:queued", "-"], b"{ not json");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    answer(&publish(&["evaluation:queued", "-", "--raw", "--count", "2"], b"\xff not json"));
    for _ in 0..2 {
        let message = subscription.get_message().expect("a message");
        assert_eq!(message.get_payload_bytes(), b"\xff not json");
    }

    let output = publish(&["--generate", "--count", "100", "--seed", "1"], b"");
    let counts: Value = serde_json::from_str(&answer(&output)).expect("JSON");
    assert_eq!(counts, serde_json::json!({ "events": 400, "reached": 100, "subscribers": 1 }));
    let message = subscription.get_message().expect("a message");
    let queued: Value = serde_json::from_slice(message.get_payload_bytes()).expect("JSON");
    assert!(queued["code"].as_str().is_some_and(|code| code.contains("def solve")), "{queued}");
}

#[test]
fn publish_fails_with_1_where_there_is_no_redis() {
    let output = worker(&["publish", "a", "{}", "--set", "redis.url=redis://x:geheim@127.0.0.1:1"])
        .output()
        .expect("the worker starts");

    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert!(error.starts_with("error: cannot connect to `redis://[redacted]@127.0.0.1:1`"), "{error}");
    assert_eq!(error.matches("refused").count(), 1, "{error}");
}

/// Builds a library that has nothing but a manifest.
fn library_with_manifest(directory: &Path, name: &str, api: &str) {
    let manifest = serde_json::json!({
        "magic": "storage-plugin", "abi": "rust-1", "api": api, "kind": "backend", "name": name, "version": "2.3.4",
        "panic": "unwind", "rustc": "rustc 1.92.0", "target": storage_plugin_api::manifest::TARGET,
    });
    let manifest = manifest.to_string();
    let source = format!(
        "#[used] #[unsafe(link_section = \".storage_plugin\")] static M: [u8; {}] = *br#\"{manifest}\"#;",
        manifest.len()
    );
    let (input, output) = (directory.join("plugin.rs"), directory.join(format!("libstorage_backend_{name}.so")));
    std::fs::write(&input, source).expect("written");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "cdylib", "-o"]).arg(output).arg(input);
    assert!(rustc.status().expect("rustc starts").success());
}

#[cfg(target_os = "linux")]
#[test]
fn plugins_are_listed_and_inspected_without_being_run() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    library_with_manifest(directory.path(), "good", storage_plugin_api::manifest::API_VERSION);
    library_with_manifest(directory.path(), "old", "0.9.0");
    let dirs = format!("storage.plugin_dirs=[{:?}]", directory.path());
    let run = |arguments: &[&str]| worker(arguments).args(["--set", &dirs]).output().expect("the worker starts");

    let list = answer(&run(&["plugin", "list", "--output", "json"]));
    let list: Vec<Value> = serde_json::from_str(&list).expect("a JSON list");
    let found = |name: &str| list.iter().find(|plugin| plugin["name"] == name).cloned().expect("it is listed");
    assert_eq!((&found("good")["version"], &found("good")["problem"]), (&Value::from("2.3.4"), &Value::Null));
    assert!(found("old")["problem"].as_str().is_some_and(|problem| problem.contains("built for plugin-api 0.9.0")));

    let good = answer(&run(&["plugin", "inspect", "good"]));
    assert!(good.contains("version        2.3.4\n") && good.contains("can be run     yes\n"), "{good}");
    assert_eq!(run(&["plugin", "inspect", "old"]).status.code(), Some(1));
    assert_eq!(run(&["plugin", "inspect", "none"]).status.code(), Some(2));
}
