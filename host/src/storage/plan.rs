//! From the configuration to a tree that can be opened: loads and asks every plugin, and finds everything that is wrong.
//!
//! Nothing is opened here, so `check` and `explain` touch no store. `fit.rs` says which backends go together, `open.rs`
//! what happens next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use storage_plugin_api::{Capabilities, ChildDescription, Description, Error};

use super::config::{self, BackendConfig, Backends, BreakerConfig, Config};
use super::deadline::{Missed, within};
use super::fit;
use super::inside::Inside;
use super::plugin::{About, Plugin, PluginSource};
use super::problem::{Problem, Problems};
use crate::suggest::suggest;

/// A tree of backends that fit together. Children stand before their parents, the root last.
#[derive(Debug)]
pub struct Plan {
    pub(crate) nodes: Vec<Planned>,
    pub(crate) config: Config,
    /// Only calls that read will follow.
    pub(crate) read_only: bool,
}

/// One backend of a plan.
pub(crate) struct Planned {
    pub(crate) name: Arc<str>,
    pub(crate) plugin: Arc<dyn Plugin>,
    pub(crate) about: About,
    pub(crate) options: Value,
    pub(crate) children: Vec<Edge>,
    pub(crate) description: Description,
}

/// What two instances have in common that may stand for each other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Identity {
    plugin: (String, String, Option<String>),
    options: Value,
    /// Roles and names.
    children: Vec<(String, Arc<str>)>,
    call_timeout: Duration,
    breaker: BreakerConfig,
}

impl Identity {
    /// The same plugin, built from other sources or in another way.
    pub(crate) fn is_other_build_of(&self, other: &Self) -> bool {
        self.plugin.0 == other.plugin.0 && self.plugin != other.plugin
    }

    pub(crate) fn options(&self) -> &Value {
        &self.options
    }

    /// As far as can be told without knowing the plugin: what the one has stored the other finds.
    pub(crate) fn is_same_store(&self, other: &Self) -> bool {
        self.plugin.0 == other.plugin.0 && self.options == other.options
    }
}

/// The way from a layer to a backend below it.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) role: String,
    /// What the child holds may be stored nowhere else.
    pub(crate) only_copy: bool,
    /// Where the child stands among the nodes.
    pub(crate) node: usize,
}

impl Plan {
    /// Makes sense of a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn of(config: &Config, backends: &Backends, plugins: &dyn PluginSource) -> Result<Self, Problems> {
        let mut planner = Planner::new(config, backends, plugins);
        if let Some(root) = planner.visit(&config.backend, &mut Vec::new()) {
            fit::check_sharing(&planner.nodes, &mut planner.problems);
            fit::note_hidden_states(&mut planner.nodes);
            fit::check_root(&planner.nodes, root, config, &mut planner.problems);
        }
        planner.end()
    }

    /// Makes sense of some backends of a configuration and what is below them, for a command that opens them by itself.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn of_some(
        config: &Config,
        backends: &Backends,
        plugins: &dyn PluginSource,
        names: &[&str],
    ) -> Result<Self, Problems> {
        let mut planner = Planner::new(config, backends, plugins);
        for name in names {
            if !backends.contains_key(*name) {
                let known = suggest(name, backends.keys().map(String::as_str), "there are");
                planner.problems.add(name, &[], format!("there is no backend `{name}`; {known}"));
            }
            planner.visit(name, &mut Vec::new());
        }
        fit::check_sharing(&planner.nodes, &mut planner.problems);
        planner.end()
    }

    /// The same plan for a command that only reads: nothing is made that was not there.
    #[must_use]
    pub fn to_read(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// What the whole tree promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.root().description.capabilities
    }

    /// What the instance of a node is recognised by.
    pub(crate) fn identity(&self, node: usize) -> Identity {
        let Planned { about, options, children, .. } = &self.nodes[node];
        let child = |edge: &Edge| (edge.role.clone(), Arc::clone(&self.nodes[edge.node].name));
        Identity {
            plugin: (about.name.clone(), about.version.clone(), about.sha256.clone()),
            options: options.clone(),
            children: children.iter().map(child).collect(),
            call_timeout: self.config.call_timeout,
            breaker: self.config.breaker.clone(),
        }
    }

    pub(crate) fn root(&self) -> &Planned {
        self.nodes.last().expect("a plan has at least its root")
    }
}

impl std::fmt::Debug for Planned {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Planned").field("name", &self.name).field("about", &self.about).finish_non_exhaustive()
    }
}

struct Planner<'a> {
    config: &'a Config,
    backends: &'a Backends,
    plugins: &'a dyn PluginSource,
    nodes: Vec<Planned>,
    /// Where each visited backend stands among the nodes; none for one with problems.
    done: BTreeMap<String, Option<usize>>,
    problems: Problems,
}

impl<'a> Planner<'a> {
    fn new(config: &'a Config, backends: &'a Backends, plugins: &'a dyn PluginSource) -> Self {
        let problems = config::problems(config, backends);
        let problems = problems.into_iter().map(|(path, message)| Problem { path, message }).collect();
        let (nodes, done) = (Vec::new(), BTreeMap::new());
        Self { config, backends, plugins, nodes, done, problems: Problems(problems) }
    }

    fn end(self) -> Result<Plan, Problems> {
        if self.problems.0.is_empty() {
            return Ok(Plan { nodes: self.nodes, config: self.config.clone(), read_only: false });
        }
        Err(self.problems)
    }

    /// Plans a backend and all below it. None if there are problems with it, which are noted then.
    fn visit(&mut self, name: &str, above: &mut Vec<String>) -> Option<usize> {
        // Unknown names and circles are found by `config::problems`.
        let backend = self.backends.get(name)?;
        if above.iter().any(|seen| seen == name) {
            return None;
        }
        if let Some(done) = self.done.get(name) {
            return *done;
        }
        above.push(name.to_owned());
        let children: Vec<(&str, Option<usize>)> =
            backend.children.iter().map(|(role, child)| (role, self.visit(child, above))).collect();
        above.pop();
        let planned = self.plan(name, backend, &children);
        let index = planned.map(|planned| {
            self.nodes.push(planned);
            self.nodes.len() - 1
        });
        self.done.insert(name.to_owned(), index);
        index
    }

    fn plan(&mut self, name: &str, backend: &BackendConfig, children: &[(&str, Option<usize>)]) -> Option<Planned> {
        let plugin = match self.plugins.load(&backend.plugin, backend.sha256.as_deref()) {
            Ok(plugin) => plugin,
            Err(error) => {
                self.problems.add(name, &["plugin"], format!("`backends.{name}`: {error}"));
                return None;
            }
        };
        let edge = |(role, node): &(&str, Option<usize>)| {
            Some(Edge { role: (*role).to_owned(), only_copy: false, node: (*node)? })
        };
        // A layer is asked only about children that are known; the problems with the others are noted already.
        let mut children = children.iter().map(edge).collect::<Option<Vec<_>>>()?;
        let told: Vec<_> = children.iter().map(|edge| self.child_description(edge)).collect();
        let description = match self.ask(name, &plugin, &backend.options, told.clone()) {
            Ok(description) => description,
            Err(message) => {
                self.problems.add(name, &["plugin"], message);
                return None;
            }
        };
        let before = self.problems.0.len();
        for problem in &description.problems {
            self.problems.add(name, &["options"], format!("`backends.{name}.options`: {problem}"));
        }
        fit::check_roles(name, backend, &description.roles, &told, &mut self.problems);
        for edge in &mut children {
            edge.only_copy = description.roles.iter().any(|role| role.name == edge.role && role.only_copy);
        }
        let about = plugin.about();
        let options = backend.options.clone();
        let planned = Planned { name: name.into(), plugin, about, options, children, description };
        (self.problems.0.len() == before).then_some(planned)
    }

    fn child_description(&self, edge: &Edge) -> ChildDescription {
        let child = &self.nodes[edge.node];
        ChildDescription {
            role: edge.role.clone(),
            name: child.name.to_string(),
            capabilities: child.description.capabilities.clone(),
        }
    }

    /// Asks the plugin what an instance would be, without trusting it to come back.
    fn ask(
        &self,
        name: &str,
        plugin: &Arc<dyn Plugin>,
        options: &Value,
        children: Vec<ChildDescription>,
    ) -> Result<Description, String> {
        let about = plugin.about();
        let inside = Inside::to_check(plugin);
        let hangs = inside.is_none();
        let work = {
            let (plugin, name, options) = (Arc::clone(plugin), name.to_owned(), options.clone());
            move || {
                let _inside = inside;
                plugin.check(&name, &options, &children)
            }
        };
        let plugin = format!("plugin `{}` {}", about.name, about.version);
        if hangs {
            return Err(format!(
                "`backends.{name}`: {plugin} has not answered yet what it was asked about its options before; restart the worker, and report this to the plugin's author"
            ));
        }
        let limit = self.config.open_timeout;
        match within("check", limit, &|| false, work, drop::<Result<Description, Error>>) {
            Ok(Ok(description)) => Ok(description),
            Ok(Err(error)) => Err(format!("`backends.{name}`: {plugin} refuses these options: {error}")),
            Err(Missed::Late) => Err(format!(
                "`backends.{name}`: {plugin} did not say within {limit:?} what it makes of its options; report this to its author"
            )),
            Err(Missed::Panicked(message)) => Err(format!(
                "`backends.{name}`: {plugin} panicked when asked about its options: {message}; report this to its author"
            )),
            Err(Missed::NoThread(error)) => {
                Err(format!("`backends.{name}`: cannot start a thread to ask {plugin}: {error}"))
            }
            Err(Missed::Stopped) => Err(format!("`backends.{name}`: {plugin} was not asked to the end")),
        }
    }
}

#[cfg(test)]
mod tests;
