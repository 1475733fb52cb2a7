//! Which backends go together in a tree: children with the roles of their layers, the root with what is demanded of it.
//!
//! Each function adds what does not fit to the problems, with its place and what to do.

use std::collections::{BTreeMap, BTreeSet};

use storage_plugin_api::{ChildDescription, Role};

use super::config::{BackendConfig, Config, Guarantee};
use super::plan::Planned;
use super::problem::{Problem, Problems};
use crate::suggest::{list, suggest};

/// Every child has a role that its layer knows, as many as it takes, and is fit for it.
pub(crate) fn check_roles(
    name: &str,
    backend: &BackendConfig,
    roles: &[Role],
    children: &[ChildDescription],
    problems: &mut Problems,
) {
    let plugin = &backend.plugin;
    for (role, names) in &backend.children.0 {
        let Some(known) = roles.iter().find(|known| known.name == *role) else {
            let hint = match roles {
                [] => "it stores by itself; remove `children`".to_owned(),
                _ => suggest(role, roles.iter().map(|role| role.name.as_str()), "its roles"),
            };
            let message = format!("`backends.{name}.children`: plugin `{plugin}` has no role `{role}`; {hint}");
            problems.add(name, &["children", role], message);
            continue;
        };
        if names.len() > 1 && !known.many {
            let message = format!(
                "`backends.{name}.children.{role}` takes one backend, not the list {}; name one of them",
                list(names)
            );
            problems.add(name, &["children", role], message);
        }
    }
    for role in roles.iter().filter(|role| role.required) {
        if !children.iter().any(|child| child.role == role.name) {
            let remedy = match backend.children.0.is_empty() {
                true => format!("add `children = {{ {} = \"…\" }}`", role.name),
                false => format!("add `{} = \"…\"` to its `children`", role.name),
            };
            let message = format!(
                "`backends.{name}`: plugin `{plugin}` cannot work without a child as `{}`; {remedy}",
                role.name
            );
            problems.add(name, &["children"], message);
        }
    }
    for child in children {
        if let Some(role) = roles.iter().find(|role| role.name == child.role)
            && let Some(why) = misfit(role, child, roles)
        {
            let message = format!("`backends.{name}.children.{}`: {why}", role.name);
            problems.add(name, &["children", &role.name], message);
        }
    }
}

/// No backend keeps the same states for two layers, or twice for one: what a layer moves away or deletes at the one place
/// would be gone from the other.
pub(crate) fn check_sharing(nodes: &[Planned], problems: &mut Problems) {
    let mut used_by: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        for edge in &node.children {
            // States and blobs do not meet, so a layer may have both kept by one backend.
            let is_for_blobs = node.description.roles.iter().any(|role| role.blobs && role.name == edge.role);
            let layers = used_by.entry(edge.node).or_default();
            if !(is_for_blobs && layers.contains(&&*node.name)) {
                layers.push(&node.name);
            }
        }
    }
    for (node, layers) in used_by.into_iter().filter(|(_, layers)| layers.len() > 1) {
        let name = &nodes[node].name;
        let times = layers.len();
        let layers: Vec<&str> = BTreeSet::from_iter(layers).into_iter().collect();
        let message = format!(
            "`backends.{name}` stands {times} times in the tree (below {}); give each place a backend of its own",
            list(&layers)
        );
        problems.add(name, &[], message);
    }
}

/// Says where a layer that collects blobs stands above a backend that keeps some states from other workers.
pub(crate) fn note_hidden_states(nodes: &mut [Planned]) {
    let hides: Vec<bool> = (0..nodes.len()).map(|node| hides_states(nodes, node)).collect();
    for index in 0..nodes.len() {
        let Planned { children, description, .. } = &nodes[index];
        let is_for_states = |role: &str| !description.roles.iter().any(|known| known.blobs && known.name == role);
        let collects = description.roles.iter().any(|role| role.blobs);
        let hiding = children.iter().find(|edge| collects && is_for_states(&edge.role) && hides[edge.node]);
        if let Some(name) = hiding.map(|edge| nodes[edge.node].name.to_string()) {
            nodes[index].description.notes.push(format!(
                "below it `{name}` may keep evaluations in a fallback, where other workers that collect the same blobs do not see what refers to them; with several workers put the layer with the fallback above this one"
            ));
        }
    }
}

/// Whether something below a backend, or itself, keeps what is stored nowhere else.
fn hides_states(nodes: &[Planned], node: usize) -> bool {
    nodes[node].children.iter().any(|edge| edge.only_copy || hides_states(nodes, edge.node))
}

/// The root forgets nothing, and keeps the guarantee that the configuration demands.
pub(crate) fn check_root(nodes: &[Planned], root: usize, config: &Config, problems: &mut Problems) {
    let Planned { name, description, .. } = &nodes[root];
    let at = |key: &str, message| Problem { path: vec!["storage".to_owned(), key.to_owned()], message };
    if description.capabilities.evicting {
        problems.0.push(at(
            "backend",
            format!(
                "`storage.backend`: `{name}` may forget what it stored (it is evicting), so it can only be the cache of a layer; choose another root or turn evicting off in its options"
            ),
        ));
    }
    if !description.capabilities.states {
        problems.0.push(at(
            "backend",
            format!(
                "`storage.backend`: `{name}` keeps blobs alone, so it can only be below a layer that asks for blobs; choose another root"
            ),
        ));
    }
    if let Some(guarantee) = config.guarantee.filter(|guarantee| !guarantee.is_kept_by(&description.capabilities)) {
        let weak = weak(nodes, root, guarantee);
        problems.0.push(at(
            "guarantee",
            format!(
                "`storage.guarantee = \"durable\"` cannot be kept: a crash may lose what {} holds; use durable backends there or drop the guarantee",
                list(&weak)
            ),
        ));
    }
}

/// The backends because of which one does not keep a guarantee: those without such a one below them.
fn weak(nodes: &[Planned], node: usize, guarantee: Guarantee) -> Vec<&str> {
    let is_weak = |node: usize| {
        let capabilities = &nodes[node].description.capabilities;
        !capabilities.evicting && !guarantee.is_kept_by(capabilities)
    };
    let below = nodes[node].children.iter().filter(|edge| is_weak(edge.node));
    let mut names: Vec<&str> = below.flat_map(|edge| weak(nodes, edge.node, guarantee)).collect();
    if names.is_empty() {
        names.push(&nodes[node].name);
    }
    names
}

/// Why a backend is not fit for a role; none if it is.
fn misfit(role: &Role, child: &ChildDescription, roles: &[Role]) -> Option<String> {
    let name = &child.name;
    if child.capabilities.evicting && !role.evicting {
        let caches: Vec<&str> = roles.iter().filter(|role| role.evicting).map(|role| role.name.as_str()).collect();
        let place = match &caches[..] {
            [] => "name another backend".to_owned(),
            caches => format!("it can only be {}", list(caches)),
        };
        return Some(format!(
            "`{name}` may forget what it stored (it is evicting); {place}, or turn evicting off in its options"
        ));
    }
    if role.evicting && !child.capabilities.evicting {
        return Some(format!(
            "`{name}` never forgets what it stored (it is not evicting), so as a cache it would fill up; turn evicting on in its options or name another backend"
        ));
    }
    if !child.capabilities.states && !role.blobs {
        let places: Vec<&str> = roles.iter().filter(|role| role.blobs).map(|role| role.name.as_str()).collect();
        let place = match &places[..] {
            [] => "this layer has no place for it".to_owned(),
            places => format!("it can only be {}", list(places)),
        };
        return Some(format!("`{name}` keeps blobs alone; {place}, or name a backend that keeps states"));
    }
    if role.blobs && !child.capabilities.blobs {
        return Some(format!("`{name}` keeps no blobs; name a backend that does"));
    }
    if role.durable && !child.capabilities.durable {
        return Some(format!("`{name}` is volatile, and this role takes a durable backend only; name another backend"));
    }
    None
}
