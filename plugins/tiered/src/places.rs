//! The names of the blobs of every instance that is open in this process.
//!
//! An instance may stand above another one, and sees the references of that pass by, or the other way round. What refers
//! to none of these places is nobody's to put back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many instances keep their blobs there.
static OPEN: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Where an open instance keeps its blobs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(String);

impl Place {
    pub(crate) fn open(blobs: &str) -> Self {
        *lock().entry(blobs.to_owned()).or_default() += 1;
        Self(blobs.to_owned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock();
        let instances = open.get_mut(&self.0).map_or(0, |instances| {
            *instances -= 1;
            *instances
        });
        if instances == 0 {
            open.remove(&self.0);
        }
    }
}

/// True while an instance keeps its blobs there.
pub(crate) fn is_open(blobs: &str) -> bool {
    lock().contains_key(blobs)
}

fn lock() -> MutexGuard<'static, BTreeMap<String, usize>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_open_as_long_as_any_instance_has_it() {
        let [one, other] = [(); 2].map(|()| Place::open("of two"));

        drop(one);
        assert!(is_open("of two"));
        drop(other);
        assert!(!is_open("of two"));
    }
}
