//! Which plugins are being called by somebody who may have left them behind: before an instance has its guard, and at
//! its end. Trees are changed one after the other, so who is found inside hangs, and each attempt more would cost a thread.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::lock;
use super::plugin::Plugin;

static INSIDE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// A call of a plugin that is under way; it has come back when this is dropped.
#[derive(Debug)]
pub(crate) struct Inside(Entry);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// An address: whoever is inside keeps the plugin, so its address is not used again meanwhile.
    plugin: usize,
    stage: Stage,
    /// Made of an instance's name and options.
    instance: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Check,
    Open,
    Close,
}

impl Inside {
    /// To ask what an instance would be. None if an earlier question has not been answered.
    pub(crate) fn to_check(plugin: &Arc<dyn Plugin>) -> Option<Self> {
        Self::enter(Entry::of(plugin, Stage::Check, "", &Value::Null), |other| other.stage == Stage::Check)
    }

    /// To open an instance and to try it out. None if the plugin has not come back from an earlier call for any instance.
    pub(crate) fn to_open(plugin: &Arc<dyn Plugin>, instance: &str, options: &Value) -> Option<Self> {
        Self::enter(Entry::of(plugin, Stage::Open, instance, options), |other| other.stage != Stage::Check)
    }

    /// To open an instance that was open before. What hangs for another one does not matter: it must come back.
    pub(crate) fn to_reopen(plugin: &Arc<dyn Plugin>, instance: &str, options: &Value) -> Option<Self> {
        let entry = Entry::of(plugin, Stage::Open, instance, options);
        Self::enter(entry, |other| other.stage != Stage::Check && other.instance == entry.instance)
    }

    /// To end an instance; nothing can keep that.
    pub(crate) fn to_close(plugin: &Arc<dyn Plugin>, instance: &str, options: &Value) -> Self {
        let entry = Entry::of(plugin, Stage::Close, instance, options);
        lock(&INSIDE).push(entry);
        Self(entry)
    }

    fn enter(entry: Entry, hinders: impl Fn(&Entry) -> bool) -> Option<Self> {
        let mut inside = lock(&INSIDE);
        if inside.iter().any(|other| other.plugin == entry.plugin && hinders(other)) {
            return None;
        }
        inside.push(entry);
        Some(Self(entry))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut inside = lock(&INSIDE);
        if let Some(place) = inside.iter().position(|entry| *entry == self.0) {
            inside.swap_remove(place);
        }
    }
}

impl Entry {
    fn of(plugin: &Arc<dyn Plugin>, stage: Stage, instance: &str, options: &Value) -> Self {
        let mut hasher = DefaultHasher::new();
        (instance, options.to_string()).hash(&mut hasher);
        Self { plugin: Arc::as_ptr(plugin).cast::<()>() as usize, stage, instance: hasher.finish() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::plugin::PluginSource;
    use super::super::testing::TestPlugins;
    use super::*;

    #[test]
    fn a_plugin_that_hangs_is_not_called_again_but_for_what_was_open_before() {
        let plugin = TestPlugins::default().load("store", None).expect("there is one");
        let other = TestPlugins::default().load("store", None).expect("there is one");
        let (a, b) = (json!({}), json!({ "path": "b" }));

        let hanging = Inside::to_open(&plugin, "a", &a).expect("nobody is inside");

        assert!(Inside::to_open(&plugin, "a", &a).is_none());
        assert!(Inside::to_open(&plugin, "a", &b).is_none());
        assert!(Inside::to_reopen(&plugin, "a", &a).is_none(), "it is the one that hangs");
        assert!(Inside::to_reopen(&plugin, "a", &b).is_some());
        assert!(Inside::to_check(&plugin).is_some());
        assert!(Inside::to_open(&other, "a", &a).is_some(), "another build");
        drop(hanging);
        let closing = [Inside::to_close(&plugin, "a", &a), Inside::to_close(&plugin, "a", &a)];
        assert!(Inside::to_open(&plugin, "b", &a).is_none());
        drop(closing);
        assert!(Inside::to_open(&plugin, "a", &a).is_some());
    }
}
