//! From one tree to the next: which backends are carried over, which are handed over, and which must not be dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::{Backend, Call, Capabilities, Query};
use tracing::warn;

use super::guard::Guard;
use super::plan::{Edge, Plan};
use super::reload::ReloadError;
use super::tree::{CloseFailure, Node, Tree};

/// The plugin whose stores hold nothing outside of the process: what one of them holds ends with it.
const IN_MEMORY: &str = "memory";

/// The opened backends of another tree that stand in a new one as they are.
#[derive(Clone, Debug)]
pub(crate) struct Carried(Vec<Option<Arc<Guard>>>);

impl Carried {
    pub(crate) fn nothing(plan: &Plan) -> Self {
        Self(vec![None; plan.nodes.len()])
    }

    /// What of a tree a plan asks for as it is: the same name, plugin, options and settings, over the same children.
    pub(crate) fn from(old: &Tree, plan: &Plan) -> Self {
        let mut carried = Self(Vec::with_capacity(plan.nodes.len()));
        for (index, planned) in plan.nodes.iter().enumerate() {
            let old = old.nodes.iter().find(|node| **node.guard.instance() == *planned.name);
            let stands_on_the_same = |edge: &Edge| carried.0[edge.node].is_some();
            let same = old.filter(|node| {
                !node.guard.is_closed()
                    && node.identity == plan.identity(index)
                    && planned.children.iter().all(stands_on_the_same)
            });
            carried.0.push(same.map(|node| Arc::clone(&node.guard)));
        }
        carried
    }

    pub(crate) fn guard(&self, node: usize) -> Option<&Arc<Guard>> {
        self.0[node].as_ref()
    }

    pub(crate) fn add(&mut self, node: usize, guard: Arc<Guard>) {
        self.0[node] = Some(guard);
    }

    pub(crate) fn has(&self, guard: &Arc<Guard>) -> bool {
        self.0.iter().flatten().any(|carried| Arc::ptr_eq(carried, guard))
    }

    /// Every backend of the plan is there already, and every backend of the tree in the plan.
    pub(crate) fn is_whole(&self, old: &Tree) -> bool {
        self.0.iter().all(Option::is_some) && old.nodes.iter().all(|node| self.has(&node.guard))
    }

    /// The backends that must be closed before they can be opened as the plan asks.
    pub(crate) fn handed_over(&self, old: &Tree, plan: &Plan) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for (index, planned) in plan.nodes.iter().enumerate().filter(|(index, _)| self.0[*index].is_none()) {
            let identity = plan.identity(index);
            let must_go = |node: &&Node| {
                // A layer is exclusive only for what is below it.
                let is_exclusive = node.guard.capabilities().exclusive && planned.children.is_empty();
                // Two builds know nothing of each other, whatever they share: locks of a file, statics.
                let is_other_build = node.identity.is_other_build_of(&identity);
                is_exclusive || is_other_build
            };
            let open = old.nodes.iter().filter(|node| !node.guard.is_closed());
            if open.filter(|node| *node.guard.instance() == planned.name).any(|node| must_go(&node)) {
                names.push(Arc::clone(&planned.name));
            }
        }
        names
    }
}

impl Plan {
    /// Closes what was opened beside what is there already.
    pub(crate) fn close_new(&self, opened: &Carried, there: &Carried) {
        for failure in self.tree_of(opened).close_rest(there, self.config.close_timeout) {
            warn!(backend = %failure.instance, reason = failure.reason, "storage.close_failed");
        }
    }

    pub(crate) fn tree_of(&self, opened: &Carried) -> Tree {
        let mut tree = Tree::new(&self.config, self.read_only);
        let guards = (0..self.nodes.len()).filter_map(|index| Some((index, opened.guard(index)?)));
        tree.nodes.extend(guards.map(|(index, guard)| Node::new(self, index, Arc::clone(guard))));
        tree
    }

    /// The nodes that are not there before these are opened: they, and what stands on them.
    pub(crate) fn standing_on(&self, names: &[Arc<str>]) -> Vec<bool> {
        let mut is_late: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for planned in &self.nodes {
            is_late.push(names.contains(&planned.name) || planned.children.iter().any(|edge| is_late[edge.node]));
        }
        is_late
    }
}

impl Tree {
    /// Closes the backends that are not carried over into another tree.
    pub(crate) fn close_rest(&self, carried: &Carried, budget: Duration) -> Vec<CloseFailure> {
        self.close_but(&|guard| carried.has(guard), budget)
    }

    /// What would be gone with a change, or be stored nowhere else: stores in memory that are opened anew or not at all,
    /// and the fallbacks that a plan has no place for.
    pub(crate) fn left_behind(&self, carried: &Carried, plan: &Plan) -> Vec<Arc<Guard>> {
        // Under a durable root it is a copy.
        let forgets = |node: &&Node| {
            let Capabilities { durable, evicting, .. } = node.guard.capabilities();
            node.about.name == IN_MEMORY && !durable && !evicting
        };
        let counts =
            |node: &&Node| !self.capabilities().durable && !carried.has(&node.guard) && !node.guard.is_closed();
        let forgotten = self.nodes.iter().filter(forgets).filter(counts).map(|node| Arc::clone(&node.guard));
        forgotten.chain(self.dropped_fallbacks(plan)).collect()
    }

    /// The fallbacks that a plan has no place for: what one of them holds is stored nowhere else.
    pub(crate) fn dropped_fallbacks(&self, plan: &Plan) -> Vec<Arc<Guard>> {
        let is_kept = |node: &Node| {
            let mut edges = plan.nodes.iter().flat_map(|node| &node.children).filter(|edge| edge.only_copy);
            edges.any(|edge| self.is_kept(node, plan, edge.node))
        };
        let edges = self.nodes.iter().flat_map(|node| &node.children).filter(|edge| edge.only_copy);
        let nodes = edges.map(|edge| &self.nodes[edge.node]);
        nodes.filter(|node| !is_kept(node)).map(|node| Arc::clone(&node.guard)).collect()
    }

    /// Whether what a backend and those below it hold is where a place of the plan will look for it.
    fn is_kept(&self, node: &Node, plan: &Plan, place: usize) -> bool {
        let planned = &plan.nodes[place];
        let is_below = |old: &Edge| {
            let mut same_role = planned.children.iter().filter(|new| new.role == old.role);
            same_role.any(|new| self.is_kept(&self.nodes[old.node], plan, new.node))
        };
        planned.name == *node.guard.instance()
            && plan.identity(place).is_same_store(&node.identity)
            && node.children.len() == planned.children.len()
            && node.children.iter().all(is_below)
    }
}

impl Guard {
    /// Refuses that a fallback or a store in memory goes which holds something.
    ///
    /// # Errors
    /// When it does, or cannot say.
    pub(crate) fn must_be_empty(&self, budget: Duration) -> Result<(), ReloadError> {
        let call = Call { deadline: Instant::now() + budget, attempt: 0 };
        match self.list(&call, &Query { limit: 1, ..Query::default() }) {
            Ok(page) if page.entries.is_empty() => Ok(()),
            // A fallback is durable.
            Ok(_) if self.capabilities().durable => Err(ReloadError::Fallback(self.instance().to_string())),
            Ok(_) => Err(ReloadError::InMemory(self.instance().to_string())),
            Err(error) => Err(ReloadError::Unknown(self.instance().to_string(), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use serde_json::{Value, json};
    use storage_plugin_api::{EventStamp, State, Status};

    use super::super::lock;
    use super::super::open::Patience;
    use super::super::testing::{TestPlugins, backends, quick};
    use super::*;
    use crate::telemetry::metrics::Metrics;

    const BUDGET: Duration = Duration::from_secs(5);

    fn plan(plugins: &TestPlugins, a: Value, mut b: Value) -> Plan {
        b["durable"] = json!(true);
        let backends = backends(&[
            ("root", "layer", &[("primary", &["a"]), ("fallback", &["b"])], json!({})),
            ("a", "store", &[], a),
            ("b", "store", &[], b),
        ]);
        Plan::of(&quick(), &backends, plugins).expect("all fits")
    }

    #[test]
    fn what_is_the_same_is_carried_over_and_what_stands_on_a_change_is_not() {
        let plugins = TestPlugins::default();
        let old = plan(&plugins, json!({}), json!({})).open(&Metrics::new(), None, &|| false).expect("it opens");
        let new = plan(&plugins, json!({ "x": 1 }), json!({}));
        lock(&plugins.events).clear();

        let carried = Carried::from(&old, &new);
        let tree = new.open_beside(&carried, Patience::None, &Metrics::new(), None, &|| false).expect("it opens");
        lock(&plugins.opened).clear();
        assert_eq!(old.close_rest(&carried, BUDGET), []);

        assert_eq!(
            *lock(&plugins.events),
            [
                "open a()",
                "open root(primary=a,fallback=b)",
                "flush root",
                "close root",
                "drop root",
                "flush a",
                "close a",
                "drop a"
            ]
        );
        assert!(Arc::ptr_eq(&tree.nodes[1].guard, &old.nodes[1].guard));
        assert!(Carried::from(&tree, &plan(&plugins, json!({ "x": 1 }), json!({}))).is_whole(&tree));
    }

    #[test]
    fn a_backend_is_told_once_that_its_tree_is_in_use_and_not_before() {
        let plugins = TestPlugins::default();
        let old = plan(&plugins, json!({}), json!({})).open(&Metrics::new(), None, &|| false).expect("it opens");
        let begun = |name: &str| lock(&plugins.opened)[name].begun.load(Ordering::Relaxed);
        assert_eq!(["a", "b", "root"].map(begun), [1, 1, 1]);
        let new = plan(&plugins, json!({ "x": 1 }), json!({}));
        let carried = Carried::from(&old, &new);

        let tree = new.open_beside(&carried, Patience::None, &Metrics::new(), None, &|| false).expect("it opens");

        assert_eq!(["a", "b", "root"].map(begun), [0, 1, 0], "`b` is carried over");
        lock(&plugins.opened)["a"].set_fault(|call| if call == "begin" { panic!("not today") } else { Ok(()) });
        tree.begin();
        tree.begin();
        assert_eq!(["a", "b", "root"].map(begun), [1, 1, 1], "one that panics keeps no other from beginning");
    }

    #[test]
    fn a_change_that_cannot_be_opened_leaves_what_is_carried_over_open() {
        let plugins = TestPlugins::default();
        let old = plan(&plugins, json!({}), json!({})).open(&Metrics::new(), None, &|| false).expect("it opens");
        let new = plan(&plugins, json!({ "open": "away" }), json!({}));
        let carried = Carried::from(&old, &new);

        let error = new.open_beside(&carried, Patience::None, &Metrics::new(), None, &|| false);

        let error = error.expect_err("it is away").to_string();
        assert!(error.contains("connection refused"), "{error}");
        assert!(old.nodes.iter().all(|node| !node.guard.is_closed()));
    }

    #[test]
    fn a_fallback_that_holds_something_is_not_dropped() {
        let plugins = TestPlugins::default();
        let old = plan(&plugins, json!({}), json!({})).open(&Metrics::new(), None, &|| false).expect("it opens");
        let without = backends(&[("a", "store", &[], json!({}))]);
        let without = Plan::of(&super::super::Config { backend: "a".to_owned(), ..quick() }, &without, &plugins);
        let without = without.expect("all fits");
        let refused = |old: &Tree| {
            let leaving = old.dropped_fallbacks(&without);
            assert_eq!(leaving.len(), 1);
            leaving[0].must_be_empty(BUDGET).err().map(|error| error.to_string())
        };
        assert_eq!(refused(&old), None);

        let mut state = State::new();
        state.set_open(&EventStamp::new(1, "e"), Status::Queued);
        lock(&plugins.opened)["b"].insert("x", state);

        let reason = refused(&old).expect("it holds something");
        assert!(reason.contains("the fallback `b` still holds evaluations"), "{reason}");
        assert!(old.dropped_fallbacks(&plan(&plugins, json!({ "x": 1 }), json!({}))).is_empty());
        let elsewhere = plan(&plugins, json!({}), json!({ "path": "elsewhere" }));
        assert_eq!(old.dropped_fallbacks(&elsewhere).len(), 1);
        lock(&plugins.opened)["b"].is_away();
        let reason = refused(&old).expect("it cannot say");
        assert!(reason.contains("`b`, which the change leaves behind"), "{reason}");
    }

    /// It used to be closed and opened empty, and what was confirmed was gone.
    #[test]
    fn what_a_store_in_memory_holds_does_not_go_unasked() {
        let plugins = TestPlugins::default();
        let of = |options: Value| {
            let backends = backends(&[
                ("root", "layer", &[("primary", &["a"]), ("shadow", &["ram", "hot"])], json!({})),
                ("a", "store", &[], json!({ "durable": true })),
                ("ram", "memory", &[], options),
                ("hot", "store", &[], json!({})),
            ]);
            Plan::of(&quick(), &backends, &plugins).expect("all fits")
        };
        let old = of(json!({})).open(&Metrics::new(), None, &|| false).expect("it opens");
        let changed = of(json!({ "x": 1 }));
        let leaving = |to: &Plan| old.left_behind(&Carried::from(&old, to), to);
        assert!(leaving(&of(json!({}))).is_empty(), "it is carried over");

        let leaving = leaving(&changed);

        assert_eq!(leaving.iter().map(|guard| &**guard.instance()).collect::<Vec<_>>(), ["ram"]);
        assert!(leaving[0].must_be_empty(BUDGET).is_ok());
        let mut state = State::new();
        state.set_open(&EventStamp::new(1, "e"), Status::Queued);
        lock(&plugins.opened)["ram"].insert("x", state);
        let reason = leaving[0].must_be_empty(BUDGET).expect_err("it holds something").to_string();
        assert!(reason.contains("`ram` holds evaluations in memory"), "{reason}");
    }

    #[test]
    fn what_stands_on_what_is_handed_over_comes_after_it() {
        let plan = plan(&TestPlugins::default(), json!({}), json!({}));
        let names: Vec<&str> = plan.nodes.iter().map(|node| &*node.name).collect();
        assert_eq!(names, ["a", "b", "root"]);

        assert_eq!(plan.standing_on(&["a".into()]), [true, false, true]);
        assert_eq!(plan.standing_on(&[]), [false; 3]);
    }
}
