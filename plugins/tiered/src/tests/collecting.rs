//! What no state refers to is removed, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{Backend, Delete, Error, ErrorKind, OpenBackend, Opening, with_items};

use super::store::{Store, lock};
use super::{Tree, call, completed, large};
use crate::collect::{Cut, pass};
use crate::places::Place;
use crate::tiered::Layer;
use crate::{Options, Tiered, role};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Tree {
    fn layer(&self) -> Layer {
        Layer {
            host: Host::detached("tiered"),
            options: Options::default(),
            primary: self.primary.child(role::PRIMARY),
            blobs: self.blobs.child(role::BLOBS),
            place: Place::open("collecting", "blobs"),
            figures: crate::collect::Figures::default(),
        }
    }

    fn collect(&self) -> Result<u64, Cut> {
        let layer = self.layer();
        pass(&layer, 3, &|_| false).map(|()| layer.figures.collected())
    }

    fn delete(&self, id: &str) {
        self.tiered.delete(&call(), &[Delete { id, digest: None }]).expect("deleted");
    }
}

/// Ten evaluations, the blobs of half of which nobody needs any more.
fn half_deleted() -> Tree {
    let tree = Tree::new();
    for number in 0..10 {
        tree.merge(&format!("e-{number}"), &completed(1, &large(&number.to_string())));
    }
    (0..10).step_by(2).for_each(|number| tree.delete(&format!("e-{number}")));
    tree
}

#[test]
fn old_blobs_without_a_state_are_removed() {
    let tree = half_deleted();
    assert_eq!(tree.collect().expect("through"), 0, "they are too young");
    tree.blobs.age(DAY + Duration::from_secs(1));

    let layer = tree.layer();
    pass(&layer, 3, &|_| false).expect("through");

    assert_eq!(layer.figures.collected(), 5);
    assert_eq!(layer.figures.counted().map(|(blobs, _)| blobs), Some(10));
    assert_eq!(tree.blobs.keys().len(), 5);
    assert!((1..10).step_by(2).all(|number| !tree.get(&format!("e-{number}")).incomplete));
    assert_eq!(tree.collect().expect("through"), 0);
}

#[test]
fn what_others_keep_beside_is_left_alone() {
    let tree = Tree::new();
    lock(&tree.blobs.blobs).insert("backup.tar.zst".to_owned(), (vec![1], 0));

    assert_eq!(tree.collect().expect("through"), 0);

    assert_eq!(tree.blobs.keys(), ["backup.tar.zst"]);
}

/// A merge comes while the states are walked: its evaluation lies behind the place that was reached.
#[test]
fn what_is_merged_meanwhile_keeps_its_blob() {
    let tree = half_deleted();
    tree.blobs.age(2 * DAY);
    let (primary, blobs) = (Arc::clone(&tree.primary), Arc::clone(&tree.blobs));
    let is_merged = AtomicBool::new(false);
    tree.primary.before(move |name| {
        if name == "listed" && !is_merged.swap(true, Ordering::SeqCst) {
            let tree = Tree::over(Arc::clone(&primary), Arc::clone(&blobs), 100);
            for number in 0..10 {
                tree.merge(&format!("again-{number}"), &completed(1, &large(&number.to_string())));
            }
        }
        Ok(())
    });

    tree.collect().expect("through");

    tree.primary.come_back();
    assert!((0..10).all(|number| !tree.get(&format!("again-{number}")).incomplete));
}

#[test]
fn where_not_every_state_is_seen_nothing_is_removed() {
    let tree = half_deleted();
    tree.blobs.age(2 * DAY);
    tree.primary.before(|name| if name == "list" { Err(Error::unavailable("cut")) } else { Ok(()) });

    let cut = tree.collect().expect_err("it cannot know");

    assert!(matches!(cut, Cut::Failed(error) if error.kind == ErrorKind::Unavailable));
    assert_eq!(tree.blobs.keys().len(), 10);
    tree.primary.come_back();

    // The state of a document that cannot be read is incomplete.
    with_items(&[("x", &completed(1, "x"))], |items| tree.primary.child("").backend.merge(&call(), items))
        .expect("merged");
    tree.primary.damage("x");
    let Cut::Failed(error) = tree.collect().expect_err("it cannot know") else { panic!("stopped") };
    assert!(error.message.contains("only a part of `x` can be seen"), "{error}");
    assert_eq!(tree.blobs.keys().len(), 10);
}

#[test]
fn it_stops_where_it_is() {
    let tree = half_deleted();
    tree.blobs.age(2 * DAY);
    for after in 0..5 {
        let asked = AtomicUsize::new(0);
        let stops = |_| asked.fetch_add(1, Ordering::SeqCst) >= after;

        assert!(matches!(pass(&tree.layer(), 3, &stops), Err(Cut::Stopped)), "after {after}");
    }
}

#[test]
fn the_thread_collects_by_itself_and_ends_when_it_is_closed() {
    let tree = half_deleted();
    tree.blobs.age(2 * DAY);
    let opening = |read_only| Opening {
        instance: "tiered".to_owned(),
        children: vec![tree.primary.child(role::PRIMARY), tree.blobs.child(role::BLOBS)],
        deadline: std::time::Instant::now() + Duration::from_secs(10),
        read_only,
        host: Host::detached("tiered"),
    };
    let options = Options { collect_every: Duration::from_millis(1), ..Options::default() };
    let reader = Tiered::open(options.clone(), opening(true)).expect("it opens");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(tree.blobs.keys().len(), 10, "who only reads is not begun, and removes nothing");
    reader.close(&call()).expect("closed");
    drop(reader);

    let tiered = Tiered::open(options, opening(false)).expect("it opens");
    tiered.begin(&call()).expect("begun");
    let start = std::time::Instant::now();
    while tree.blobs.keys().len() > 5 {
        assert!(start.elapsed() < Duration::from_secs(20), "nothing is collected");
        std::thread::sleep(Duration::from_millis(1));
    }
    tiered.close(&call()).expect("closed");
    tiered.close(&call()).expect("closed again");

    assert_eq!(Arc::strong_count(&tree.primary), 3, "the thread is gone");
}

#[test]
fn blobs_of_a_store_that_is_away_are_looked_for_later() {
    let blobs = Store::new(storage_plugin_api::Durability::Durable);
    let tree = Tree::over(Store::new(storage_plugin_api::Durability::Durable), blobs, 100);
    tree.blobs.go_away();

    assert!(matches!(tree.collect(), Err(Cut::Failed(_))));
}
