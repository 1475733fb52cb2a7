//! Large bodies go to the blobs and come back.

use std::sync::Arc;

use storage_plugin_api::{
    Backend, Body, Child, Delete, Deleted, Durability, Error, ErrorKind, Fields, Outcome, Query, Reference, State,
    Value, with_items,
};

use super::store::{Store, lock};
use super::{Tree, call, completed, large, open};
use crate::{Tiered, role};

#[test]
fn a_large_body_is_a_blob_and_a_small_one_stays() {
    let tree = Tree::new();
    let state = completed(1, &large("a"));

    tree.merge("large", &state);
    tree.merge("small", &completed(1, "some text"));

    let stored = tree.primary.stored("large");
    let body = stored.get("completed/output").and_then(|register| register.value.as_body()).expect("a body");
    let reference = body.as_reference().expect("a reference");
    let key = tree.blobs.only_key();
    assert_eq!(reference.location.as_deref(), Some(&*format!("tiered:blobs/{key}")));
    assert_eq!((reference.characters, reference.lines, &*reference.preview), (200, 100, "a\na\na\na\na\n"));
    assert!(lock(&tree.blobs.blobs)[&key].0.len() < 50, "it is compressed");
    let found = tree.get("large");
    assert_eq!(found.state.to_canonical_json(), state.to_canonical_json());
    assert!(!found.incomplete);
    assert_eq!(tree.get("small").state.to_canonical_json(), completed(1, "some text").to_canonical_json());
}

#[test]
fn lists_show_what_was_merged() {
    let tree = Tree::new();
    let states: Vec<State> = (0..5).map(|time| completed(time, &large(&time.to_string()))).collect();
    for (number, state) in states.iter().enumerate() {
        tree.merge(&number.to_string(), state);
    }

    for (fields, shown) in [
        (Fields::Whole, (|state| state.to_canonical_json()) as fn(&State) -> String),
        (Fields::WithoutBodies, |state| state.without_bodies().to_canonical_json()),
    ] {
        let page = tree.tiered.list(&call(), &Query { fields, limit: 10, ..Query::default() }).expect("listed");
        let listed: Vec<String> = page.entries.iter().map(|(_, found)| found.state.to_canonical_json()).collect();
        assert_eq!(listed, states.iter().map(shown).collect::<Vec<_>>());
    }
}

/// A register that is merged as text and as a reference is one register.
#[test]
fn text_and_reference_are_one_body_in_any_order() {
    let state = completed(1, &large("a"));
    let with = |location: Option<&str>| {
        let mut with_reference = state.clone();
        with_reference.map_bodies(|_, body| {
            let reference = body.without_text().as_reference().expect("a reference").clone();
            let location = location.map(str::to_owned);
            Some(Body::reference(Reference { location, preview: "a".to_owned(), ..reference }))
        });
        with_reference
    };
    for other in [with(None), with(Some("a-place-before-all-others")), with(Some("~behind"))] {
        for order in [[&state, &other], [&other, &state]] {
            let tree = Tree::new();

            order.into_iter().for_each(|part| drop(tree.merge("a", part)));

            assert_eq!(tree.get("a").state.to_canonical_json(), state.to_canonical_json());
        }
    }
}

#[test]
fn evaluations_share_the_blob_of_one_body() {
    let tree = Tree::new();
    for id in ["a", "b"] {
        tree.merge(id, &completed(1, &large("same")));
    }

    tree.blobs.only_key();
    tree.tiered.delete(&call(), &[Delete { id: "a", digest: None }]).expect("deleted");

    assert!(!tree.get("b").incomplete);
}

#[test]
fn a_blob_is_there_before_a_state_refers_to_it() {
    let tree = Tree::new();
    let blobs = Arc::clone(&tree.blobs);
    tree.primary.before(move |name| match name {
        "merge" if blobs.keys().is_empty() => Err(Error::internal("the blob is not there yet")),
        _ => Ok(()),
    });

    assert_eq!(tree.merge("a", &completed(1, &large("a"))).outcome, Outcome::Created);
}

#[test]
fn without_the_blobs_only_large_bodies_wait() {
    let tree = Tree::new();
    tree.blobs.go_away();
    let (small, large) = (completed(2, "small"), completed(1, &large("a")));

    let answers = tree.merge_all(&[("a", &small), ("b", &large), ("c", &small), ("b", &small)]);

    let Outcome::Rejected(error) = &answers[1].outcome else { panic!("taken: {answers:?}") };
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(error.message, "cannot store `completed/output` in `blobs`: the cable is cut");
    for place in [0, 2, 3] {
        assert_eq!(answers[place].outcome, Outcome::Created, "item {place}");
    }
    assert!(!tree.tiered.health().healthy);
    tree.blobs.come_back();
    assert_eq!(tree.merge("b", &large).outcome, Outcome::Updated);
}

#[test]
fn what_refers_to_a_blob_is_as_lasting_as_the_weaker_child() {
    use Durability::{Durable, Volatile};
    for (primary, blobs, whole, small) in [
        (Durable, Durable, Durable, Durable),
        (Durable, Volatile, Volatile, Durable),
        (Volatile, Durable, Volatile, Volatile),
    ] {
        let tree = Tree::of(primary, blobs);

        let answers = tree.merge_all(&[("a", &completed(1, &large("a"))), ("b", &completed(1, "small"))]);

        assert_eq!((answers[0].durability, answers[1].durability), (whole, small), "{primary:?} over {blobs:?}");
    }
}

#[test]
fn a_blob_that_is_missing_or_damaged_leaves_the_reference() {
    let tree = Tree::new();
    for id in ["damaged", "missing", "well"] {
        tree.merge(id, &completed(1, &large(id)));
        let key = tree.blobs.keys().into_iter().find(|key| tree.primary.stored(id).to_canonical_json().contains(key));
        let mut blobs = lock(&tree.blobs.blobs);
        match (id, key.expect("its blob")) {
            ("damaged", key) => blobs.get_mut(&key).expect("there").0[20] ^= 1,
            ("missing", key) => drop(blobs.remove(&key)),
            _ => {}
        }
    }

    let found = tree.tiered.get(&call(), &["damaged", "missing", "well", "none"], Fields::Whole).expect("read");

    assert_eq!(
        found.iter().map(|found| found.as_ref().map(|found| found.incomplete)).collect::<Vec<_>>(),
        [Some(true), Some(true), Some(false), None]
    );
    let left = &found[1].as_ref().expect("found").state;
    let body = left.get("completed/output").and_then(|register| register.value.as_body()).expect("a body");
    assert_eq!(body.as_reference().expect("a reference").preview, "missing\nmi");
}

/// A reload that gave another place for blobs another name made previews of what was whole, and said nothing of it.
#[test]
fn bodies_whose_blobs_had_another_name_are_found_by_what_they_are_or_told_to_be_missing() {
    let (primary, old, new) = (store(), store(), store());
    let named = |blobs: &Arc<Store>, name: &str| Child { name: name.to_owned(), ..blobs.child(role::BLOBS) };
    let over = |blobs: Child| open(primary.child(role::PRIMARY), blobs, 100);
    let get = |tiered: &Tiered| tiered.get(&call(), &["a"], Fields::Whole).expect("read").remove(0).expect("stored");
    let state = completed(1, &large("a"));
    let before = over(named(&old, "the old place"));
    with_items(&[("a", &state)], |items| before.merge(&call(), items)).expect("merged");

    // The one before is open for a while after a reload.
    let after = over(named(&new, "the new place"));
    let missing = get(&after);
    lock(&new.blobs).clone_from(&lock(&old.blobs));
    let moved = get(&after);

    assert!(missing.incomplete);
    assert!(!moved.incomplete);
    assert_eq!(moved.state.to_canonical_json(), state.to_canonical_json());
}

/// What the one above refers to passes through the one below, which cannot know it.
#[test]
fn one_such_layer_above_another_leaves_nothing_out() {
    let (primary, near, far) = (store(), store(), store());
    let below: Arc<dyn Backend> =
        Arc::new(open(primary.child(role::PRIMARY), Child { name: "near".to_owned(), ..near.child(role::BLOBS) }, 50));
    let above = open(
        Child { name: "below".to_owned(), backend: Arc::clone(&below), ..primary.child(role::PRIMARY) },
        Child { name: "far".to_owned(), ..far.child(role::BLOBS) },
        100,
    );
    let states = [completed(1, &large("a")), completed(1, &"middle ".repeat(10))];

    for (id, state) in ["a", "b"].iter().zip(&states) {
        with_items(&[(id, state)], |items| above.merge(&call(), items)).expect("merged");
    }
    let found = above.get(&call(), &["a", "b"], Fields::Whole).expect("read");

    assert_eq!((near.keys().len(), far.keys().len()), (1, 1));
    for (found, state) in found.into_iter().zip(&states) {
        let found = found.expect("stored");
        assert!(!found.incomplete);
        assert_eq!(found.state.to_canonical_json(), state.to_canonical_json());
    }
}

fn store() -> Arc<Store> {
    Store::new(Durability::Durable)
}

#[test]
fn blobs_that_are_away_leave_a_part() {
    let tree = Tree::new();
    tree.merge("a", &completed(1, &large("a")));
    tree.blobs.go_away();

    assert!(tree.get("a").incomplete);
    let part = tree.tiered.get(&call(), &["a"], Fields::WithoutBodies).expect("read").remove(0).expect("stored");
    assert!(!part.incomplete, "no blob is needed");
}

/// Who merges it back deletes by the digest of what it read.
#[test]
fn a_state_is_deleted_by_the_digest_that_is_seen() {
    let tree = Tree::new();
    let (old, new) = (completed(2, &large("a")), completed(1, &large("b")));
    tree.merge("a", &old);
    tree.merge("a", &new);
    tree.merge("small", &completed(1, "small"));
    let seen = tree.get("a").state.digest();
    let small = tree.get("small").state.digest();
    let items = [
        Delete { id: "a", digest: Some(&old.digest()) },
        Delete { id: "none", digest: Some(&seen) },
        Delete { id: "a", digest: Some(&seen) },
        Delete { id: "small", digest: Some(&seen) },
        Delete { id: "small", digest: Some(&small) },
        Delete { id: "small", digest: None },
    ];

    tree.blobs.go_away();
    let failed = tree.tiered.delete(&call(), &items[..1]).expect("answered");
    assert!(matches!(&failed[0], Deleted::Failed(error) if error.kind == ErrorKind::Unavailable), "{failed:?}");
    tree.blobs.come_back();

    let deleted = tree.tiered.delete(&call(), &items).expect("answered");
    use Deleted::{Absent, Differs};
    assert_eq!(deleted, [Differs, Absent, Deleted::Deleted, Differs, Deleted::Deleted, Absent]);
}

/// Under another's name it would take the other's place.
#[test]
fn a_body_with_a_wrong_hash_is_not_stored() {
    let tree = Tree::new();
    let mut state = completed(1, "");
    let mut register = completed(1, "x").get("completed/output").expect("set").clone();
    register.value = Value::Body(Body::text_with_hash(large("a"), [7; 32]));
    state.set(register);

    let Outcome::Rejected(error) = tree.merge("a", &state).outcome else { panic!("taken") };

    assert_eq!(error.kind, ErrorKind::InvalidItem);
    assert_eq!(tree.blobs.keys(), [""; 0]);
}
