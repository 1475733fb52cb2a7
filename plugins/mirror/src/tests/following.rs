//! `ack = "primary"`: shadows follow by themselves.

use std::collections::BTreeSet;

use storage_plugin_api::{Backend, Call, Deleted, ErrorKind, Outcome, Prune, Status};

use super::store::Store;
use super::{Durability, Duration, Options, Tree, call, event, eventually, merge};
use crate::lock;
use crate::queue::{Queue, Work};
use crate::shadow::{Shadow, Standing};

/// So small that only one change waits beside the one in hand.
fn small() -> Options {
    Options { queue_changes: 2, ..Options::default() }
}

#[test]
fn what_the_primary_takes_comes_to_every_shadow_and_what_it_refuses_to_none() {
    let tree = Tree::new(Options::default(), &[Durability::Durable, Durability::Volatile]);
    tree.primary.fails("bad", ErrorKind::InvalidItem);

    let answer = tree.merge("a", &event(1, Status::Queued));
    assert!(matches!(tree.merge("bad", &event(2, Status::Queued)).outcome, Outcome::Rejected(_)));
    tree.merge("a", &event(3, Status::Completed));

    assert_eq!((&answer.outcome, answer.durability), (&Outcome::Created, Durability::Durable));
    tree.wait_until_alike();
    eventually("the other shadow", || tree.shadows[1].json() == tree.primary.json());
    assert_eq!(lock(&tree.primary.states).len(), 1);
    assert_eq!(tree.state(), "mirrored");
}

#[test]
fn a_shadow_that_hangs_or_is_away_keeps_nobody_waiting_and_catches_up() {
    let tree = Tree::following();
    let held_up = tree.shadow().hold_up("merge");
    tree.merge("a", &event(1, Status::Queued));
    held_up.entered.recv().expect("it follows");
    for number in 0..100 {
        assert_eq!(tree.merge(&format!("e-{number}"), &event(2, Status::Queued)).outcome, Outcome::Created);
    }
    assert_eq!(tree.detail("queued"), 101);

    tree.shadow().go_away();
    drop(held_up);
    eventually("health to tell", || tree.detail("last_error") == "the cable is cut");
    tree.merge("a", &event(3, Status::Running));
    let health = tree.mirror.health();
    assert!(health.healthy, "it goes on without its shadow");
    assert!(health.reason.contains("behind (the cable is cut)"), "{}", health.reason);
    assert_eq!(tree.state(), "behind");

    tree.shadow().come_back();
    tree.wait_until_alike();
    eventually("all is well", || tree.state() == "mirrored");
    assert_eq!((tree.detail("queued"), tree.detail("queued_bytes")), (0.into(), 0.into()));
}

#[test]
fn what_does_not_fit_is_read_from_the_primary_later() {
    let tree = Tree::new(small(), &[Durability::Durable]);
    tree.shadow().go_away();
    for time in 0..20 {
        tree.merge(&format!("e-{}", time % 5), &event(time, Status::Queued));
    }
    assert_eq!((tree.detail("queued"), tree.detail("owed")), (2.into(), 5.into()));
    assert_eq!(tree.detail("overflowed"), 18);

    tree.shadow().come_back();

    tree.wait_until_alike();
    eventually("nothing to be owed", || tree.state() == "mirrored");
    assert_eq!(tree.detail("lost"), 0);
}

#[test]
fn what_is_beyond_all_bounds_is_told() {
    let tree = Tree::new(Options { owed_evaluations: 3, ..small() }, &[Durability::Durable]);
    tree.shadow().go_away();
    for number in 0..10 {
        tree.merge(&format!("e-{number}"), &event(1, Status::Queued));
    }

    tree.shadow().come_back();

    eventually("the rest", || lock(&tree.shadow().states).len() == 5);
    assert_eq!((tree.state().as_str(), tree.detail("lost")), ("diverged", 5.into()));
    let reason = tree.mirror.health().reason;
    assert!(reason.contains("5 changes are lost to it") && reason.contains("diff --repair"), "{reason}");
}

/// In the queue, owed, and both: the merge that waits must not bring back what was deleted.
#[test]
fn a_delete_is_not_undone_by_what_waits() {
    for options in [Options::default(), Options { queue_changes: 1, ..Options::default() }, small()] {
        let tree = Tree::new(options, &[Durability::Durable]);
        tree.merge("a", &event(1, Status::Queued));
        tree.wait_until_alike();
        tree.shadow().go_away();
        tree.merge("a", &event(2, Status::Running));
        tree.merge("b", &event(2, Status::Running));
        assert_eq!(tree.delete("a"), Deleted::Deleted);
        tree.merge("c", &event(3, Status::Running));

        tree.shadow().come_back();

        tree.wait_until_alike();
        assert_eq!(lock(&tree.shadow().states).keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}

/// How long its error asked to wait held up the whole shadow, again with each attempt.
#[test]
fn what_was_set_aside_is_waited_for_by_nobody() {
    let tree = Tree::following();
    tree.shadow().fails("a", ErrorKind::Unavailable);
    tree.merge("a", &event(1, Status::Queued));
    eventually("it to be set aside", || tree.detail("failing") == 1);

    let took = (0..4).map(|number| {
        let (id, started) = (format!("later-{number}"), std::time::Instant::now());
        tree.merge(&id, &event(2, Status::Queued));
        eventually("what comes later", || lock(&tree.shadow().states).contains_key(&id));
        std::thread::sleep(Duration::from_millis(100));
        started.elapsed()
    });
    // One of four: a busy machine may hold up some, the error would hold up each.
    let fastest = took.min().expect("there are four");
    assert!(fastest < Duration::from_secs(3), "{fastest:?}");
}

/// As long as anything new was owed it was never its turn.
#[test]
fn what_was_set_aside_has_its_turn_while_others_are_owed() {
    let queue = Queue::new(&Options::default());
    let ids = |ids: &[&str]| ids.iter().map(|id| Box::from(*id)).collect::<BTreeSet<Box<str>>>();
    queue.owe(ids(&["a"]));
    let Some(Work::Owed(first)) = queue.next(1) else { panic!("it is owed") };
    queue.settled(None, first);
    queue.owe(ids(&["b", "c", "d"]));
    // What was set aside is due at once then.
    queue.end(std::time::Instant::now() + Duration::from_secs(60));

    let Some(Work::Aside(second)) = queue.next(1) else { panic!("it is due") };
    queue.settled(Some(Work::Aside(second)), Vec::new());
    let third = queue.next(1);

    assert!(matches!(third, Some(Work::Owed(_))), "nor does it hold up the others: {third:?}");
}

/// A reload away from a shadow that hangs was followed by nothing, and all seemed well.
#[test]
fn a_shadow_whose_turn_does_not_come_is_told() {
    let store = Store::new("waited for", Durability::Durable);
    let shadow = Shadow::new(store.child(crate::role::SHADOW), &Options::default());

    shadow.waits(true);

    assert_eq!(shadow.standing(), Standing::Behind);
    let trouble = shadow.trouble().expect("it is told");
    assert!(trouble.contains("has not come back from a call"), "{trouble}");
    shadow.waits(false);
    assert_eq!((shadow.standing(), shadow.trouble()), (Standing::Mirrored, None));
}

/// Another worker merges into both while this one deletes.
#[test]
fn what_came_back_while_it_was_deleted_is_kept() {
    let tree = Tree::following();
    tree.merge("a", &event(1, Status::Queued));
    tree.wait_until_alike();
    let held_up = tree.shadow().hold_up("delete");
    tree.delete("a");
    held_up.entered.recv().expect("it follows");
    for store in [&tree.primary, tree.shadow()] {
        lock(&store.states).insert("a".to_owned(), event(5, Status::Completed));
    }

    tree.shadow().come_back();
    drop(held_up);

    assert!(tree.mirror.flush(&call()).is_ok());
    eventually("it to be back", || lock(&tree.shadow().states).contains_key("a"));
    tree.wait_until_alike();
}

#[test]
fn what_a_shadow_refuses_is_named_and_keeps_nothing_else_back() {
    for kind in [ErrorKind::InvalidItem, ErrorKind::Internal] {
        let tree = Tree::following();
        tree.shadow().fails("b", kind);
        let held_up = tree.shadow().hold_up("merge");

        for id in ["a", "b", "c"] {
            tree.merge(id, &event(1, Status::Queued));
        }
        tree.shadow().come_back();
        drop(held_up);

        eventually("the others", || lock(&tree.shadow().states).keys().eq(["a", "c"]));
        eventually("health to tell", || tree.detail("refused") == 1);
        assert_eq!((tree.state().as_str(), &tree.detail("refused_ids")[0]), ("diverged", &"b".into()));
    }
}

/// It used to be first again and again, and what came behind it was never tried.
#[test]
fn what_alone_fails_for_now_keeps_nothing_else_back() {
    // In the queue, and owed: more than are settled in one call. The item alone fails, or the call with it.
    for (options, kind) in [
        (Options::default(), ErrorKind::Unavailable),
        (Options::default(), ErrorKind::Overloaded),
        (small(), ErrorKind::Unavailable),
        (small(), ErrorKind::Overloaded),
    ] {
        let tree = Tree::new(options, &[Durability::Durable]);
        tree.shadow().fails("a", kind);
        tree.shadow().go_away();
        tree.merge("a", &event(1, Status::Queued));
        for number in 0..600 {
            tree.merge(&format!("e-{number}"), &event(1, Status::Queued));
        }

        tree.shadow().come_back();

        eventually("all the others", || lock(&tree.shadow().states).len() == 600);
        eventually("only one to be left", || [tree.detail("owed"), tree.detail("failing")] == [1, 1]);
        let reason = tree.mirror.health().reason;
        assert!(tree.state() == "behind" && reason.contains("does not take 1 evaluations now, but others"), "{reason}");
        tree.merge("later", &event(2, Status::Queued));
        eventually("what comes later", || lock(&tree.shadow().states).contains_key("later"));
        tree.shadow().fails("", kind);
        tree.wait_until_alike();
        eventually("all is well", || tree.state() == "mirrored");
    }
}

#[test]
fn a_prune_comes_behind_what_was_merged_before_it() {
    let tree = Tree::following();
    tree.shadow().go_away();
    tree.merge("a", &event(1, Status::Completed));

    let pruned = tree.mirror.prune(&call(), &Prune { ended_before: 10, limit: 100, dry_run: false }).expect("pruned");
    tree.merge("b", &event(2, Status::Queued));
    tree.shadow().come_back();

    assert_eq!(pruned.removed, 1);
    eventually("the shadow", || lock(&tree.shadow().states).keys().eq(["b"]));
}

#[test]
fn flush_waits_for_shadows_and_gives_up_in_time() {
    let tree = Tree::following();
    let held_up = tree.shadow().hold_up("merge");
    tree.merge("a", &event(1, Status::Queued));
    held_up.entered.recv().expect("it follows");

    assert_eq!(tree.mirror.flush(&Call::with_budget(Duration::from_millis(50))), Ok(()), "the primary has it");
    assert!(lock(&tree.shadow().calls).is_empty());

    tree.shadow().come_back();
    drop(held_up);
    tree.mirror.flush(&call()).expect("flushed");
    assert_eq!(lock(&tree.shadow().calls)[..], ["merge", "flush"]);
}

#[test]
fn the_next_instance_takes_over_what_the_one_before_owes() {
    let tree = Tree::following();
    tree.shadow().go_away();
    tree.merge("a", &event(1, Status::Queued));
    tree.merge("b", &event(1, Status::Queued));
    let next = tree.another();
    merge(&next, "b", &event(2, Status::Completed));

    let closed = tree.mirror.close(&Call::with_budget(Duration::from_millis(100)));

    assert_eq!(closed, Ok(()), "a shadow does not make it fail");
    assert!(lock(&tree.shadow().states).is_empty());
    tree.shadow().come_back();
    tree.wait_until_alike();
    next.close(&call()).expect("it ends");
}

/// A reload used to make a mirror say that all is well.
#[test]
fn the_next_instance_knows_that_the_shadow_differs() {
    let tree = Tree::following();
    tree.shadow().fails("bad", ErrorKind::InvalidItem);
    tree.merge("bad", &event(1, Status::Queued));
    eventually("it to be refused", || tree.state() == "diverged");
    tree.shadow().go_away();
    tree.mirror.prune(&call(), &Prune { ended_before: 10, limit: 100, dry_run: false }).expect("pruned");
    let next = tree.another();

    tree.mirror.close(&Call::with_budget(Duration::from_millis(100))).expect("it ends");

    let of_next = || next.health().details;
    eventually("the next one to know", || of_next()["state"] == "diverged");
    let shadow = &of_next()["shadows"][tree.shadow().child("").name];
    assert_eq!([&shadow["refused"], &shadow["lost"]], [1, 1], "the prune is lost: {shadow}");
    assert_eq!(shadow["refused_ids"][0], "bad");
}

#[test]
fn two_instances_do_not_follow_at_once() {
    let tree = Tree::following();
    let held_up = tree.shadow().hold_up("merge");
    tree.merge("a", &event(1, Status::Queued));
    held_up.entered.recv().expect("it follows");
    let next = tree.another();
    // Of the next instance, that finds the primary without it and must not be overtaken by the merge that waits.
    next.delete(&call(), &[storage_plugin_api::Delete { id: "a", digest: None }]).expect("deleted");

    tree.shadow().come_back();
    drop(held_up);
    tree.mirror.close(&call()).expect("it ends");

    next.flush(&call()).expect("flushed");
    assert!(lock(&tree.shadow().states).is_empty());
}
