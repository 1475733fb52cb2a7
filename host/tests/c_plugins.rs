//! Plugins in C that break the contract: refused when they are loaded, or answered as an error of theirs; never believed.
//!
//! `odd.c` in `host/tests/fixtures/` is compiled as each test needs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::{
    Backend, Call, Delete, Deleted, Description, Durability, Error, ErrorKind, EventStamp, Fields, Outcome, Query,
    Result, State, Status, with_items,
};
use storage_worker::plugin::Loader;
use storage_worker::plugin::library::Library;
use storage_worker::telemetry::metrics::Metrics;
use tempfile::TempDir;

/// A build of `odd.c`, loaded or refused.
struct Odd {
    directory: TempDir,
    loader: Loader,
    metrics: Arc<Metrics>,
}

impl Odd {
    fn built(definitions: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compiled = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-std=c99", "-fPIC", "-shared", "-I"])
            .arg(top.join("../plugin-api/include"))
            .args(definitions)
            .arg("-o")
            .arg(file(directory.path()))
            .arg(top.join("tests/fixtures/odd.c"))
            .output()
            .expect("`cc` starts; install a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let metrics = Arc::new(Metrics::new());
        let cache = directory.path().join("cache");
        let loader = Loader::new(&[directory.path().to_owned()], Some(&cache), Arc::clone(&metrics) as _);
        Self { directory, loader, metrics }
    }

    fn library(&self) -> Arc<Library> {
        self.loader.load("odd", None).unwrap_or_else(|error| panic!("it is loaded: {error}"))
    }

    fn refusal(definitions: &[&str]) -> String {
        let odd = Self::built(definitions);
        let error = odd.loader.load("odd", None).expect_err("it is refused").to_string();
        assert!(error.contains(&*file(odd.directory.path()).to_string_lossy()), "the file is named: {error}");
        error
    }

    fn open(&self, way: &str) -> Result<Arc<dyn Backend>> {
        let options = json!({ "way": way });
        let budget = Duration::from_secs(5);
        self.library().open("main", &options, Vec::new(), Durability::Volatile, budget, false)
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("libstorage_backend_odd.so")
}

fn call() -> Call {
    Call::with_budget(Duration::from_secs(5))
}

fn queued() -> State {
    let mut state = State::new();
    state.set_open(&EventStamp::new(1, "q-1"), Status::Queued);
    state
}

fn merge(backend: &dyn Backend, ids: &[&str]) -> Result<Vec<Outcome>> {
    let state = queued();
    let items: Vec<_> = ids.iter().map(|id| (*id, &state)).collect();
    let answers = with_items(&items, |items| backend.merge(&call(), items))?;
    Ok(answers.into_iter().map(|answer| answer.outcome).collect())
}

#[track_caller]
fn is_defect<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
    let error = result.expect_err("the plugin broke the contract");
    assert_eq!(error.kind, ErrorKind::Internal, "{error}");
    assert!(error.message.contains(expected), "{error}");
}

#[test]
fn a_descriptor_that_is_not_whole_is_refused_and_the_reason_told() {
    for (definitions, expected) in [
        (&["-DODD_NO_DESCRIPTOR"][..], "does not export `storage_plugin_descriptor`"),
        (&["-DODD_HEAD=7, STORAGE_PLUGIN_ABI, sizeof(storage_descriptor)"], "begins with 0x0000000000000007"),
        (&["-DODD_HEAD=STORAGE_PLUGIN_MAGIC, 2, sizeof(storage_descriptor)"], "is of version 2 of the layout"),
        (&["-DODD_HEAD=STORAGE_PLUGIN_MAGIC, STORAGE_PLUGIN_ABI, 16"], "has 16 bytes, this worker reads 120"),
        (&["-DODD_GET=NULL"], "has NULL for `get`"),
        (&["-DODD_CALLS=0"], "has 0 for `parallel_calls`"),
        (&["-DODD_OPTIONS=NULL"], "has 3 options at an address where there are none"),
        (&["-DODD_OPTION_TYPE"], "has the unknown type 9 for option `way`"),
        (&["-DODD_OPTION_NAME"], "has no readable name for option 0"),
        (&["-DODD_OPTION_TWICE"], "has the option `way` twice"),
        (&["-DODD_KIND=\"backend\""], "it is a plugin in C of the kind `backend`"),
        (&["-DODD_MISSING_FUNCTION"], "a_function_that_nobody_has"),
        (&["-DSTORAGE_PLUGIN_TARGET=\"vax-dec-ultrix\""], "it was built for vax-dec-ultrix"),
    ] {
        let error = Odd::refusal(definitions);

        assert!(error.contains(expected), "{definitions:?}: {error}");
    }
}

#[test]
fn options_are_checked_against_the_declaration_before_any_code_runs() {
    let odd = Odd::built(&[]);
    let library = odd.library();
    let check = |options: Value| library.check("main", &options, &[]);

    let Description { problems, notes, .. } = check(json!({"weg": 1, "times": "x"})).expect("checked");

    assert_eq!(
        problems,
        [
            "unknown option `weg`; there are `way`, `times`, `loud`",
            "option `way` is missing; give text",
            "option `times` is of another type; give a whole number of at most 64 bits",
        ]
    );
    assert!(notes.is_empty(), "the plugin was not asked");
    let opened = library.open("main", &json!({}), Vec::new(), Durability::Volatile, Duration::from_secs(5), false);
    assert_eq!(opened.err(), Some(Error::configuration("option `way` is missing; give text")));
}

#[test]
fn what_check_says_is_told() {
    let odd = Odd::built(&[]);
    let library = odd.library();
    let check = |way: &str| library.check("main", &json!({ "way": way }), &[]);

    let description = check("problem").expect("checked");
    assert_eq!(description.problems, ["`way` is odd"]);
    assert_eq!(description.notes, ["noted"]);
    assert!(description.capabilities.exclusive && description.capabilities.list_by_id);
    assert!(!check("shared").expect("checked").capabilities.exclusive);
    is_defect(check("no_calls"), "`parallel_calls` to 0");
    is_defect(check("answer_in_check"), "called `answer` in a call that is not for it");
}

#[test]
fn an_open_that_fails_is_told_with_its_kind_and_text() {
    let odd = Odd::built(&[]);

    let error = |way: &str| odd.open(way).err().expect("it is refused");

    assert_eq!(error("open_fails"), Error::unavailable("`main` is away"));
    assert_eq!(error("open_unknown"), Error::internal("the plugin gave the unknown answer 77: no idea"));
    assert_eq!(error("open_silent"), Error::configuration("the plugin gave no reason"));
    assert_eq!(error("open_not_utf8"), Error::unavailable("bad \u{fffd} bytes"));
    assert_eq!(error("open_null_reason"), Error::internal("the plugin gave no reason"));
    assert_eq!(error("read_only"), Error::configuration("only to read"));
    let read_only = odd.library().open(
        "main",
        &json!({"way": "read_only"}),
        Vec::new(),
        Durability::Volatile,
        Duration::ZERO,
        true,
    );
    assert!(read_only.is_ok());
}

#[test]
fn documents_that_cannot_be_are_a_defect() {
    let odd = Odd::built(&[]);
    let get = |way: &str| odd.open(way).expect("opened").get(&call(), &["a", "b"], Fields::Whole);

    is_defect(get("get_version_0"), "a document the version 0");
    is_defect(get("get_null"), "a document of 2 bytes at NULL");
    is_defect(get("get_endless"), "bytes at NULL");
    is_defect(get("get_twice"), "gave document 0 twice");
    is_defect(get("get_beyond"), "gave document 2 where 2 were asked for");
    is_defect(get("get_misplaced"), "called `entry` in a call that is not for it");
    is_defect(get("get_conflict"), "the unknown answer 6");
    assert!(get("get_null_call").expect("answered").iter().all(Option::is_none));
    let found = get("get_unreadable").expect("answered").remove(0).expect("never silently not found");
    assert!(found.incomplete);
}

#[test]
fn answers_that_are_too_few_too_many_or_unknown_are_a_defect() {
    let odd = Odd::built(&[]);
    let put = |way: &str| merge(&*odd.open(way).expect("opened"), &["a", "b", "c"]);

    assert_eq!(put("well").expect("stored"), [Outcome::Created, Outcome::Created, Outcome::Created]);
    is_defect(put("put_few"), "gave 2 answers for 3 items");
    is_defect(put("put_twice"), "answered item 0 twice");
    is_defect(put("put_beyond"), "answered item 3 of 3");
    let unknown = Error::internal("the plugin gave the unknown answer 99: what is 99?");
    assert_eq!(put("put_unknown").expect("answered")[2], Outcome::Rejected(unknown));
    let silent = Error::invalid_item("the plugin gave no reason");
    assert_eq!(put("put_silent").expect("answered")[2], Outcome::Rejected(silent));
}

#[test]
fn pages_that_cannot_be_are_a_defect_and_too_much_is_left_out() {
    let odd = Odd::built(&[]);
    let list = |way: &str| {
        let query = Query { limit: 5, ..Query::default() };
        odd.open(way).expect("opened").list(&call(), &query)
    };

    is_defect(list("scan_null_id"), "an id that is no UTF-8");
    is_defect(list("scan_not_utf8"), "an id that is no UTF-8");
    is_defect(list("scan_version_0"), "a document the version 0");
    is_defect(list("scan_disorder"), "gave the id `a` behind `b`");
    is_defect(odd.open("scan_again").expect("opened").counts(&call()), "which is not their order");
    let endless = odd.open("scan_endless").expect("opened");
    assert_eq!(endless.counts(&call()).expect("counted").by_status.values().sum::<u64>(), 256);
}

#[test]
fn a_delete_that_always_conflicts_ends_as_an_error_and_never_says_that_a_state_differs() {
    let odd = Odd::built(&[]);
    let backend = odd.open("get_unreadable").expect("opened");

    let deleted = backend.delete(&call(), &[Delete { id: "a", digest: None }]).expect("answered");

    assert!(matches!(&deleted[..], [Deleted::Failed(error)] if error.kind == ErrorKind::Overloaded), "{deleted:?}");
}

#[test]
fn health_metrics_and_close_are_those_of_the_plugin() {
    let odd = Odd::built(&[]);
    let backend = odd.open("well").expect("opened");

    let health = backend.health();

    assert!(health.healthy);
    assert_eq!(health.details["documents"], 3);
    assert_eq!(odd.open("ill").expect("opened").health().reason, "ill");
    let text = odd.metrics.encode();
    assert!(text.contains("openings") && text.contains("backend=\"main\""), "{text}");
    assert_eq!(backend.close(&call()), Ok(()));
    assert_eq!(backend.close(&call()), Ok(()), "closing twice is no error");
    is_defect(merge(&*backend, &["a"]), "called after it was closed");
    assert!(!backend.health().healthy);
    is_defect(odd.open("close_fails").expect("opened").close(&call()), "not today");
}

#[test]
fn a_store_is_closed_after_the_last_call_even_if_that_is_its_health() {
    let odd = Odd::built(&[]);
    let backend = odd.open("slow_health").expect("opened");
    let asked = std::thread::spawn({
        let backend = Arc::clone(&backend);
        move || backend.health()
    });
    let begun = || odd.metrics.encode().contains("begun");
    while !begun() {
        std::thread::sleep(Duration::from_millis(1));
    }

    let late = backend.close(&Call::with_budget(Duration::ZERO));

    is_defect(late, "the store is closed when it ends");
    let health = asked.join().expect("no panic");
    assert!(health.healthy, "{health:?}");
    assert_eq!(backend.health().reason, "called after it was closed");
}
