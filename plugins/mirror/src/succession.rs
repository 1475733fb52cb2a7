//! Who follows for a shadow while one instance of the mirror takes the place of another, and what is left for the next.
//!
//! Instances over children of the same names form a line, in the order in which they were opened, and the first one
//! follows. Nothing of it survives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::lock;
use crate::shadow::Differs;

/// A few entries: one for each shadow that was ever configured.
static LINES: Mutex<BTreeMap<String, Arc<Mutex<Line>>>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct Line {
    places: BTreeSet<u64>,
    last: u64,
    left: Left,
}

/// What instances leave to the next one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Ids that they owed.
    pub(crate) owed: BTreeSet<Box<str>>,
    /// In what the shadow differs.
    pub(crate) differs: Differs,
}

/// A place in the line, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    line: Arc<Mutex<Line>>,
    number: u64,
}

impl Place {
    /// The last place.
    pub(crate) fn take(mirror: &str, primary: &str, shadow: &str) -> Self {
        let key = [mirror, primary, shadow].join("\n");
        let line = Arc::clone(lock(&LINES).entry(key).or_default());
        let number = {
            let mut line = lock(&line);
            line.last += 1;
            let number = line.last;
            line.places.insert(number);
            number
        };
        Self { line, number }
    }

    /// What the instances before left, if it is this one's turn now.
    pub(crate) fn follow(&self) -> Option<Left> {
        let mut line = lock(&self.line);
        (line.places.first() == Some(&self.number)).then(|| std::mem::take(&mut line.left))
    }

    /// True if there is another instance that goes on.
    pub(crate) fn has_next(&self) -> bool {
        lock(&self.line).places.last() > Some(&self.number)
    }

    /// Leaves something to the next one, whenever that comes; of what is owed as much as fits, and the rest is lost.
    pub(crate) fn leave(&self, left: Left, most: usize) {
        let mut line = lock(&self.line);
        line.left.differs.add(left.differs);
        for id in left.owed {
            if line.left.owed.len() < most || line.left.owed.contains(&id) {
                line.left.owed.insert(id);
            } else {
                line.left.differs.lost += 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.line).places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(ids: &[&str]) -> Left {
        Left { owed: ids.iter().map(|id| Box::from(*id)).collect(), ..Left::default() }
    }

    #[test]
    fn one_instance_at_a_time_follows_and_the_next_takes_over() {
        let [old, middle, new] = [(); 3].map(|()| Place::take("m", "a", "b"));

        assert!(new.follow().is_none() && old.follow().is_some());
        assert!(old.has_next() && !new.has_next());
        old.leave(owed(&["x"]), 9);
        drop(old);
        assert!(new.follow().is_none());
        middle.leave(owed(&["y"]), 2);
        drop(middle);

        assert_eq!(new.follow(), Some(owed(&["x", "y"])));
        assert_eq!(new.follow(), Some(Left::default()));
        assert!(Place::take("m", "b", "a").follow().is_some(), "the other way round is another matter");
    }

    /// It used to be forgotten, and the next instance said that the shadow has everything.
    #[test]
    fn what_does_not_fit_is_lost_and_told_to_the_next() {
        let [old, new] = [(); 2].map(|()| Place::take("n", "a", "b"));
        let differs = || Differs { lost: 3, refused: 1, refused_ids: ["bad".into()].into(), panics: 1 };

        old.leave(Left { differs: differs(), ..owed(&["x", "y", "z"]) }, 2);
        drop(old);

        assert_eq!(new.follow(), Some(Left { differs: Differs { lost: 4, ..differs() }, ..owed(&["x", "y"]) }));
    }
}
