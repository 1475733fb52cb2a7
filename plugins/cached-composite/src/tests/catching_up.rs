//! The way back of what the fallback took.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use storage_plugin_api::{Backend, Deleted, Error, Outcome, Status};

use super::{Tree, With, call, event, eventually};
use crate::{Options, lock};

/// The primary holds what was confirmed before, the fallback what was accepted, the cache an entry.
fn after_an_outage(tree: &Tree) {
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");
    tree.primary.go_away();
    for id in ["a", "b", "c"] {
        assert_eq!(tree.merge(id, &event(2, Status::Completed)).outcome, Outcome::Accepted);
    }
}

#[test]
fn what_was_accepted_comes_to_the_primary_and_leaves_the_fallback() {
    let tree = Tree::of(
        With::Both,
        Options { catch_up_batch: 2, ..Options::default() },
        storage_plugin_api::Durability::Durable,
    );
    after_an_outage(&tree);

    tree.primary.come_back();

    tree.wait_until_caught_up();
    assert_eq!(tree.fallback.ids(), [""; 0]);
    assert_eq!(tree.primary.ids(), ["a", "b", "c"]);
    let mut joined = event(1, Status::Queued);
    joined.merge(&event(2, Status::Completed));
    assert_eq!(tree.primary.json("a"), Some(joined.to_canonical_json()));
    let found = tree.get("a").expect("stored");
    assert_eq!((found.state.to_canonical_json(), found.incomplete), (joined.to_canonical_json(), false));
    assert_eq!(tree.merge("a", &event(2, Status::Completed)).status, Some(Status::Completed));
}

/// The cache's entry was made before the outage, and lacks what the fallback took.
#[test]
fn no_read_misses_what_moves_at_whatever_point_it_stands() {
    for (child, held_up_call) in [("primary", "merge"), ("fallback", "delete"), ("cache", "merge")] {
        let tree = Tree::new(With::Both);
        after_an_outage(&tree);
        let store = match child {
            "primary" => &tree.primary,
            "fallback" => &tree.fallback,
            _ => &tree.cache,
        };
        let held_up = store.hold_up(held_up_call);
        if child != "primary" {
            tree.primary.come_back();
        }
        held_up.entered.recv().expect("it catches up");

        assert_eq!(tree.status("a"), Some(Status::Completed), "while `{held_up_call}` of the {child} is under way");

        store.come_back();
        drop(held_up);
        tree.wait_until_caught_up();
        assert_eq!(tree.status("a"), Some(Status::Completed));
    }
}

#[test]
fn what_grows_while_it_is_moved_stays_until_it_is_moved_whole() {
    let tree = Tree::new(With::Fallback);
    after_an_outage(&tree);
    let held_up = tree.primary.hold_up("merge");
    held_up.entered.recv().expect("it catches up");
    // Accepted after the state was read to be moved.
    lock(&tree.fallback.states).get_mut("a").expect("held").merge(&event(3, Status::Running));

    tree.primary.come_back();
    drop(held_up);

    tree.wait_until_caught_up();
    let mut joined = event(1, Status::Queued);
    joined.merge(&event(2, Status::Completed));
    joined.merge(&event(3, Status::Running));
    assert_eq!(tree.primary.json("a"), Some(joined.to_canonical_json()));
}

#[test]
fn a_delete_during_the_move_is_not_undone_by_it() {
    let tree = Tree::new(With::Both);
    after_an_outage(&tree);
    let held_up = tree.primary.hold_up("merge");
    held_up.entered.recv().expect("it catches up");

    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| tree.delete("b"));
        tree.primary.come_back();
        drop(held_up);
        assert_eq!(deleting.join().expect("deleted"), Deleted::Deleted);
    });

    tree.wait_until_caught_up();
    assert_eq!(tree.primary.ids(), ["a", "c"]);
    assert!(tree.get("b").is_none());
}

#[test]
fn what_the_primary_refuses_stays_and_keeps_nothing_else_from_moving() {
    let tree = Tree::new(With::Fallback);
    after_an_outage(&tree);
    *lock(&tree.primary.refuses) = Some("a".to_owned());

    tree.primary.come_back();

    eventually("the rest to be moved", || tree.fallback.ids() == ["a"]);
    eventually("health to tell", || tree.composite.health().details.contains_key("refused_by_primary"));
    assert_eq!(tree.status("a"), Some(Status::Completed), "reads still find it");
}

/// Nothing else moved, so it was taken for an outage: tried ten times a second, each time turning health red.
#[test]
fn what_alone_is_left_in_the_fallback_is_told_and_is_no_outage() {
    let tree = Tree::new(With::Fallback);
    tree.primary.go_away();
    assert_eq!(tree.merge("a", &event(2, Status::Completed)).outcome, Outcome::Accepted);
    *lock(&tree.primary.fails_for) = Some((vec!["a"], Error::unavailable("it is too much")));
    tree.primary.come_back();

    let told = || tree.composite.health().details.get("refused_by_primary").is_some_and(|told| *told == 1);
    eventually("health to tell", told);

    assert_eq!((tree.state().as_str(), tree.fallback.ids()), ("catching_up", vec!["a".to_owned()]));
    assert_eq!(tree.merge("b", &event(2, Status::Completed)).outcome, Outcome::Created);
}

#[test]
fn what_the_primary_does_not_keep_as_promised_stays() {
    let tree = Tree::new(With::Fallback);
    after_an_outage(&tree);
    tree.primary.is_weak.store(true, SeqCst);
    let before = tree.primary.merges.load(SeqCst);

    tree.primary.come_back();

    eventually("a try", || tree.primary.merges.load(SeqCst) > before);
    assert_eq!(tree.composite.close(&call()), Ok(()));
    assert_eq!(tree.fallback.ids(), ["a", "b", "c"]);
}

#[test]
fn another_instance_goes_on_where_one_was_cut_off() {
    let tree = Tree::new(With::Both);
    after_an_outage(&tree);
    // Merged, and the process ends before anything is deleted.
    tree.fallback.before(|call| if call == "delete" { Err(Error::unavailable("killed")) } else { Ok(()) });
    tree.primary.come_back();
    let mut joined = event(1, Status::Queued);
    joined.merge(&event(2, Status::Completed));
    eventually("the merge", || tree.primary.json("a") == Some(joined.to_canonical_json()));
    tree.composite.close(&call()).expect("it stops");
    assert_eq!(tree.fallback.ids().len(), 3);
    tree.fallback.come_back();

    let next = tree.another();

    eventually("the fallback to be empty", || tree.fallback.ids().is_empty());
    next.close(&call()).expect("it stops");
    assert_eq!(tree.primary.ids(), ["a", "b", "c"]);
}

#[test]
fn a_primary_that_flaps_gets_everything_in_the_end() {
    let tree = Tree::of(
        With::Both,
        Options { catch_up_batch: 3, ..Options::default() },
        storage_plugin_api::Durability::Durable,
    );
    let calls = std::sync::atomic::AtomicU64::new(0);
    tree.primary.before(move |_| match calls.fetch_add(1, SeqCst) % 3 {
        0 => Ok(()),
        _ => Err(Error::unavailable("it flaps").with_retry_after(Duration::from_millis(1))),
    });
    let mut expected = Vec::new();
    for number in 0..60_i64 {
        let id = format!("e-{:02}", number % 20);
        let answer = tree.merge(&id, &event(number, Status::Queued));
        assert!(!matches!(answer.outcome, Outcome::Rejected(_)), "{answer:?}");
        // An error says nothing; what is answered is not older than what was confirmed.
        if let Ok(found) = tree.try_get(&id) {
            let open = found.expect("confirmed").state.get("open").map(|open| open.stamp.time);
            assert!(open >= Some(number), "{id} is at {open:?}, and {number} was confirmed");
        }
        expected.push(id);
    }
    tree.primary.come_back();

    tree.wait_until_caught_up();

    expected.sort();
    expected.dedup();
    assert_eq!(tree.primary.ids(), expected);
    assert_eq!(tree.fallback.ids(), [""; 0]);
}
