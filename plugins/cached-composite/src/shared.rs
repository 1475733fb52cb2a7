//! What instances over the same child share within this process: found by the child's name in the configuration.
//!
//! While one configuration takes the place of another, two instances of the layer may work on the same children. What
//! they share only ever makes them more careful, so two children that merely have the same name do no harm.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use crate::lock;

/// Shared values by name, as long as anybody holds them.
pub(crate) struct ByName<T>(Mutex<BTreeMap<String, Weak<T>>>);

impl<T: Default> ByName<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The value of a name; made if nobody holds one.
    pub(crate) fn get(&self, name: &str) -> Arc<T> {
        let mut values = lock(&self.0);
        values.retain(|_, value| value.strong_count() > 0);
        if let Some(value) = values.get(name).and_then(Weak::upgrade) {
            return value;
        }
        let value = Arc::new(T::default());
        values.insert(name.to_owned(), Arc::downgrade(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shared_by_name_as_long_as_it_is_held() {
        static NAMES: ByName<Mutex<u32>> = ByName::new();
        let first = NAMES.get("a");
        *lock(&first) = 1;

        assert_eq!(*lock(&NAMES.get("a")), 1);
        assert_eq!(*lock(&NAMES.get("b")), 0);
        drop(first);
        assert_eq!(*lock(&NAMES.get("a")), 0);
    }
}
