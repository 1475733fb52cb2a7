//! The five variables of the user's description, laid over the tree: `REDIS_URL`, `DATABASE_URL`, `FILE_STORAGE_PATH`,
//! `STORAGE_BACKEND`, `ENABLE_CACHING`. They work alone and over a file; set to nothing they count as not set.
//!
//! Here also the root of the storage tree is chosen where the file does not name one.

use std::collections::{BTreeMap, BTreeSet};

use super::error::Problem;
use super::tree::{Node, Origin, Table, Value};
use crate::suggest::{list, suggest};

const REDIS_URL: &str = "REDIS_URL";
const DATABASE_URL: &str = "DATABASE_URL";
const FILE_STORAGE_PATH: &str = "FILE_STORAGE_PATH";
const STORAGE_BACKEND: &str = "STORAGE_BACKEND";
const ENABLE_CACHING: &str = "ENABLE_CACHING";

/// Where the built-in `file` backend stores unless told otherwise.
const DEFAULT_FILE_PATH: &str = "./data";

/// The environment variables that a configuration is read with.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process; one that is not UTF-8 counts as not set.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// The variable's value, also an empty one.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The variable's value if it is set to something.
    fn get(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !value.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Lays the variables over the tree and makes sure that `storage.backend` names a root.
///
/// A variable that the file itself refers to (`mentioned`) has its place there and is not also given to a backend.
/// Answers what the operator should know of variables that are of no use.
pub(crate) fn apply(
    tree: &mut Table,
    environment: &Environment,
    mentioned: &BTreeSet<String>,
) -> Result<Vec<String>, Problem> {
    let mut notes = Vec::new();
    if let Some(url) = environment.get(REDIS_URL) {
        tree.put(&["redis", "url"], Node::text(url, Origin::Environment(REDIS_URL)));
    }
    let root = choose_root(tree, environment)?;
    let given = [
        (DATABASE_URL, "postgres", "url", environment.get(DATABASE_URL)),
        (FILE_STORAGE_PATH, "file", "path", environment.get(FILE_STORAGE_PATH)),
    ];
    for (variable, plugin, option, value) in given {
        if let Some(value) = value.filter(|_| !mentioned.contains(variable)) {
            let given = give_option(tree, plugin, option, &Node::text(value, Origin::Environment(variable)))?;
            if !given {
                notes.push(format!("`{variable}` is set, and no backend has the plugin `{plugin}` that it is for"));
            }
        }
    }
    if let Some(root) = root
        && flag(environment)?
    {
        wrap_in_cache(tree, &root);
    }
    Ok(notes)
}

/// Writes `storage.backend` where the environment or nobody names it; adds the built-in backend that this may need.
///
/// None if what is there is no name; its type is then reported with all others.
fn choose_root(tree: &mut Table, environment: &Environment) -> Result<Option<String>, Problem> {
    let named = tree.find(&["storage", "backend"]);
    let from_command_line = named.is_some_and(|node| matches!(node.origin, Origin::CommandLine(_)));
    if let Some(choice) = environment.get(STORAGE_BACKEND).filter(|_| !from_command_line) {
        let origin = Origin::Environment(STORAGE_BACKEND);
        let root = match choice {
            _ if tree.find(&["backends", choice]).is_some() => choice.to_owned(),
            "database" | "postgres" => built_in(tree, environment, "postgres", &origin)?,
            "file" | "memory" => built_in(tree, environment, choice, &origin)?,
            _ => return Err(unknown_backend(tree, choice, &origin)),
        };
        tree.put(&["storage", "backend"], Node::text(&root, origin));
        return Ok(Some(root));
    }
    if let Some(named) = named {
        return Ok(named.as_text().map(str::to_owned));
    }
    let configured = backend_names(tree);
    if !configured.is_empty() {
        let message = format!(
            "`storage.backend` is missing; name the backend that everything goes to, one of {}",
            list(&configured)
        );
        let backends = tree.0.iter().find(|entry| entry.key == "backends");
        let place = backends.map_or(Origin::Default, |entry| entry.origin.clone());
        return Err(Problem::new(&place, "storage.backend", message));
    }
    let (plugin, origin) = match environment.get(DATABASE_URL) {
        Some(_) => ("postgres", Origin::Environment(DATABASE_URL)),
        None => ("file", Origin::Default),
    };
    let root = built_in(tree, environment, plugin, &origin)?;
    tree.put(&["storage", "backend"], Node::text(&root, origin));
    Ok(Some(root))
}

/// The name of the one backend of a plugin; it is added if there is none.
fn built_in(tree: &mut Table, environment: &Environment, plugin: &str, origin: &Origin) -> Result<String, Problem> {
    let existing = backends_of(tree, plugin);
    match existing.as_slice() {
        [only] => return Ok(only.clone()),
        [] => {}
        [_, _, ..] => {
            let message = format!(
                "`{plugin}` could be any of the backends {}; give the name of the one that is meant",
                list(&existing)
            );
            return Err(Problem::new(origin, "storage.backend", message));
        }
    }
    if plugin == "postgres" && environment.get(DATABASE_URL).is_none() {
        let message = format!("`{plugin}` needs `{DATABASE_URL}`, which is not set; set it to the URL of the database");
        return Err(Problem::new(origin, "storage.backend", message));
    }
    tree.put(&["backends", plugin, "plugin"], Node::text(plugin, origin.clone()));
    if plugin == "file" {
        tree.put(&["backends", plugin, "options", "path"], Node::text(DEFAULT_FILE_PATH, Origin::Default));
    }
    Ok(plugin.to_owned())
}

/// Sets an option of the one backend of a plugin; answers false where there is none.
fn give_option(tree: &mut Table, plugin: &str, option: &str, value: &Node) -> Result<bool, Problem> {
    let backends = backends_of(tree, plugin);
    match backends.as_slice() {
        [] => Ok(false),
        [only] => {
            tree.put(&["backends", only, "options", option], value.clone());
            Ok(true)
        }
        [_, _, ..] => {
            let Origin::Environment(variable) = value.origin else { return Ok(false) };
            let message = format!(
                "could be meant for any of the backends {}; write `{option} = \"${{{variable}}}\"` in the options of the right one, or unset it",
                list(&backends)
            );
            Err(Problem::new(&value.origin, "", message))
        }
    }
}

fn flag(environment: &Environment) -> Result<bool, Problem> {
    let Some(value) = environment.get(ENABLE_CACHING) else { return Ok(false) };
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => {
            let message = format!("must be `true` or `false`; found `{value}`");
            Err(Problem::new(&Origin::Environment(ENABLE_CACHING), "", message))
        }
    }
}

/// Puts a cache before the root, unless the root has one already.
fn wrap_in_cache(tree: &mut Table, root: &str) {
    let is_layer = tree.find(&["backends", root, "plugin"]).and_then(Node::as_text) == Some("cached-composite");
    if is_layer && tree.find(&["backends", root, "children", "cache"]).is_some() {
        return;
    }
    let origin = Origin::Environment(ENABLE_CACHING);
    let (layer, cache) = (free_name(tree, "cached"), free_name(tree, "cache"));
    let text = |text: &str| Node::text(text, origin.clone());
    tree.put(&["backends", &cache, "plugin"], text("memory"));
    let evict = Node { value: Value::Boolean(true), origin: origin.clone() };
    tree.put(&["backends", &cache, "options", "evict"], evict);
    if is_layer {
        tree.put(&["backends", root, "children", "cache"], text(&cache));
        return;
    }
    tree.put(&["backends", &layer, "plugin"], text("cached-composite"));
    tree.put(&["backends", &layer, "children", "primary"], text(root));
    tree.put(&["backends", &layer, "children", "cache"], text(&cache));
    // The old root may have been given with `--set`, which `put` does not overwrite; it lives on as the primary.
    tree.force(&["storage", "backend"], text(&layer));
}

fn free_name(tree: &Table, wanted: &str) -> String {
    let taken = |name: &str| tree.find(&["backends", name]).is_some();
    let candidates = std::iter::once(wanted.to_owned()).chain((2..).map(|number| format!("{wanted}-{number}")));
    candidates.into_iter().find(|name| !taken(name)).unwrap_or_else(|| wanted.to_owned())
}

fn backend_names(tree: &Table) -> Vec<String> {
    let backends = tree.find(&["backends"]).and_then(Node::as_table);
    backends.map(|table| table.0.iter().map(|entry| entry.key.clone()).collect()).unwrap_or_default()
}

fn backends_of(tree: &Table, plugin: &str) -> Vec<String> {
    let is_of = |name: &String| tree.find(&["backends", name, "plugin"]).and_then(Node::as_text) == Some(plugin);
    backend_names(tree).into_iter().filter(is_of).collect()
}

fn unknown_backend(tree: &Table, choice: &str, origin: &Origin) -> Problem {
    let mut known = backend_names(tree);
    for built_in in ["database", "file", "memory"] {
        if !known.iter().any(|name| name == built_in) {
            known.push(built_in.to_owned());
        }
    }
    let hint = suggest(choice, known.iter().map(String::as_str), "the possible ones");
    Problem::new(origin, "storage.backend", format!("there is no backend `{choice}`; {hint}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse::{self, Parsed};

    fn applied(text: &str, variables: &[(&str, &str)]) -> Result<Table, String> {
        let environment: Environment = variables.iter().copied().collect();
        let Parsed { mut tree, variables } =
            parse::file(text, Path::new("x.toml"), &environment).expect("a valid file");
        apply(&mut tree, &environment, &variables).map_err(|problem| problem.to_string())?;
        Ok(tree)
    }

    fn text<'a>(tree: &'a Table, path: &[&str]) -> Option<&'a str> {
        tree.find(path).and_then(Node::as_text)
    }

    #[test]
    fn without_anything_the_root_is_files() {
        let tree = applied("", &[("DATABASE_URL", "")]).expect("a root");

        assert_eq!(text(&tree, &["storage", "backend"]), Some("file"));
        assert_eq!(text(&tree, &["backends", "file", "options", "path"]), Some("./data"));
        assert_eq!(tree.find(&["storage", "backend"]).map(|node| node.origin.clone()), Some(Origin::Default));
    }

    #[test]
    fn a_database_url_makes_postgres_the_root() {
        let tree = applied("", &[("DATABASE_URL", "postgres://db"), ("FILE_STORAGE_PATH", "/x")]).expect("a root");

        assert_eq!(text(&tree, &["storage", "backend"]), Some("postgres"));
        assert_eq!(text(&tree, &["backends", "postgres", "options", "url"]), Some("postgres://db"));
        assert_eq!(tree.find(&["backends", "file"]), None);
        // Nobody named the root; that variable did.
        let origin = tree.find(&["storage", "backend"]).map(|node| node.origin.clone());
        assert_eq!(origin, Some(Origin::Environment("DATABASE_URL")));
    }

    #[test]
    fn storage_backend_names_a_plugin_or_a_configured_backend() {
        let file = "[storage]\nbackend = 'a'\n[backends.a]\nplugin = 'memory'\n[backends.disk]\nplugin = 'file'";
        let root = |choice, url| {
            let tree = applied(file, &[("STORAGE_BACKEND", choice), ("DATABASE_URL", url)])?;
            Ok::<_, String>(text(&tree, &["storage", "backend"]).map(str::to_owned))
        };

        assert_eq!(root("", ""), Ok(Some("a".to_owned())));
        assert_eq!(root("disk", ""), Ok(Some("disk".to_owned())));
        assert_eq!(root("file", ""), Ok(Some("disk".to_owned())));
        assert_eq!(root("memory", ""), Ok(Some("a".to_owned())));
        assert_eq!(root("database", "postgres://db"), Ok(Some("postgres".to_owned())));
        assert!(root("database", "").is_err_and(|error| error.contains("`DATABASE_URL`, which is not set")));
        assert!(root("dsk", "").is_err_and(|error| error.contains("did you mean `disk`?")));
    }

    #[test]
    fn a_variable_goes_to_the_one_backend_it_can_be_meant_for() {
        let one = "[storage]\nbackend = 'a'\n[backends.a]\nplugin = 'file'\noptions.path = 'p'";
        let two = format!("{one}\n[backends.b]\nplugin = 'file'\noptions.path = 'q'");
        let explicit = two.replace("'q'", "'${FILE_STORAGE_PATH}/q'");
        let variables = [("FILE_STORAGE_PATH", "/env")];

        let tree = applied(one, &variables).expect("one backend");
        assert_eq!(text(&tree, &["backends", "a", "options", "path"]), Some("/env"));
        assert!(applied(&two, &variables).is_err_and(|error| error.contains("any of the backends `a` and `b`")));
        let tree = applied(&explicit, &variables).expect("the file says where it goes");
        assert_eq!(text(&tree, &["backends", "a", "options", "path"]), Some("p"));
        assert_eq!(text(&tree, &["backends", "b", "options", "path"]), Some("/env/q"));
    }

    #[test]
    fn enable_caching_wraps_the_root_once() {
        let tree =
            applied("[backends.cached]\nplugin = 'file'", &[("ENABLE_CACHING", "true"), ("STORAGE_BACKEND", "cached")])
                .expect("a root");

        assert_eq!(text(&tree, &["storage", "backend"]), Some("cached-2"));
        assert_eq!(text(&tree, &["backends", "cached-2", "children", "primary"]), Some("cached"));
        assert_eq!(text(&tree, &["backends", "cache", "plugin"]), Some("memory"));

        let cached = "[storage]\nbackend = 'a'\n[backends.a]\nplugin = 'cached-composite'\nchildren.cache = 'hot'";
        let tree = applied(cached, &[("ENABLE_CACHING", "1")]).expect("a root");
        assert_eq!(text(&tree, &["storage", "backend"]), Some("a"));
        assert_eq!(text(&tree, &["backends", "a", "children", "cache"]), Some("hot"));
        // One with a fallback and without a cache gets one.
        let tree = applied(&cached.replace("cache = 'hot'", "primary = 'b'"), &[("ENABLE_CACHING", "1")]);
        let tree = tree.expect("a root");
        assert_eq!(text(&tree, &["storage", "backend"]), Some("a"));
        assert_eq!(text(&tree, &["backends", "a", "children", "cache"]), Some("cache"));
        assert!(applied("", &[("ENABLE_CACHING", "maybe")]).is_err());
        assert_eq!(
            text(&applied("", &[("ENABLE_CACHING", "off")]).expect("a root"), &["storage", "backend"]),
            Some("file")
        );
    }

    #[test]
    fn a_file_with_backends_must_name_the_root() {
        let error = applied("[backends.a]\nplugin = 'file'", &[]).expect_err("no root");

        assert_eq!(
            error,
            "x.toml:1: `storage.backend` is missing; name the backend that everything goes to, one of `a`"
        );
    }
}
