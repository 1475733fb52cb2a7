//! Which evaluations the primary took something of while the fallback held something.
//!
//! Should the primary go away again, what the fallback has of them may be older than what was confirmed, and is not
//! answered. Bounded: beyond the limit it counts for every evaluation.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::lock;

/// Most ids that are remembered, some 100 bytes each.
const LIMIT: usize = 100_000;

/// The ids.
#[derive(Debug, Default)]
pub(crate) struct Meanwhile(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    ids: HashSet<Box<str>>,
    is_beyond: bool,
}

impl Meanwhile {
    pub(crate) fn add<'i>(&self, ids: impl Iterator<Item = &'i str>) {
        let mut taken = lock(&self.0);
        for id in ids {
            if taken.is_beyond || taken.ids.contains(id) {
                continue;
            }
            if taken.ids.len() >= LIMIT {
                *taken = Taken { ids: HashSet::new(), is_beyond: true };
                return;
            }
            taken.ids.insert(id.into());
        }
    }

    /// True if the primary has taken something of this one.
    pub(crate) fn has(&self, id: &str) -> bool {
        let taken = lock(&self.0);
        taken.is_beyond || taken.ids.contains(id)
    }

    pub(crate) fn clear(&self) {
        *lock(&self.0) = Taken::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_it_counts_for_all() {
        let meanwhile = Meanwhile::default();
        let ids: Vec<String> = (0..=LIMIT).map(|number| number.to_string()).collect();

        meanwhile.add(ids[..LIMIT].iter().map(String::as_str));
        assert!(meanwhile.has("0") && !meanwhile.has("other"));

        meanwhile.add(ids.iter().map(String::as_str));
        assert!(meanwhile.has("other"));
        meanwhile.clear();
        assert!(!meanwhile.has("0"));
    }
}
