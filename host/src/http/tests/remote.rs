//! A backend of the worker as the commands call it, over a real connection.

use storage_plugin_api::{
    Answer, Backend, Call, Delete, Deleted, Durability, Error, ErrorKind, Fields, Item, Outcome, Prune, Query,
    with_items,
};

use super::*;
use crate::http::remote::RemoteBackend;

/// Does something with the backend `root` of a worker, on a thread that may block.
async fn with_root<T: Send + 'static>(served: &Served, work: impl FnOnce(&RemoteBackend) -> T + Send + 'static) -> T {
    let admin = served.admin;
    let work = move || {
        let client = Client::new(admin);
        let entry = RemoteBackend::all(&client).expect("it answers").pop().expect("a root");
        assert_eq!((entry.name.as_str(), entry.root), ("root", true));
        work(&RemoteBackend::new(client, entry))
    };
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

fn call() -> Call {
    Call::with_budget(Duration::from_secs(5))
}

fn merge(backend: &RemoteBackend, id: &str, state: &State) -> Vec<Answer> {
    with_items(&[(id, state)], |items: &[Item<'_>]| backend.merge(&call(), items)).expect("it is taken")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_backend_reaches_it() {
    let served = serve(json!({})).await;
    let state = evaluation(1_000_000, Some(Status::Completed));

    with_root(&served, move |root| {
        let expected = Answer::new(Outcome::Created, Some(Status::Completed), Durability::Volatile);
        assert_eq!(merge(root, "a b/ü", &state), [expected.taken_by(&"root".into())]);
        assert_eq!(merge(root, "a b/ü", &state)[0].outcome, Outcome::Unchanged);
        merge(root, "z", &evaluation(7, None));
        let found = root.get(&call(), &["a b/ü", "none"], Fields::Whole).expect("it is read");
        assert_eq!(found[0].as_ref().map(|found| found.state.digest()), Some(state.digest()));
        assert!(found[1].is_none());
        let query = Query { limit: 1, ..Query::default() };
        let page = root.list(&call(), &query).expect("a page");
        assert_eq!((page.entries[0].0.as_str(), page.entries[0].1.state.digest()), ("a b/ü", state.digest()));
        let last = root.list(&call(), &Query { cursor: page.cursor, ..query }).expect("a page");
        assert_eq!((last.entries[0].0.as_str(), last.cursor), ("z", None));
        assert_eq!(root.counts(&call()).expect("figures").by_status["completed"], 1);
        root.flush(&call()).expect("it is flushed");
        assert!(root.health().healthy);
        let digest = state.digest();
        let deletes = [Delete { id: "a b/ü", digest: Some(&digest) }, Delete { id: "none", digest: None }];
        assert_eq!(root.delete(&call(), &deletes), Ok(vec![Deleted::Deleted, Deleted::Absent]));
        assert!(root.capabilities().list_by_id);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_keeps_its_kind_and_its_hint() {
    let served = serve(json!({})).await;
    for kind in ErrorKind::ALL {
        let expected = Error::new(kind, "so it is").with_retry_after(Duration::from_millis(1500));
        let error = expected.clone();
        served.backend.set_fault(move |call| if call == "get" { Err(error.clone()) } else { Ok(()) });

        let answer = with_root(&served, |root| root.get(&call(), &["a"], Fields::Whole).map(drop)).await;

        assert_eq!(answer, Err(expected));
    }
    served.backend.mend();

    let prune = Prune { ended_before: 0, limit: 1, dry_run: false };
    let refused = with_root(&served, move |root| root.prune(&call(), &prune)).await;
    assert_eq!(refused.expect_err("it does not").kind, ErrorKind::Configuration);
    served.current.clear("waiting for backend `pg`: connection refused");
    let client = Client::new(served.admin);
    let absent = tokio::task::spawn_blocking(move || RemoteBackend::all(&client).expect_err("no tree").to_string());
    assert!(absent.await.expect("no panic").ends_with("answered 503: waiting for backend `pg`: connection refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_follows_a_reload_by_its_name() {
    let served = serve(json!({})).await;
    let admin = served.admin;
    let root = tokio::task::spawn_blocking(move || {
        let client = Client::new(admin);
        let entry = RemoteBackend::all(&client).expect("it answers").remove(0);
        RemoteBackend::new(client, entry)
    });
    let root = Arc::new(root.await.expect("no panic"));
    served.backend.insert("old", evaluation(1, None));
    let get = async || {
        let root = Arc::clone(&root);
        let get = move || root.get(&call(), &["old"], Fields::Whole).map(|found| found[0].is_some());
        tokio::task::spawn_blocking(get).await.expect("no panic")
    };
    let reload = |root: &str| {
        let config = crate::storage::Config { backend: root.to_owned(), ..quick() };
        let plan = Plan::of(&config, &backends(&[(root, "store", &[], json!({}))]), &TestPlugins::default());
        let tree = plan.expect("it fits").open(&Metrics::new(), None, &|| false).expect("it opens");
        served.current.put(Arc::new(tree));
    };

    assert_eq!(get().await, Ok(true));
    reload("root");
    assert_eq!(get().await, Ok(false), "the new one of that name");
    reload("other");
    let gone = get().await.expect_err("there is none");
    assert_eq!(gone, Error::configuration("the running worker has no backend `root`; it has `other`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_given_up_and_what_is_away_is_unavailable() {
    let served = serve(json!({})).await;
    let (release, _entered) = served.backend.hang();

    let short = Call::with_budget(Duration::from_millis(200));
    let late = with_root(&served, move |root| root.get(&short, &["a"], Fields::Whole).map(drop)).await;
    drop(release);

    assert_eq!(late.map_err(|error| error.kind), Err(ErrorKind::Unavailable));
    let stop = served.stop.clone();
    let away = with_root(&served, move |root| {
        stop.cancel();
        std::thread::sleep(Duration::from_millis(100));
        root.flush(&call())
    });
    assert_eq!(away.await.map_err(|error| error.kind), Err(ErrorKind::Unavailable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_and_a_bad_item_takes_no_neighbour_along() {
    let served = serve(json!({})).await;
    let post = async |address, path: &str, body: &str| {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {length}");
        send(address, &format!("{head}\r\n\r\n{body}")).await
    };

    let state = evaluation(1, None).to_canonical_json();
    let body = format!(r#"{{"items":[{{"id":"bad","state":{{"format":99}}}},{{"id":"good","state":{state}}}]}}"#);
    let merged = post(served.admin, "/backends/root/merge", &body).await.json();
    assert_eq!(merged["answers"][0]["outcome"], "rejected", "{merged}");
    assert_eq!(merged["answers"][0]["error"]["kind"], "invalid_item");
    assert_eq!(merged["answers"][1]["outcome"], "created", "{merged}");
    let delete = r#"{"items":[{"id":"good","digest":"abc"}]}"#;
    for (path, body, status, kind) in [
        ("/backends/root/merge", "{", 422, "invalid_item"),
        ("/backends/root/list", r#"{"odr":"id"}"#, 422, "invalid_item"),
        ("/backends/root/delete", delete, 422, "invalid_item"),
        ("/backends/root/get?timeot=1", "{}", 422, "invalid_item"),
        ("/backends/nobody/flush", "", 409, "configuration"),
    ] {
        let answer = post(served.admin, path, body).await;
        assert_eq!((answer.status, answer.json()["kind"].as_str()), (status, Some(kind)), "{path}: {}", answer.body);
    }
    assert_eq!(post(served.admin, "/backends/root/close", "").await.status, 404);
    assert_eq!(post(served.public, "/backends/root/flush", "").await.status, 404);
    assert_eq!(get(served.public, "/backends").await.status, 404);
    let of_a_page = "POST /backends/root/flush HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: http://evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(send(served.admin, of_a_page).await.status, 403);
}
