//! The cache: what becomes an entry, and that no read is older than what was confirmed.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use storage_plugin_api::{Backend, Durability, Error, Fields, Outcome, Record, Status};

use super::{Tree, With, call, event};
use crate::{Options, lock};

#[test]
fn a_whole_read_becomes_an_entry_and_a_merge_is_joined_into_it() {
    let tree = Tree::new(With::Cache);
    assert_eq!(tree.merge("a", &event(1, Status::Queued)).outcome, Outcome::Created);
    assert_eq!(tree.cache.ids(), [""; 0], "a merge makes no entry");
    assert_eq!(tree.status("a"), Some(Status::Queued));
    let reads = tree.primary.gets.load(SeqCst);

    assert_eq!(tree.status("a"), Some(Status::Queued));
    tree.merge("a", &event(2, Status::Completed));

    let found = tree.get("a").expect("stored");
    assert_eq!(tree.primary.gets.load(SeqCst), reads, "the cache answered");
    assert_eq!(Some(found.state.to_canonical_json()), tree.primary.json("a"));
    assert!(!found.incomplete);
}

#[test]
fn what_the_primary_refuses_is_never_shown() {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");
    *lock(&tree.primary.refuses) = Some("a".to_owned());

    let answer = tree.merge("a", &event(2, Status::Completed));

    assert!(matches!(answer.outcome, Outcome::Rejected(_)));
    assert_eq!(tree.status("a"), Some(Status::Queued));
}

#[test]
fn a_read_without_bodies_becomes_no_entry() {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));

    tree.composite.get(&call(), &["a"], Fields::WithoutBodies).expect("read");

    assert_eq!(tree.cache.ids(), [""; 0]);
}

/// A read that began before a merge came back after it, and put what it had read into the cache.
#[test]
fn a_read_that_began_before_a_merge_fills_nothing_and_is_not_joined_after_it() {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));
    let held_up = tree.primary.hold_up("get");

    std::thread::scope(|scope| {
        let early = scope.spawn(|| tree.status("a"));
        held_up.entered.recv().expect("the early read is under way");
        tree.merge("a", &event(2, Status::Completed));
        let late = scope.spawn(|| tree.status("a"));
        held_up.entered.recv().expect("the late read asks by itself");
        tree.primary.come_back();
        drop(held_up);

        assert_eq!(early.join().expect("read"), Some(Status::Queued));
        assert_eq!(late.join().expect("read"), Some(Status::Completed));
    });
    assert_eq!(tree.status("a"), Some(Status::Completed));
}

#[test]
fn concurrent_misses_of_one_id_ask_once() {
    for fields in [Fields::Whole, Fields::WithoutBodies] {
        ask_once(fields);
    }
}

fn ask_once(fields: Fields) {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));
    let held_up = tree.primary.hold_up("get");
    let before = tree.primary.gets.load(SeqCst);
    let looks = tree.cache.gets.load(SeqCst);

    std::thread::scope(|scope| {
        let read = || tree.composite.get(&call(), &["a"], fields).expect("read").remove(0).expect("stored");
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(read)).collect();
        held_up.entered.recv().expect("one asks");
        super::eventually("all to have missed", || tree.cache.gets.load(SeqCst) == looks + 8);
        // They have looked, and board next.
        std::thread::sleep(Duration::from_millis(50));
        drop(held_up);
        for reader in readers {
            let state = reader.join().expect("read").state;
            assert_eq!(Record::status_of(&state), Some(Status::Queued));
        }
    });

    assert_eq!(tree.primary.gets.load(SeqCst), before + 1);
}

#[test]
fn what_a_forgetful_cache_keeps_of_an_entry_is_no_entry() {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");
    // As if the cache had forgotten the entry just before a merge was joined into it.
    lock(&tree.cache.states).insert("a".to_owned(), event(9, Status::Failed));

    assert_eq!(tree.status("a"), Some(Status::Queued));
    assert_eq!(tree.status("a"), Some(Status::Queued));
}

#[test]
fn an_entry_is_used_for_its_time_and_then_made_anew() {
    let options = Options { ttl: Duration::from_millis(1), ..Options::default() };
    let tree = Tree::of(With::Cache, options, Durability::Durable);
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");
    // Another worker.
    lock(&tree.primary.states).insert("a".to_owned(), event(2, Status::Running));
    std::thread::sleep(Duration::from_millis(5));

    let found = tree.get("a").expect("stored");

    assert_eq!(Some(found.state.to_canonical_json()), tree.primary.json("a"));
}

#[test]
fn a_cache_that_cannot_be_changed_is_not_believed_any_more() {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");
    tree.cache.before(|call| if call == "merge" { Err(Error::internal("no")) } else { Ok(()) });

    tree.merge("a", &event(2, Status::Completed));

    assert_eq!(tree.status("a"), Some(Status::Completed));
    tree.cache.go_away();
    assert_eq!(tree.status("a"), Some(Status::Completed), "a cache that is away is a miss");
}

#[test]
fn a_deleted_evaluation_is_gone_from_the_cache_too() {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");

    tree.delete("a");

    assert!(tree.get("a").is_none());
    assert_eq!(tree.cache.ids(), [""; 0]);
}

#[test]
fn two_instances_over_one_cache_keep_each_others_entries_up_to_date() {
    let tree = Tree::new(With::Both);
    let other = tree.another();
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");

    super::merge(&other, "a", &event(2, Status::Completed));

    assert_eq!(tree.status("a"), Some(Status::Completed));
    assert_eq!(tree.cache.ids(), ["a"]);
}
