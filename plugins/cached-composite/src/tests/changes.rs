//! What a change of the configuration does to what the fallback holds, and how the layer is while its primary is not well.

use std::sync::Arc;
use std::time::Duration;

use storage_plugin_api::{Backend, Call, Durability, Error, Fields, Outcome, Record, Status};

use super::store::Store;
use super::{Tree, With, call, event, eventually, merge};
use crate::lock;

/// A tree whose fallback holds two evaluations, since its primary is away.
fn in_an_outage() -> Tree {
    let tree = Tree::new(With::Both);
    tree.primary.go_away();
    for id in ["a", "b"] {
        assert_eq!(tree.merge(id, &event(1, Status::Queued)).outcome, Outcome::Accepted);
    }
    tree
}

fn other_primary() -> Arc<Store> {
    Store::new("another primary", Durability::Durable)
}

/// An instance that was opened and then given up used to have merged into its primary what the tree in use held.
#[test]
fn an_instance_that_is_not_in_use_takes_nothing_from_the_fallback() {
    let tree = in_an_outage();
    let other = other_primary();

    let given_up = tree.beside(&other);
    // It looks at the fallback when it is opened; what moves things would have by now.
    std::thread::sleep(Duration::from_millis(300));
    given_up.close(&call()).expect("it stops");

    assert_eq!((other.ids(), tree.fallback.ids().len()), (Vec::new(), 2));
    tree.primary.come_back();
    tree.wait_until_caught_up();
    assert_eq!(tree.primary.ids(), ["a", "b"]);
}

/// The old instance, not closed yet, used to move into the old primary what had been accepted for the new one.
#[test]
fn what_is_accepted_for_a_new_primary_does_not_go_to_the_old_one() {
    let tree = in_an_outage();
    let other = other_primary();
    other.go_away();
    let next = tree.beside(&other);
    next.begin(&call()).expect("it begins");

    assert_eq!(merge(&next, "c", &event(2, Status::Queued)).outcome, Outcome::Accepted);
    tree.primary.come_back();
    std::thread::sleep(Duration::from_millis(300));

    assert_eq!((tree.primary.ids(), tree.fallback.ids().len()), (Vec::new(), 3));
    other.come_back();
    eventually("the new primary to have it all", || tree.fallback.ids().is_empty());
    assert_eq!((other.ids().join(" "), tree.primary.ids()), ("a b c".to_owned(), Vec::new()));
    for instance in [&tree.composite, &next] {
        instance.close(&call()).expect("it stops");
    }
}

/// Accepted between the old instance's look at an evaluation and its delete of it.
#[test]
fn a_batch_that_was_under_way_deletes_nothing_after_the_change() {
    let tree = in_an_outage();
    let held_up = tree.primary.hold_up("merge");
    held_up.entered.recv().expect("the old instance catches up");
    let other = other_primary();
    let next = tree.beside(&other);
    next.begin(&call()).expect("it begins");

    tree.primary.come_back();
    drop(held_up);

    eventually("the new primary to have it all", || tree.fallback.ids().is_empty());
    assert_eq!(other.ids(), ["a", "b"]);
    for instance in [&tree.composite, &next] {
        instance.close(&call()).expect("it stops");
    }
}

/// It came to its end behind a read whose answer then stood in the new cache for its whole time.
#[test]
fn a_merge_that_is_under_way_in_the_tree_before_is_not_missing_in_a_new_cache() {
    let tree = Tree::new(With::Fallback);
    tree.merge("a", &event(1, Status::Queued));
    let next = tree.beside(&tree.primary);
    let status = |next: &crate::CachedComposite| {
        let found = next.get(&call(), &["a"], Fields::Whole).expect("read").remove(0).expect("stored");
        Record::status_of(&found.state)
    };
    assert_eq!(status(&next), Some(Status::Queued), "before it is in use");
    next.begin(&Call::with_budget(Duration::from_secs(4))).expect("it begins");
    assert_eq!(status(&next), Some(Status::Queued));

    tree.merge("a", &event(2, Status::Completed));

    assert_eq!(status(&next), Some(Status::Completed));
    assert_eq!(tree.cache.ids(), [""; 0]);
    eventually("it to be cached", || status(&next) == Some(Status::Completed) && tree.cache.ids() == ["a"]);
    next.close(&call()).expect("it stops");
}

/// A reload that puts a fallback over a primary that is away used to be refused, since the new layer was "not well".
#[test]
fn it_is_well_while_the_fallback_makes_up_for_a_primary_that_is_not() {
    let with = Tree::new(With::Fallback);
    let without = Tree::new(With::Cache);
    for tree in [&with, &without] {
        *lock(&tree.primary.ails) = Some("connection refused".to_owned());
    }

    let (with_fallback, without) = (with.composite.health(), without.composite.health());

    assert!(with_fallback.healthy, "{}", with_fallback.reason);
    assert!(with_fallback.reason.contains("is not well (connection refused); while it is unavailable merges go to"));
    assert!(!without.healthy);
    *lock(&with.fallback.ails) = Some("disk full".to_owned());
    let neither = with.composite.health();
    assert!(!neither.healthy && neither.reason.ends_with("which is not well either: disk full"), "{}", neither.reason);
}

/// Evaluations with which every merge fails as a whole used to keep all behind them from being merged back.
#[test]
fn evaluations_that_fail_the_whole_call_keep_no_other_from_moving() {
    const BAD: [&str; 3] = ["c-00", "c-07", "c-08"];
    for error in [Error::internal("index out of bounds"), Error::unavailable("no answer within 5 s")] {
        let tree = in_an_outage();
        for number in 0..20 {
            tree.merge(&format!("c-{number:02}"), &event(2, Status::Queued));
        }
        *lock(&tree.primary.fails_for) = Some((BAD.to_vec(), error.clone()));

        tree.primary.come_back();

        eventually("the rest to be moved", || tree.fallback.ids() == BAD);
        assert_eq!(tree.primary.ids().len(), 19, "{error}");
        if error.kind == storage_plugin_api::ErrorKind::Internal {
            eventually("health to tell", || tree.composite.health().details.contains_key("refused_by_primary"));
        }
        *lock(&tree.primary.fails_for) = None;
        tree.composite.close(&call()).expect("it stops");
        let next = tree.another();
        eventually("those to be moved", || tree.fallback.ids().is_empty());
        next.close(&call()).expect("it stops");
    }
}

/// The thread used to be gone after a panic, until the next start, with nothing in health.
#[test]
fn a_panic_of_the_catch_up_is_in_health_and_does_not_end_it() {
    let tree = in_an_outage();
    tree.fallback.before(|name| if name == "list" { panic!("no such page") } else { Ok(()) });

    eventually("health to tell", || tree.composite.health().reason.contains("merging"));

    assert!(tree.composite.health().reason.contains("back panicked and is tried again"));
    tree.fallback.come_back();
    tree.primary.come_back();
    tree.wait_until_caught_up();
    assert!(!tree.composite.health().reason.contains("panicked"));
}
