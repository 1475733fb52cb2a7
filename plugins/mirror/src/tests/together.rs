//! `ack = "all"`: nothing is answered as stored before every child has it.

use std::sync::{Arc, Barrier};

use storage_plugin_api::{Backend, Delete, Deleted, Error, ErrorKind, Outcome, Prune, Status, with_items};

use super::{Durability, Tree, call, event};
use crate::lock;

#[test]
fn the_outcome_is_the_primarys_and_the_durability_that_of_the_weakest() {
    let tree = Tree::together(&[Durability::Durable, Durability::Volatile]);
    tree.merge("a", &event(1, Status::Queued));
    lock(&tree.shadow().states).clear();

    let answer = tree.merge("a", &event(1, Status::Queued));

    assert_eq!((answer.outcome, answer.durability), (Outcome::Unchanged, Durability::Volatile));
    assert_eq!(answer.taken_by, None, "all of them took it");
    assert_eq!(tree.shadow().json(), tree.primary.json());
    let durable = Tree::together(&[Durability::Durable]).merge("a", &event(1, Status::Queued));
    assert_eq!(durable.durability, Durability::Durable);
}

#[test]
fn a_shadow_that_is_away_makes_items_unavailable_and_trying_again_is_all_it_takes() {
    let tree = Tree::together(&[Durability::Durable, Durability::Durable]);
    tree.shadow().go_away();
    tree.primary.fails("bad", ErrorKind::InvalidItem);
    let (a, bad) = (event(1, Status::Queued), event(2, Status::Queued));
    let both = [("a", &a), ("bad", &bad)];
    let merge = || with_items(&both, |items| tree.mirror.merge(&call(), items)).expect("merged");

    let answers = merge();

    let kinds: Vec<ErrorKind> = answers
        .iter()
        .map(|answer| match &answer.outcome {
            Outcome::Rejected(error) => error.kind,
            taken => panic!("{taken:?}"),
        })
        .collect();
    assert_eq!(kinds, [ErrorKind::Unavailable, ErrorKind::InvalidItem]);
    let health = tree.mirror.health();
    assert!(!health.healthy && health.reason.contains("the cable is cut"), "{}", health.reason);

    tree.shadow().come_back();
    assert_eq!(merge()[0].outcome, Outcome::Unchanged);
    for shadow in &tree.shadows {
        assert_eq!(shadow.json(), tree.primary.json());
    }
}

#[test]
fn what_a_shadow_refuses_is_refused_and_names_it() {
    let tree = Tree::together(&[Durability::Durable]);
    tree.shadow().fails("a", ErrorKind::InvalidItem);

    match tree.merge("a", &event(1, Status::Queued)).outcome {
        Outcome::Rejected(error) => {
            assert_eq!(error.kind, ErrorKind::InvalidItem);
            assert!(error.message.starts_with("the shadow `shadow-"), "{error}");
        }
        taken => panic!("{taken:?}"),
    }
}

#[test]
fn shadows_are_asked_at_once() {
    let tree = Tree::together(&[Durability::Durable; 3]);
    let barrier = Arc::new(Barrier::new(3));
    for shadow in &tree.shadows {
        let barrier = Arc::clone(&barrier);
        // Hangs for ever unless all three are inside.
        shadow.before(move |call| {
            if call == "merge" {
                barrier.wait();
            }
            Ok(())
        });
    }

    assert_eq!(tree.merge("a", &event(1, Status::Queued)).outcome, Outcome::Created);
}

/// Cut short it leaves the evaluation in the primary, where it is seen, and deleted again.
#[test]
fn a_delete_comes_to_the_primary_last() {
    let tree = Tree::together(&[Durability::Durable, Durability::Durable]);
    tree.merge("a", &event(1, Status::Queued));
    tree.primary.before(|call| if call == "delete" { Err(Error::unavailable("killed")) } else { Ok(()) });

    assert!(tree.mirror.delete(&call(), &[Delete { id: "a", digest: None }]).is_err());

    assert_eq!((lock(&tree.shadow().states).len(), lock(&tree.primary.states).len()), (0, 1));
    tree.primary.come_back();
    tree.shadows[1].go_away();
    assert!(matches!(tree.delete("a"), Deleted::Failed(_)));
    assert_eq!(lock(&tree.primary.states).len(), 1, "not before every shadow has lost it");
    tree.shadows[1].come_back();
    assert_eq!(tree.delete("a"), Deleted::Deleted);
    assert_eq!(tree.delete("a"), Deleted::Absent);
}

#[test]
fn a_delete_by_digest_is_the_primarys_to_decide() {
    let tree = Tree::together(&[Durability::Durable]);
    let (old, new) = (event(1, Status::Queued), event(2, Status::Completed));
    tree.merge("a", &old);
    tree.merge("a", &new);
    // The shadow has only a part.
    lock(&tree.shadow().states).insert("a".to_owned(), old.clone());
    let delete =
        |digest| tree.mirror.delete(&call(), &[Delete { id: "a", digest: Some(&digest) }]).expect("asked").remove(0);

    assert_eq!(delete(old.digest()), Deleted::Differs);
    assert_eq!(lock(&tree.shadow().states).len(), 1);

    let whole = lock(&tree.primary.states)["a"].digest();
    assert_eq!(delete(whole), Deleted::Deleted);
    assert!(lock(&tree.shadow().states).is_empty());
    lock(&tree.shadow().states).insert("a".to_owned(), old.clone());
    assert_eq!(delete(old.digest()), Deleted::Deleted, "a shadow had it by that digest");
}

#[test]
fn prune_and_flush_come_to_all() {
    let tree = Tree::together(&[Durability::Durable, Durability::Durable]);
    tree.merge("a", &event(1, Status::Completed));
    let prune = |dry_run| tree.mirror.prune(&call(), &Prune { ended_before: 9, limit: 9, dry_run }).expect("pruned");
    tree.shadows[1].go_away();
    assert!(tree.mirror.prune(&call(), &Prune { ended_before: 9, limit: 9, dry_run: false }).is_err());
    assert_eq!(lock(&tree.primary.states).len(), 1);
    assert!(tree.mirror.flush(&call()).is_err());
    tree.shadows[1].come_back();

    assert_eq!(prune(false).removed, 1);
    tree.mirror.flush(&call()).expect("flushed");
    for store in tree.shadows.iter().chain([&tree.primary]) {
        assert!(lock(&store.states).is_empty());
        assert!(lock(&store.calls).contains(&"flush".to_owned()));
    }
}
