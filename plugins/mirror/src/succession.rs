//! Who follows for a shadow while one instance of the mirror takes the place of another, and what is left for the next.
//!
//! Instances over children of the same names form a line, in the order in which they were opened, and the first one
//! follows. Nothing of it survives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::lock;

/// A few entries: one for each shadow that was ever configured.
static LINES: Mutex<BTreeMap<String, Arc<Mutex<Line>>>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct Line {
    places: BTreeSet<u64>,
    last: u64,
    /// Ids that the instances before owed.
    left: BTreeSet<Box<str>>,
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

    /// What the instances before owed, if it is this one's turn now.
    pub(crate) fn follow(&self) -> Option<BTreeSet<Box<str>>> {
        let mut line = lock(&self.line);
        (line.places.first() == Some(&self.number)).then(|| std::mem::take(&mut line.left))
    }

    /// True if there is another instance that goes on.
    pub(crate) fn has_next(&self) -> bool {
        lock(&self.line).places.last() > Some(&self.number)
    }

    /// Leaves what is owed to the next one, whenever that comes; as many as fit.
    pub(crate) fn leave(&self, owed: impl IntoIterator<Item = Box<str>>, most: usize) {
        let mut line = lock(&self.line);
        let room = most.saturating_sub(line.left.len());
        line.left.extend(owed.into_iter().take(room));
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

    #[test]
    fn one_instance_at_a_time_follows_and_the_next_takes_over() {
        let [old, middle, new] = [(); 3].map(|()| Place::take("m", "a", "b"));

        assert!(new.follow().is_none() && old.follow().is_some());
        assert!(old.has_next() && !new.has_next());
        old.leave(["x".into()], 9);
        drop(old);
        assert!(new.follow().is_none());
        middle.leave(["y".into(), "z".into()], 2);
        drop(middle);

        assert_eq!(new.follow().map(|left| left.len()), Some(2));
        assert_eq!(new.follow().map(|left| left.len()), Some(0));
        assert!(Place::take("m", "b", "a").follow().is_some(), "the other way round is another matter");
    }
}
