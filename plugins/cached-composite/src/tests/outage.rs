//! The primary is unavailable: what is answered, and what is read meanwhile.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use storage_plugin_api::{Backend, Call, Durability, Error, ErrorKind, Fields, Outcome, Prune, Status, with_items};

use super::{Tree, With, call, event};
use crate::{Options, lock};

#[test]
fn merges_are_accepted_by_the_fallback_and_read_from_it() {
    let tree = Tree::new(With::Both);
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");
    tree.primary.go_away();

    let answer = tree.merge("a", &event(2, Status::Completed));

    assert_eq!(answer.outcome, Outcome::Accepted);
    assert_eq!((answer.status, answer.durability), (None, Durability::Durable));
    assert!(answer.taken_by.is_some_and(|name| name.starts_with("fallback")));
    let found = tree.get("a").expect("seen");
    assert!(found.incomplete);
    assert_eq!(found.state.get("code").map(|code| code.stamp.time), Some(1), "the cache has its part");
    assert_eq!(tree.status("a"), Some(Status::Completed));
    assert_eq!(tree.state(), "fallback");
    assert_eq!(tree.composite.health().details["fallback_held"], 1);
}

#[test]
fn what_nobody_can_see_is_not_called_absent() {
    let tree = Tree::new(With::Both);
    tree.merge("a", &event(1, Status::Queued));
    tree.primary.go_away();

    let error = tree.try_get("a").expect_err("only the primary has it");

    assert_eq!(error.kind, ErrorKind::Unavailable);
}

#[test]
fn the_primary_gets_at_most_half_of_the_time() {
    let tree = Tree::new(With::Fallback);

    let call = Call::with_budget(Duration::from_secs(8));
    with_items(&[("a", &event(1, Status::Queued))], |items| tree.composite.merge(&call, items)).expect("merged");

    assert!(tree.primary.budget_ms.load(SeqCst) <= 4000);
}

#[test]
fn other_errors_do_not_switch_over() {
    let tree = Tree::new(With::Fallback);
    for error in [Error::overloaded("busy"), Error::internal("bug"), Error::configuration("wrong")] {
        let kind = error.kind;
        tree.primary.before(move |_| Err(error.clone()));

        let failed = with_items(&[("a", &event(1, Status::Queued))], |items| tree.composite.merge(&call(), items));

        assert_eq!(failed.expect_err("not taken").kind, kind);
    }
    assert_eq!(tree.fallback.ids(), [""; 0]);
}

#[test]
fn what_the_fallback_does_not_take_either_waits_and_is_no_dead_letter() {
    let tree = Tree::new(With::Fallback);
    tree.primary.go_away();
    *lock(&tree.fallback.refuses) = Some("a".to_owned());

    let answer = tree.merge("a", &event(1, Status::Queued));

    let Outcome::Rejected(error) = answer.outcome else { panic!("taken by nobody") };
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("the cable is cut; and the fallback"), "{error}");
}

#[test]
fn what_moves_to_a_volatile_primary_is_not_called_durable() {
    let tree = Tree::of(With::Fallback, Options::default(), Durability::Volatile);
    tree.primary.go_away();

    assert_eq!(tree.merge("a", &event(1, Status::Queued)).durability, Durability::Volatile);
}

#[test]
fn without_a_fallback_an_outage_is_an_outage() {
    let tree = Tree::new(With::Cache);
    tree.merge("a", &event(1, Status::Queued));
    tree.get("a");
    tree.primary.go_away();

    let Outcome::Rejected(error) = tree.merge("b", &event(1, Status::Queued)).outcome else { panic!("taken") };

    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(tree.status("a"), Some(Status::Queued), "the cache has it");
}

#[test]
fn a_fallback_that_cannot_be_read_lets_no_read_be_too_old() {
    let tree = Tree::new(With::Both);
    tree.merge("a", &event(1, Status::Queued));
    tree.primary.go_away();
    tree.merge("a", &event(2, Status::Completed));
    tree.fallback.go_away();
    tree.primary.come_back();

    let error = tree.composite.get(&call(), &["a"], Fields::Whole).expect_err("a part is missing");

    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("the fallback"), "{error}");
}

#[test]
fn nothing_is_pruned_while_a_part_may_come_back() {
    let tree = Tree::new(With::Fallback);
    tree.primary.go_away();
    tree.merge("a", &event(2, Status::Completed));

    let prune = Prune { ended_before: 100, limit: 10, dry_run: false };

    assert_eq!(tree.composite.prune(&call(), &prune).expect_err("later").kind, ErrorKind::Unavailable);
}

/// The fallback had an old part of it, the primary a newer one.
#[test]
fn what_the_primary_took_meanwhile_is_not_passed_over_when_it_goes_away_again() {
    let tree = Tree::new(With::Fallback);
    tree.primary.go_away();
    tree.merge("a", &event(1, Status::Queued));
    let from_fallback = tree.try_get("a").expect("seen").expect("accepted");
    // It takes merges, and the fallback cannot be merged back.
    tree.fallback.before(|call| if call == "list" { Err(Error::unavailable("slow")) } else { Ok(()) });
    tree.primary.come_back();
    tree.merge("a", &event(2, Status::Completed));
    tree.primary.go_away();

    let error = tree.try_get("a").expect_err("only a part can be seen, and an old one");

    assert!(from_fallback.incomplete);
    assert_eq!(error.kind, ErrorKind::Unavailable);
}
