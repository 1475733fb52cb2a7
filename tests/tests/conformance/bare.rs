//! Behaviors that no plugin can miss, since plugin-api sees to them, tried on a backend that is not behind it.

use std::sync::Arc;

use storage_plugin_api::conformance::{Place, Subject, Verdict, behaviors};
use storage_plugin_api::{
    Answer, Backend, Call, Delete, Deleted, Description, Durability, Error, Fields, Found, Health, Item, Outcome, Page,
    Query, Result,
};

/// Takes everything and keeps nothing, also after it was closed.
struct StillServes {
    panics_when_closed_twice: bool,
    is_closed: std::sync::atomic::AtomicBool,
}

impl Backend for StillServes {
    fn merge(&self, _: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        Ok(batch.iter().map(|_| Answer::new(Outcome::Created, None, Durability::Volatile)).collect())
    }

    fn get(&self, _: &Call, ids: &[&str], _: Fields) -> Result<Vec<Option<Found>>> {
        Ok(ids.iter().map(|_| None).collect())
    }

    fn list(&self, _: &Call, _: &Query) -> Result<Page> {
        Ok(Page::default())
    }

    fn delete(&self, _: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        Ok(items.iter().map(|_| Deleted::Absent).collect())
    }

    fn health(&self) -> Health {
        Health::healthy()
    }

    fn flush(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _: &Call) -> Result<()> {
        let was_closed = self.is_closed.swap(true, std::sync::atomic::Ordering::Relaxed);
        match was_closed && self.panics_when_closed_twice {
            // What the boundary makes of a panic.
            true => Err(Error::internal("the plugin panicked: closed twice")),
            false => Ok(()),
        }
    }
}

struct Bare {
    panics_when_closed_twice: bool,
}

impl Subject for Bare {
    fn description(&self) -> Description {
        Description::default()
    }

    fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(Self { ..*self }))
    }
}

impl Place for Bare {
    fn open(&self) -> Result<Arc<dyn Backend>> {
        let panics_when_closed_twice = self.panics_when_closed_twice;
        Ok(Arc::new(StillServes { panics_when_closed_twice, is_closed: false.into() }))
    }
}

#[track_caller]
fn verdict(name: &str, panics_when_closed_twice: bool) -> Verdict {
    let behavior = behaviors().find(|behavior| behavior.name == name).expect("there is this behavior");
    behavior.run(&Bare { panics_when_closed_twice }, 1).verdict
}

#[test]
fn a_backend_that_serves_after_it_was_closed_is_caught() {
    let Verdict::Failed { expected, seen } = verdict("life_cycle.called_after_close", false) else {
        panic!("it was not caught");
    };

    assert_eq!((&*expected, &*seen), ("`merge` after `close` is refused", "it was taken"));
}

#[test]
fn a_backend_that_does_not_bear_to_be_closed_twice_is_caught() {
    assert_eq!(verdict("life_cycle.closes_twice", false), Verdict::Passed);
    let Verdict::Failed { expected, .. } = verdict("life_cycle.closes_twice", true) else {
        panic!("it was not caught");
    };

    assert_eq!(expected, "no panic in a second `close`");
}
