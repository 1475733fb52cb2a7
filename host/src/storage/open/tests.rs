//! How a tree is opened, waited for and closed.

use serde_json::{Value, json};
use storage_plugin_api::{Fields, Health};

use super::*;
use crate::storage::lock;
use crate::storage::testing::{TestPlugins, backends, quick};

fn plan(plugins: &TestPlugins, options: Value) -> Plan {
    let backends = backends(&[
        ("root", "layer", &[("primary", &["a"]), ("shadow", &["b"])], json!({})),
        ("a", "store", &[], options),
        ("b", "store", &[], json!({})),
    ]);
    Plan::of(&quick(), &backends, plugins).expect("all fits")
}

fn open(plugins: &TestPlugins, options: Value, current: &Current) -> Result<Tree, OpenError> {
    plan(plugins, options).open(&Metrics::new(), Some(current), &|| false)
}

fn fails_to_open(options: Value) -> OpenError {
    open(&TestPlugins::default(), options, &Current::opening()).expect_err("it cannot be opened")
}

#[test]
fn a_tree_is_opened_from_the_leaves_up_and_closed_from_the_root_down() {
    let plugins = TestPlugins::default();

    let tree = open(&plugins, json!({}), &Current::opening()).expect("all open");
    lock(&plugins.opened).clear();
    assert_eq!(tree.close(Duration::from_secs(5)), []);

    let expected = [
        "open a()",
        "open b()",
        "open root(primary=a,shadow=b)",
        "flush root",
        "close root",
        "drop root",
        "flush b",
        "close b",
        "drop b",
        "flush a",
        "close a",
        "drop a",
    ];
    assert_eq!(*lock(&plugins.events), expected);
}

/// A plugin is promised that only calls that read follow; a store of which nothing may be changed has nothing to flush.
#[test]
fn what_was_opened_to_read_is_closed_without_a_flush() {
    let plugins = TestPlugins::default();
    let plan = plan(&plugins, json!({})).to_read();

    let tree = plan.open(&Metrics::new(), None, &|| false).expect("all open");
    lock(&plugins.opened).clear();
    assert_eq!(tree.close(Duration::from_secs(5)), []);

    let events = lock(&plugins.events);
    assert!(events.iter().any(|event| event == "close a"), "{events:?}");
    assert!(!events.iter().any(|event| event.starts_with("flush")), "{events:?}");
}

#[test]
fn an_unavailable_backend_is_waited_for_and_health_says_so() {
    let current = Current::opening();

    let tree = open(&TestPlugins::default(), json!({ "open": "away" }), &current).expect("it comes");

    let reason = current.tree().expect_err("the tree is not put there yet");
    assert_eq!(reason, "waiting for backend `a` (attempt 3 to open it failed): connection refused");
    assert!(tree.health().healthy);
}

#[test]
fn a_wait_for_a_backend_ends_when_the_worker_does() {
    let backends = backends(&[("root", "store", &[], json!({ "open": "away" }))]);
    let plan = Plan::of(&quick(), &backends, &TestPlugins::default()).expect("all fits");

    let opened = plan.open(&Metrics::new(), None, &|| true);

    assert!(matches!(opened, Err(OpenError::Stopped)), "{opened:?}");
}

#[test]
fn what_cannot_be_opened_says_why_and_stops_the_start() {
    let error = fails_to_open(json!({ "open": "configuration" }));
    assert_eq!(error.to_string(), "cannot open backend `a` (plugin `store`): the path is a file");
    assert!(error.is_configuration());

    let error = fails_to_open(json!({ "open": "panic" }));
    assert!(error.to_string().contains("it panicked: out of luck"), "{error}");
    assert!(!error.is_configuration());
}

#[test]
fn an_open_that_hangs_is_given_up_and_what_it_opens_is_closed() {
    let plugins = TestPlugins::default();

    let error = open(&plugins, json!({ "open": "hang" }), &Current::opening()).expect_err("it hangs");

    assert!(error.to_string().contains("it did not return within 500ms"), "{error}");
    crate::storage::testing::eventually("it is closed", || lock(&plugins.events).contains(&"close a".to_owned()));
}

#[test]
fn a_failed_open_closes_what_was_open() {
    let plugins = TestPlugins::default();
    let backends = backends(&[
        ("root", "layer", &[("primary", &["a"])], json!({ "open": "configuration" })),
        ("a", "store", &[], json!({})),
    ]);
    let plan = Plan::of(&quick(), &backends, &plugins).expect("all fits");

    assert!(plan.open(&Metrics::new(), None, &|| false).is_err());

    assert_eq!(*lock(&plugins.events), ["open a()", "flush a", "close a"]);
}

#[test]
fn the_root_decides_on_the_health_of_the_tree() {
    let plugins = TestPlugins::default();
    let tree = open(&plugins, json!({}), &Current::opening()).expect("all open");
    lock(&plugins.opened)["b"].is_away();

    let health = tree.health();

    assert!(health.healthy && health.reason.is_empty());
    assert!(!health.backends["b"].healthy);
    assert_eq!(health.backends["b"].reason, "the disk is gone");
    assert_eq!(tree.root().health(), Health::healthy().with("evaluations", 0).with("breaker", "closed"));
}

/// What its children were away for used to shut off a layer and all that it could do without them.
#[test]
fn a_store_that_is_away_is_left_alone_and_the_layer_above_it_is_not() {
    let plugins = TestPlugins::default();
    let tree = open(&plugins, json!({}), &Current::opening()).expect("all open");
    for name in ["root", "a"] {
        lock(&plugins.opened)[name].is_away();
        let guard = tree.guard(name).expect("it is in the tree");
        for _ in 0..5 {
            assert!(guard.get(&Call::with_budget(Duration::from_secs(5)), &["e"], Fields::Whole).is_err());
        }
    }

    let breakers: Vec<_> = tree.breakers().into_iter().map(|(name, state)| format!("{name} {state:?}")).collect();
    let health = tree.health();

    assert_eq!(breakers, ["a Open", "b Closed", "root Closed"]);
    assert!(!health.healthy && health.failing_for.is_some(), "it is as old as the trouble below it");
}

#[test]
fn a_close_that_hangs_does_not_keep_the_others_from_closing() {
    let plugins = TestPlugins::default();
    let tree = open(&plugins, json!({}), &Current::opening()).expect("all open");
    let (_release, _told) = lock(&plugins.opened)["root"].hang();

    let failures = tree.close(Duration::from_millis(300));

    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(&*failures[0].instance, "root");
    assert!(lock(&plugins.events).contains(&"close a".to_owned()));
}
