//! The listeners as a client meets them, over real connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::{EventStamp, State, Status, names};
use tokio_util::sync::CancellationToken;

use super::client::{Client, ClientError, escape};
use super::{AppState, Config, Listener, Parts, Stalled, WorkerStatus, admin, public};
use crate::letters::Destination;
use crate::letters::desk::Desk;
use crate::source::fed::Fed;
use crate::storage::explain::Setting;
use crate::storage::testing::{TestBackend, TestPlugins, backends, eventually, quick};
use crate::storage::{Current, Plan, ReloadError, Reloaded};
use crate::telemetry::metrics::Metrics;

mod remote;

/// A worker's two listeners over one backend in memory.
struct Served {
    public: SocketAddr,
    admin: SocketAddr,
    backend: Arc<TestBackend>,
    current: Arc<Current>,
    worker: Arc<Mutex<WorkerStatus>>,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(options: Value) -> Served {
    serve_with(options, reading_for(Duration::from_millis(200))).await
}

/// Two reads at once, each for so long at most.
fn reading_for(read_timeout: Duration) -> Config {
    Config { read_timeout, max_reads: 2, ..Config::default() }
}

async fn serve_with(options: Value, config: Config) -> Served {
    let plugins = TestPlugins::default();
    let plan = Plan::of(&quick(), &backends(&[("root", "store", &[], options)]), &plugins).expect("it fits");
    let tree = plan.open(&Metrics::new(), None, &|| false).expect("it opens");
    let backend = plugins.opened.lock().expect("no panic").remove("root").expect("it is open");
    let current = Arc::new(Current::opening());
    current.put(Arc::new(tree));
    let status = WorkerStatus { redis_healthy: true, events_processed: 7, ..WorkerStatus::default() };
    let worker = Arc::new(Mutex::new(status));
    let told = Arc::clone(&worker);
    let parts = Parts {
        storage: Arc::clone(&current),
        worker: Box::new(move || told.lock().expect("no panic").clone()),
        metrics: Metrics::new(),
        settings: Arc::new(RwLock::new(vec![Setting {
            key: "a".to_owned(),
            value: "1".to_owned(),
            origin: "default".to_owned(),
        }])),
        reload: Box::new(|force| {
            let refused = || ReloadError::Fallback("disk".to_owned());
            Box::pin(async move { if force { Ok(Reloaded::default()) } else { Err(refused()) } })
        }),
        desk: Desk::new(Destination::File { path: "dead-letters.jsonl".into(), max_bytes: 1 << 20 }),
        feed: Fed::default().feed(),
    };
    let (state, stop) = (AppState::new(parts, &config), CancellationToken::new());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut addresses = Vec::new();
    for (section, router) in [("http", public(&state)), ("admin", admin(&state))] {
        let listener = Listener::bind(section, any).await.expect("a free port");
        addresses.push(listener.address());
        tokio::spawn(listener.serve(router, config.max_connections, stop.clone()));
    }
    Served { public: addresses[0], admin: addresses[1], backend, current, worker, stop }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

async fn send(address: SocketAddr, request: &str) -> Answer {
    let request = request.to_owned();
    let exchange = move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    let text = tokio::task::spawn_blocking(exchange).await.expect("no panic").expect("it answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    send(address, &format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")).await
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path).await
}

fn evaluation(time: i64, end: Option<Status>) -> State {
    let stamp = EventStamp::new(time, format!("e-{time}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_open(&stamp, Status::Queued);
    state.set_text(&stamp, names::CODE, "print(1)");
    state.set_metadata(&stamp, "exact", "1.10");
    state.set_history(&stamp, "queued", Status::Queued, "queued");
    if let Some(status) = end {
        state.set_end(&EventStamp::new(time + 1, "end"), status);
    }
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evaluation_is_read_with_its_history() {
    let served = serve(json!({})).await;
    served.backend.insert("a+b", evaluation(1_000_000, Some(Status::Completed)));

    let answer = get(served.public, "/evaluations/a+b").await;

    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    let record = answer.json();
    assert_eq!(
        (&record["id"], &record["status"], &record["code"]),
        (&json!("a+b"), &json!("completed"), &json!("print(1)"))
    );
    assert!(answer.body.contains("\"metadata\":{\"exact\":1.10}"), "numbers keep their digits: {}", answer.body);
    assert!(record.get("incomplete").is_none());
    let events = get(served.public, "/evaluations/a%2Bb/events").await.json();
    assert_eq!((&events[0]["type"], &events[0]["event_id"]), (&json!("queued"), &json!("e-1000000")));
    for path in ["/evaluations/none", "/evaluations/none/events", "/evaluations/%ff"] {
        let answer = get(served.public, path).await;
        assert_eq!((answer.status, answer.json()), (404, json!({ "detail": "Evaluation not found" })), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_come_newest_first_and_follow_each_other() {
    let served = serve(json!({})).await;
    for number in 0..5 {
        served.backend.insert(&format!("e{number}"), evaluation(number * 10, None));
    }

    let mut ids = Vec::new();
    let mut path = "/evaluations?limit=2&status=queued".to_owned();
    for _ in 0..3 {
        let page = get(served.public, &path).await.json();
        ids.extend(page["evaluations"].as_array().expect("a list").iter().map(|record| record["id"].clone()));
        path =
            format!("/evaluations?limit=2&status=queued&cursor={}", page["next_cursor"].as_str().unwrap_or_default());
    }

    assert_eq!(ids, ["e4", "e3", "e2", "e1", "e0"]);
    assert!(path.ends_with("cursor="), "the last page has no cursor");
    for (query, expected) in [
        ("limit=0", "`limit` cannot be `0`"),
        ("staus=failed", "unknown parameter `staus`; did you mean `status`?"),
        ("cursor=mine", "`cursor` is none that this storage gave: this cursor is not mine"),
    ] {
        let answer = get(served.public, &format!("/evaluations?{query}")).await;
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 422 && detail.contains(expected), "{} {detail}", answer.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_say_what_can_be_counted() {
    let served = serve(json!({})).await;
    assert_eq!(get(served.public, "/statistics").await.json()["success_rate"], Value::Null);
    for (id, end) in [("a", None), ("b", Some(Status::Completed)), ("c", Some(Status::Failed))] {
        served.backend.insert(id, evaluation(1, end));
    }

    let expected = json!({
        "total_evaluations": 3,
        "by_status": { "queued": 1, "completed": 1, "failed": 1 },
        "success_rate": 0.5,
        "age_seconds": 0,
    });
    assert_eq!(get(served.public, "/statistics").await.json(), expected);
    let answer = get(serve(json!({ "countless": true })).await.public, "/statistics").await;
    assert_eq!(
        (answer.status, answer.json()["detail"].as_str()),
        (501, Some("the storage backend does not offer counts"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_green_with_all_that_people_look_for() {
    let served = serve(json!({})).await;

    let answer = get(served.public, "/health").await;

    let health = answer.json();
    assert_eq!(answer.status, 200);
    for (key, expected) in [
        ("healthy", json!(true)),
        ("redis", json!("healthy")),
        ("storage", json!("healthy")),
        ("events_processed", json!(7)),
        ("uptime", json!(format!("0h 0m {}s", health["uptime_seconds"]))),
        ("reasons", json!([])),
        ("backends", json!({ "root": { "healthy": true, "breaker": "closed", "evaluations": 0 } })),
    ] {
        assert_eq!(health[key], expected, "{key}");
    }
    assert_eq!(get(served.public, "/readyz").await.json(), json!({ "ready": true, "reasons": [] }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_red_with_reasons_while_the_process_lives() {
    let served = serve(json!({})).await;
    served.backend.is_away();
    *served.worker.lock().expect("no panic") = WorkerStatus {
        redis_reason: "connection refused".to_owned(),
        redis_away_for: Some(Duration::from_millis(62_900)),
        stuck: vec!["lane 2: its merge has not returned for 40s".to_owned()],
        draining: true,
        ..WorkerStatus::default()
    };

    let (health, ready) = (get(served.public, "/health").await, get(served.public, "/readyz").await);

    assert_eq!((health.status, health.json()["storage"].as_str()), (503, Some("unhealthy")));
    assert_eq!(
        health.json()["reasons"],
        json!([
            "redis: connection refused (for 1m 2s)",
            "storage: the disk is gone",
            "lane 2: its merge has not returned for 40s"
        ])
    );
    assert_eq!((ready.status, ready.json()["reasons"].as_array().map(Vec::len)), (503, Some(4)));
    assert_eq!(get(served.public, "/livez").await.status, 200);
}

/// A backend may say that it is well and take nothing, such as one whose breaker lets a call find out now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_takes_no_events_is_not_well() {
    let served = serve(json!({})).await;
    let stalled = |seconds| WorkerStatus {
        redis_healthy: true,
        stalled: Some(Stalled { reason: "read-only".to_owned(), lasts: Duration::from_secs(seconds) }),
        ..WorkerStatus::default()
    };
    let reasons = |answer: Answer| answer.json()["reasons"].clone();

    *served.worker.lock().expect("no panic") = stalled(2);
    assert_eq!(get(served.public, "/readyz").await.status, 200, "what passes soon is no outage");
    *served.worker.lock().expect("no panic") = stalled(40);
    let (health, ready) = (get(served.public, "/health").await, get(served.public, "/readyz").await);

    assert_eq!((health.status, ready.status), (503, 503));
    assert_eq!(reasons(ready), json!(["storage: it takes no events: read-only (for 40s)"]));
    served.backend.is_away();
    assert_eq!(reasons(get(served.public, "/readyz").await), json!(["storage: the disk is gone (for 40s)"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_tree_reading_says_why() {
    let served = serve(json!({})).await;
    served.current.clear("waiting for backend `pg`: connection refused");

    for path in ["/evaluations/a", "/evaluations", "/statistics"] {
        let answer = get(served.public, path).await;
        assert_eq!(
            (answer.status, answer.json()["detail"].as_str()),
            (503, Some("waiting for backend `pg`: connection refused"))
        );
    }
    assert_eq!(
        get(served.public, "/health").await.json()["reasons"][0],
        "storage: waiting for backend `pg`: connection refused"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_hangs_hangs_nothing_else() {
    let served = serve_with(json!({}), reading_for(Duration::from_secs(2))).await;
    let (release, _entered) = served.backend.hang();

    // More than there are places: two hang inside, the others find no place.
    let asked: Vec<_> = (0..6).map(|_| tokio::spawn(get(served.public, "/evaluations/a"))).collect();
    for path in ["/livez", "/metrics"] {
        assert_eq!(get(served.public, path).await.status, 200);
    }
    assert!(asked.iter().all(|asked| !asked.is_finished()), "they have waited for what hangs");
    for answer in asked {
        let answer = answer.await.expect("it is answered");
        assert_eq!(answer.status, 503, "{}", answer.body);
    }

    let reasons = get(served.public, "/readyz").await.json()["reasons"].to_string();
    assert!(reasons.contains("storage"), "{reasons}");
    drop(release);
    served.backend.mend();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_offered_is_answered_properly() {
    let served = serve(json!({})).await;

    let unknown = get(served.public, "/nothing").await;
    assert_eq!((unknown.status, unknown.json()), (404, json!({ "detail": "Not Found" })));
    let method = ask(served.public, "POST", "/evaluations").await;
    assert_eq!((method.status, method.json()), (405, json!({ "detail": "Method Not Allowed" })));
    assert!(method.head.contains("allow: get,head"), "{}", method.head);
    let head = ask(served.public, "HEAD", "/livez").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(get(served.public, "/explain").await.status, 404, "for the operator only");
    let large = format!("GET /livez HTTP/1.1\r\nhost: worker\r\n{}\r\n", "x: y\r\n".repeat(100));
    assert_eq!(send(served.public, &large).await.status, 431);
    assert_eq!(get(served.public, "/metrics").await.body.lines().last(), Some("# EOF"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let served = serve_with(json!({}), Config { max_connections: 1, ..Config::default() }).await;
    let idle = TcpStream::connect(served.public).expect("it listens");

    let waiting = tokio::spawn(get(served.public, "/livez"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());

    drop(idle);
    assert_eq!(waiting.await.expect("it is answered").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_with_its_key() {
    let first = Listener::bind("http", SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");

    let error = Listener::bind("http", first.address()).await.expect_err("it is taken").to_string();

    let expected = format!("cannot listen on `{}`, which `http.listen` names; end the other process", first.address());
    assert!(error.starts_with(&expected), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_find_a_worker_and_what_it_knows() {
    let served = serve(json!({ "note": "writes nowhere" })).await;
    served.backend.insert("a@b", evaluation(1, None));
    let (admin, stop) = (served.admin, served.stop.clone());

    let asked = tokio::task::spawn_blocking(move || {
        let client = Client::new(admin);
        let found = client.get(&format!("/evaluations/{}", escape("a@b"))).expect("it answers").expect("it is there");
        assert_eq!(found["id"], "a@b");
        assert_eq!(client.get("/evaluations/none").expect("it answers"), None);
        let explained = client.get("/explain").expect("it answers").expect("a tree");
        assert_eq!(explained["tree"]["notes"][0], "writes nowhere");
        assert_eq!(explained["settings"][0]["key"], "a");
        let refused = client.get("/evaluations?limit=x").expect_err("it refuses").to_string();
        assert!(refused.contains("answered 422: `limit` cannot be `x`"), "{refused}");
        stop.cancel();
        let ended = || matches!(Client::new(admin).get("/livez"), Err(ClientError::NothingListens(_)));
        eventually("nothing listens any more", ended);
    });
    asked.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_answers_how_it_ended_and_heeds_no_web_page() {
    let served = serve(json!({})).await;
    let send = async |address, line: &str, heads: &str| {
        send(address, &format!("{line} HTTP/1.1\r\n{heads}connection: close\r\n\r\n")).await
    };
    let (admin, here) = (served.admin, "host: 127.0.0.1:8086\r\n");

    let refused = send(admin, "POST /reload", here).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains("the fallback `disk`")));
    assert_eq!(send(admin, "POST /reload?force=true", "host: localhost:80\r\n").await.status, 200);
    assert_eq!(send(admin, "GET /reload", "host: [::1]:80\r\n").await.status, 405);
    let of_a_page = format!("{here}origin: http://evil.example\r\n");
    assert_eq!(send(admin, "POST /reload", &of_a_page).await.status, 403);
    assert_eq!(send(admin, "POST /reload", "host: evil.example\r\n").await.status, 403);
    assert_eq!(send(served.public, "POST /reload", here).await.status, 404);
}
