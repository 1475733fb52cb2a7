//! The layer does what a backend must, with every body of the kit in a blob.

use std::sync::Arc;

use storage_plugin_api::conformance::{Place, Subject, Verdict, behaviors};
use storage_plugin_api::{Backend, Capabilities, Description, Durability, Result};

use super::Tree;
use super::store::Store;
use crate::{Options, role};

/// A layer over new children.
struct Layered;

/// Where the children stay when the layer is closed.
struct Children {
    primary: Arc<Store>,
    blobs: Arc<Store>,
}

impl Subject for Layered {
    fn description(&self) -> Description {
        let children =
            [Store::new(Durability::Durable).child(role::PRIMARY), Store::new(Durability::Durable).child(role::BLOBS)];
        let description = Options::default().describe(&children.map(|child| child.description));
        // Nothing here survives a process.
        Description { capabilities: Capabilities { durable: false, ..description.capabilities }, ..description }
    }

    fn place(&self) -> Result<Box<dyn Place>> {
        let volatile = || Store::new(Durability::Volatile);
        Ok(Box::new(Children { primary: volatile(), blobs: volatile() }))
    }
}

impl Place for Children {
    fn open(&self) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(Tree::over(Arc::clone(&self.primary), Arc::clone(&self.blobs), 0).tiered))
    }
}

#[test]
fn it_does_what_a_backend_must() {
    // The host closes what is below a layer; and here nobody does.
    let by_the_host = ["life_cycle.called_after_close"];
    let mut passed = 0;
    for behavior in behaviors().filter(|behavior| !by_the_host.contains(&behavior.name)) {
        match behavior.run(&Layered, 7).verdict {
            Verdict::Failed { expected, seen } => panic!("{}: expected {expected}, seen {seen}", behavior.name),
            Verdict::Passed => passed += 1,
            Verdict::NotClaimed { .. } | Verdict::NotRun { .. } => {}
        }
    }
    assert!(passed > 30, "only {passed} behaviors were run");
}
