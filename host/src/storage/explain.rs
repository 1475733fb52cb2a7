//! Tells people what a tree is made of and what it promises: as text with branches, and as JSON for programs.
//!
//! Works on a plan, before anything is opened, and on an opened tree, which also knows the state of each breaker.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use storage_plugin_api::Capabilities;

use super::plan::{Edge, Plan};
use super::plugin::About;
use super::tree::{Tree, TreeHealth};

/// A tree, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What the whole tree promises.
    pub guarantee: String,
    /// The root and all below it.
    pub tree: Explained,
    /// What the journal promises of events that arrive by pub/sub; filled in by whoever knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
    /// The configuration as it is in use; filled in by whoever knows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

/// One backend, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The role it plays; none for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Its name in the configuration.
    pub name: String,
    /// The plugin it comes from.
    pub plugin: About,
    /// What it promises, in a sentence.
    pub guarantee: String,
    /// What it promises, in full.
    pub capabilities: Capabilities,
    /// What the plugin says of it.
    pub notes: Vec<String>,
    /// Where its circuit breaker stands; none before it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// What it says of its state, where it is one that tells states apart; none before it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The backends below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Self>,
}

/// One value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its key, say `storage.backend`.
    pub key: String,
    /// Its value as text, without secrets.
    pub value: String,
    /// Where it came from.
    pub origin: String,
}

impl Plan {
    /// Explains the tree as it would be.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let node = |index: usize| {
            let node = &self.nodes[index];
            let capabilities = &node.description.capabilities;
            Part {
                name: &node.name,
                about: &node.about,
                capabilities,
                notes: &node.description.notes,
                breaker: None,
                children: &node.children,
            }
        };
        let tree = explained(&node, self.nodes.len() - 1, None);
        Explanation { guarantee: whole(&tree), tree, journal: None, settings: Vec::new() }
    }
}

impl Tree {
    /// Explains the tree as it is.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let node = |index: usize| {
            let node = &self.nodes[index];
            Part {
                name: node.guard.instance(),
                about: &node.about,
                capabilities: node.guard.capabilities(),
                notes: &node.notes,
                breaker: Some(node.guard.breaker_state().as_str()),
                children: &node.children,
            }
        };
        let tree = explained(&node, self.nodes.len() - 1, None);
        Explanation { guarantee: whole(&tree), tree, journal: None, settings: Vec::new() }
    }
}

impl Explanation {
    /// With the states that backends tell of in their health, say whether a layer does without one of its children.
    #[must_use]
    pub fn with_states(mut self, health: &TreeHealth) -> Self {
        add_states(&mut self.tree, health);
        self
    }

    /// The explanation as people read it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        draw(&mut text, &self.tree, "", "");
        let _ = writeln!(text, "\n{}", self.guarantee);
        if let Some(journal) = &self.journal {
            let _ = writeln!(text, "Pub/sub: {journal}.");
        }
        if !self.settings.is_empty() {
            text.push_str("\nConfiguration:\n");
            text.push_str(&table(&self.settings));
        }
        text
    }
}

fn add_states(node: &mut Explained, health: &TreeHealth) {
    if let Some(backend) = health.backends.get(&node.name) {
        node.state = backend.details.get("state").and_then(serde_json::Value::as_str).map(str::to_owned);
    }
    for child in &mut node.children {
        add_states(child, health);
    }
}

/// The values of a configuration in columns.
pub(crate) fn table(settings: &[Setting]) -> String {
    let width = |of: fn(&Setting) -> &str| {
        let widths = settings.iter().map(|setting| of(setting).chars().count());
        widths.max().unwrap_or_default().min(48)
    };
    let (keys, values) = (width(|setting| &setting.key), width(|setting| &setting.value));
    let mut text = String::new();
    for Setting { key, value, origin } in settings {
        let _ = writeln!(text, "{key:keys$}  {value:values$}  {origin}");
    }
    text
}

/// What plan and tree have in common.
struct Part<'a> {
    name: &'a str,
    about: &'a About,
    capabilities: &'a Capabilities,
    notes: &'a [String],
    breaker: Option<&'static str>,
    children: &'a [Edge],
}

fn explained<'a>(node: &dyn Fn(usize) -> Part<'a>, index: usize, role: Option<&str>) -> Explained {
    let part = node(index);
    let children: Vec<Explained> =
        part.children.iter().map(|edge| explained(node, edge.node, Some(&edge.role))).collect();
    Explained {
        role: role.map(str::to_owned),
        name: part.name.to_owned(),
        plugin: part.about.clone(),
        guarantee: sentence(part.capabilities, &children),
        capabilities: part.capabilities.clone(),
        notes: part.notes.to_vec(),
        breaker: part.breaker.map(str::to_owned),
        state: None,
        children,
    }
}

fn sentence(capabilities: &Capabilities, children: &[Explained]) -> String {
    let Stores { durable, all } = Stores::below(children);
    match (capabilities.evicting, capabilities.durable, all) {
        (true, _, _) => "evicting: may forget by itself what it holds".to_owned(),
        (false, true, 0) => {
            "durable: what it answers as stored survives a crash of the process and of the machine".to_owned()
        }
        (false, false, 0) => "volatile: a crash of the process may lose what it answered as stored".to_owned(),
        (false, true, _) => format!("durable on {durable} of {all}; a crash here loses no events"),
        (false, false, _) => format!("volatile, {durable} of {all} durable; a crash here may lose events"),
    }
}

/// How many stores there are at the ends of a tree, caches left out.
struct Stores {
    durable: usize,
    all: usize,
}

impl Stores {
    fn below(children: &[Explained]) -> Self {
        let mut found = BTreeMap::new();
        collect(children, &mut found);
        Self { durable: found.values().filter(|durable| **durable).count(), all: found.len() }
    }
}

/// By name, since a store may stand in several places.
fn collect<'a>(nodes: &'a [Explained], found: &mut BTreeMap<&'a str, bool>) {
    for node in nodes.iter().filter(|node| !node.capabilities.evicting) {
        match node.children.is_empty() {
            true => drop(found.insert(&node.name, node.capabilities.durable)),
            false => collect(&node.children, found),
        }
    }
}

fn whole(root: &Explained) -> String {
    let (name, Stores { durable, all }) = (&root.name, Stores::below(&root.children));
    match (root.capabilities.durable, all) {
        (true, 0) => {
            return format!(
                "Guarantee: durable. What `{name}` confirms survives a crash of the process and of the machine."
            );
        }
        (true, _) => return format!("Guarantee: durable on {durable} of {all}; a crash here loses no events."),
        (false, _) => {}
    }
    let mut weak = Vec::new();
    volatile(root, &mut weak);
    let weak = weak.join(", ");
    format!(
        "Guarantee: volatile. A crash may lose confirmed evaluations, because of {weak}; each confirmation says which."
    )
}

/// The backends that make a tree volatile: those without a volatile one below them.
fn volatile(node: &Explained, names: &mut Vec<String>) {
    let before = names.len();
    for child in node.children.iter().filter(|child| !child.capabilities.durable && !child.capabilities.evicting) {
        volatile(child, names);
    }
    if names.len() == before {
        names.push(format!("`{}`", node.name));
    }
}

fn draw(text: &mut String, node: &Explained, first: &str, rest: &str) {
    let role = node.role.as_ref().map(|role| format!("{role}: ")).unwrap_or_default();
    let _ = writeln!(text, "{first}{role}{} ({} {})", node.name, node.plugin.name, node.plugin.version);
    let stem = if node.children.is_empty() { "  " } else { "│ " };
    let mut line = |content: &str| {
        let _ = writeln!(text, "{}", format!("{rest}{stem}{content}").trim_end());
    };
    line(&node.guarantee);
    line(&abilities(&node.capabilities));
    for note in &node.notes {
        line(note);
    }
    if let Some(file) = &node.plugin.file {
        line(&format!("from {}", file.display()));
    }
    if let Some(state) = node.breaker.as_deref().filter(|state| *state != "closed") {
        line(&format!("breaker {state}: it is unavailable and left alone for a while"));
    }
    if let Some(state) = &node.state {
        line(&format!("state {state}"));
    }
    let last = node.children.len().saturating_sub(1);
    for (index, child) in node.children.iter().enumerate() {
        let (branch, below) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(text, child, &format!("{rest}{branch}"), &format!("{rest}{below}"));
    }
}

fn abilities(capabilities: &Capabilities) -> String {
    let Capabilities { exclusive, list_by_id, list_by_created, counts, blobs, states, prune, parallel_calls, .. } =
        capabilities;
    let offered = [
        (*list_by_id, "lists by id"),
        (*list_by_created, "lists newest first"),
        (*counts, "counts"),
        (*blobs, if *states { "blobs" } else { "blobs alone" }),
        (*prune, "prunes"),
    ];
    let mut words = vec![if *exclusive { "one process at a time" } else { "shared" }.to_owned()];
    words.push(match parallel_calls {
        0 | 1 => "one call at a time".to_owned(),
        calls => format!("{calls} calls at once"),
    });
    words.extend(offered.into_iter().filter(|(offered, _)| *offered).map(|(_, word)| word.to_owned()));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{TestPlugins, backends, quick};
    use super::super::tree::BackendHealth;
    use super::*;

    fn explanation() -> Explanation {
        let backends = backends(&[
            ("root", "layer", &[("primary", &["both"]), ("cache", &["hot"])], json!({})),
            ("both", "layer", &[("primary", &["disk"]), ("shadow", &["ram"])], json!({})),
            ("disk", "store", &[], json!({ "durable": true, "note": "writes to ./data" })),
            ("ram", "store", &[], json!({})),
            ("hot", "store", &[], json!({ "evicting": true })),
            ("spare", "store", &[], json!({})),
        ]);
        Plan::of(&quick(), &backends, &TestPlugins::default()).expect("all fits").explain()
    }

    #[test]
    fn the_tree_is_drawn_with_what_each_node_promises() {
        let mut explanation = explanation();
        let setting = |key: &str, value: &str, origin: &str| Setting {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: origin.to_owned(),
        };
        explanation.settings = vec![
            setting("redis.url", "redis://redis:6379", "default"),
            setting("storage.backend", "root", "worker.toml:3"),
        ];

        let expected = "\
root (layer 1.2.3)
│ volatile, 1 of 2 durable; a crash here may lose events
│ shared, 4 calls at once, lists by id, lists newest first, counts
├─ primary: both (layer 1.2.3)
│  │ volatile, 1 of 2 durable; a crash here may lose events
│  │ shared, 4 calls at once, lists by id, lists newest first, counts
│  ├─ primary: disk (store 1.2.3)
│  │    durable: what it answers as stored survives a crash of the process and of the machine
│  │    shared, 4 calls at once, lists by id, lists newest first, counts
│  │    writes to ./data
│  └─ shadow: ram (store 1.2.3)
│       volatile: a crash of the process may lose what it answered as stored
│       shared, 4 calls at once, lists by id, lists newest first, counts
└─ cache: hot (store 1.2.3)
     evicting: may forget by itself what it holds
     shared, 4 calls at once, lists by id, lists newest first, counts

Guarantee: volatile. A crash may lose confirmed evaluations, because of `ram`; each confirmation says which.

Configuration:
redis.url        redis://redis:6379  default
storage.backend  root                worker.toml:3
";
        assert_eq!(explanation.to_text(), expected);
    }

    #[test]
    fn a_layer_that_tells_its_state_is_drawn_with_it() {
        let backend = |name: &str, details: serde_json::Value| {
            let details = serde_json::from_value(details).expect("an object");
            (name.to_owned(), BackendHealth { healthy: true, reason: String::new(), details })
        };
        let backends = [backend("both", json!({ "state": "catching_up" })), backend("disk", json!({ "state": 1 }))];
        let backends = backends.into_iter().collect();
        let health = TreeHealth { healthy: true, reason: String::new(), failing_for: None, backends };

        let text = explanation().with_states(&health).to_text();

        let told: Vec<&str> = text.lines().filter(|line| line.contains("state ")).collect();
        assert_eq!(told, ["│  │ state catching_up"]);
    }

    #[test]
    fn programs_get_the_same_as_json() {
        let explanation = explanation();

        let json = serde_json::to_value(&explanation).expect("plain values");

        assert_eq!(serde_json::from_value::<Explanation>(json.clone()).expect("its own JSON"), explanation);

        assert_eq!(json["tree"]["children"][0]["children"][1]["name"], "ram");
        assert_eq!(json["tree"]["children"][1]["role"], "cache");
        assert_eq!(json["tree"]["capabilities"]["parallel_calls"], 4);
    }
}
