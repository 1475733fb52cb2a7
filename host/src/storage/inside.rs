//! Which plugins somebody is opening right now. Trees are opened one after the other, so who is found inside hangs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::lock;
use super::plugin::Plugin;

/// By address: whoever is inside keeps the plugin, so its address is not used again meanwhile.
static INSIDE: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// A call of `open` that is under way; it has come back when this is dropped.
#[derive(Debug)]
pub(crate) struct Inside(usize);

impl Inside {
    /// None if an earlier call has not come back.
    pub(crate) fn enter(plugin: &Arc<dyn Plugin>) -> Option<Self> {
        let address = Arc::as_ptr(plugin).cast::<()>() as usize;
        let is_first = lock(&INSIDE).insert(address);
        // Made only if it is: its drop would take the other one's place away.
        is_first.then(|| Self(address))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        lock(&INSIDE).remove(&self.0);
    }
}
