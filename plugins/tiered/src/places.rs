//! Where the instances that are open in this process keep their blobs.
//!
//! An instance may stand above another one, and sees the references of that pass by, or the other way round. What refers
//! to none of these places is nobody's to put back.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Each open instance by its name, and the name of its blobs.
static OPEN: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Where an open instance keeps its blobs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    instance: String,
    blobs: String,
}

impl Place {
    pub(crate) fn open(instance: &str, blobs: &str) -> Self {
        let (instance, blobs) = (instance.to_owned(), blobs.to_owned());
        lock().push((instance.clone(), blobs.clone()));
        Self { instance, blobs }
    }

    /// True while an instance of another name keeps its blobs there. One of the same name is this one before a reload.
    pub(crate) fn is_of_another(&self, blobs: &str) -> bool {
        lock().iter().any(|(instance, place)| place == blobs && *instance != self.instance)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock();
        let own = open.iter().position(|(instance, blobs)| *instance == self.instance && *blobs == self.blobs);
        if let Some(own) = own {
            open.swap_remove(own);
        }
    }
}

fn lock() -> MutexGuard<'static, Vec<(String, String)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_of_another_as_long_as_any_of_another_name_has_it() {
        let own = Place::open("own", "mine");
        let [one, other] = [(); 2].map(|()| Place::open("another", "of two"));
        let before = Place::open("own", "before");

        drop(one);
        assert!(own.is_of_another("of two") && !own.is_of_another("before"));
        drop((other, before));
        assert!(!own.is_of_another("of two"));
    }
}
