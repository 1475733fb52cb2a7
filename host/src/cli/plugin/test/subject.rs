//! The backend under test: places to open it at, over the real boundary.
//!
//! A plugin's file is opened bare, a backend of a configuration with its children and guards, as the worker does it.
//! `{dir}` in text of the options stands for the directory of a place, which is there and empty at first, also when the
//! options are only checked or are those of a far side that is away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use storage_plugin_api::conformance::{Place, Processes, Subject};
use storage_plugin_api::{
    Answer, Backend, BlobPage, Call, Counts, Delete, Deleted, Description, Error, Fields, Found, Health, Item, Page,
    Prune, Pruned, Query, Result,
};

use super::processes::Children;
use crate::plugin::Loader;
use crate::plugin::library::Library;
use crate::storage::{Backends, Config, OpenError, Plan, Tree};
use crate::telemetry::metrics::Metrics;

/// The name of an instance whose configuration gives it none.
const INSTANCE: &str = "subject";
/// What stands for the directory of a place.
const DIRECTORY: &str = "{dir}";
/// What stands for the name of a place.
const PLACE: &str = "{place}";
/// How long a backend may take to open.
pub(super) const OPEN_BUDGET: Duration = Duration::from_secs(10);
/// How long a tree may take to close.
const CLOSE_BUDGET: Duration = Duration::from_secs(10);

/// What is opened.
#[derive(Clone)]
pub(super) enum Origin {
    /// An instance of a plugin with these options.
    File { library: Arc<Library>, options: Value },
    /// A backend of a configuration, which is its root.
    Tree { loader: Arc<Loader>, config: Box<Config>, backends: Backends },
}

/// The backend under test.
pub(super) struct Tested {
    pub(super) origin: Origin,
    /// Options of which somebody says that the far side is away.
    pub(super) away: Option<Value>,
    /// Where directories of places are made.
    pub(super) work: PathBuf,
    pub(super) children: Children,
    pub(super) description: Description,
    /// How many times each of several processes goes through all ids.
    pub(super) rounds: u64,
}

impl Origin {
    /// What the backend says of itself at some directory.
    pub(super) fn describe(&self, directory: &Path) -> Result<Description> {
        match self.at(directory) {
            Self::File { library, options } => library.check(INSTANCE, &options, &[]),
            Self::Tree { loader, config, backends } => {
                let plan = Plan::of(&config, &backends, &*loader).map_err(Error::configuration)?;
                // What the root asks of its children says that it is a layer.
                let Description { capabilities, roles, .. } = plan.root().description.clone();
                Ok(Description { capabilities, roles, ..Description::default() })
            }
        }
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Backend>> {
        match self.at(directory) {
            Self::File { library, options } => {
                let durability = self.describe(directory)?.capabilities.durability();
                library.open(INSTANCE, &options, Vec::new(), durability, OPEN_BUDGET, false)
            }
            Self::Tree { loader, config, backends } => {
                let plan = Plan::of(&config, &backends, &*loader).map_err(Error::configuration)?;
                let give_up = Instant::now() + OPEN_BUDGET;
                let opened = plan.open(&Metrics::new(), None, &|| Instant::now() > give_up);
                let tree = opened.map_err(|error| match error {
                    OpenError::Configuration { error, .. } | OpenError::Unavailable { error, .. } => error,
                    OpenError::Stopped => Error::unavailable("a backend of the tree stayed unavailable"),
                    other @ OpenError::Unhealthy { .. } => Error::unavailable(other),
                    other @ (OpenError::Defect { .. }
                    | OpenError::Late { .. }
                    | OpenError::StillHangs { .. }
                    | OpenError::Thread { .. }) => Error::internal(other),
                })?;
                Ok(Arc::new(OpenedTree { tree, is_closed: AtomicBool::new(false) }))
            }
        }
    }

    /// The same with the directory of a place in its options.
    fn at(&self, directory: &Path) -> Self {
        let mut copy = self.clone();
        copy.each_options(&mut |options| fill_in(options, directory));
        copy
    }

    /// Whether its options name the directory of a place.
    pub(super) fn has_directory(&self) -> bool {
        self.names(DIRECTORY)
    }

    /// Whether nobody else stores in its places.
    fn has_own_place(&self) -> bool {
        self.names(DIRECTORY) || self.names(PLACE)
    }

    fn names(&self, placeholder: &str) -> bool {
        let mut found = false;
        self.clone().each_options(&mut |options| found |= options.to_string().contains(placeholder));
        found
    }

    fn each_options(&mut self, change: &mut dyn FnMut(&mut Value)) {
        match self {
            Self::File { options, .. } => change(options),
            Self::Tree { backends, .. } => backends.values_mut().for_each(|backend| change(&mut backend.options)),
        }
    }

    /// The options of what is opened itself, not of its children.
    fn own_options(&mut self) -> Option<&mut Value> {
        match self {
            Self::File { options, .. } => Some(options),
            Self::Tree { config, backends, .. } => {
                backends.get_mut(&config.backend).map(|backend| &mut backend.options)
            }
        }
    }
}

fn fill_in(options: &mut Value, directory: &Path) {
    match options {
        Value::String(text) => {
            *text = text.replace(DIRECTORY, &directory.to_string_lossy()).replace(PLACE, &place_name(directory));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| fill_in(value, directory)),
        Value::Object(map) => map.values_mut().for_each(|value| fill_in(value, directory)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What tells the place of a directory from all others, those of earlier runs too: for what is not kept in files.
fn place_name(directory: &Path) -> String {
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (run, own) = (name(directory.parent()), name(Some(directory)).replace('-', "_"));
    format!("p{}_{own}", run.rsplit('-').next().unwrap_or_default())
}

impl Subject for Tested {
    fn description(&self) -> Description {
        self.description.clone()
    }

    fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(self.place_at(new_directory(&self.work)?, true)))
    }

    fn away(&self) -> Option<Result<Box<dyn Place>>> {
        let mut origin = self.origin.clone();
        *origin.own_options()? = self.away.clone()?;
        let place = |directory| {
            let mut place = self.place_at(directory, true);
            place.origin = origin;
            Box::new(place) as Box<dyn Place>
        };
        Some(new_directory(&self.work).map(place))
    }

    fn has_directory(&self) -> bool {
        self.origin.has_directory()
    }

    fn has_others(&self) -> bool {
        // What is volatile and of one process has nothing to share a place by.
        let has_store = self.description.capabilities.durable || !self.description.capabilities.exclusive;
        has_store && !self.origin.has_own_place()
    }

    fn rounds(&self) -> u64 {
        self.rounds
    }
}

/// A directory that nobody else has, below another.
pub(super) fn new_directory(below: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let directory = below.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&directory)
        .map_err(|error| Error::unavailable(format_args!("cannot make `{}`: {error}", directory.display())))?;
    Ok(directory)
}

impl Tested {
    pub(super) fn place_at(&self, directory: PathBuf, is_own: bool) -> TestPlace {
        TestPlace { origin: self.origin.clone(), directory, is_own, children: self.children.clone() }
    }
}

/// A directory, and what is opened there.
pub(super) struct TestPlace {
    origin: Origin,
    directory: PathBuf,
    /// It was made for this place and goes with it.
    is_own: bool,
    children: Children,
}

impl TestPlace {
    pub(super) fn directory_path(&self) -> &Path {
        &self.directory
    }

    pub(super) fn children(&self) -> &Children {
        &self.children
    }
}

impl Place for TestPlace {
    fn open(&self) -> Result<Arc<dyn Backend>> {
        self.origin.open(&self.directory)
    }

    fn check(&self, change: &dyn Fn(&mut Value)) -> Option<Result<Description>> {
        let mut origin = self.origin.clone();
        change(origin.own_options()?);
        Some(origin.describe(&self.directory))
    }

    fn directory(&self) -> Option<&Path> {
        self.origin.has_directory().then_some(&*self.directory)
    }

    fn processes(&self) -> Option<&dyn Processes> {
        Some(self)
    }
}

impl Drop for TestPlace {
    fn drop(&mut self) {
        if self.is_own {
            // What an instance that is still open writes there goes with the directory above, at the end.
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// A whole tree as one backend, which is closed with it.
struct OpenedTree {
    tree: Tree,
    is_closed: AtomicBool,
}

impl Backend for OpenedTree {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.tree.root().merge(call, batch)
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.tree.root().get(call, ids, fields)
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.tree.root().list(call, query)
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.tree.root().counts(call)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.tree.root().delete(call, items)
    }

    fn health(&self) -> Health {
        self.tree.root().health()
    }

    fn begin(&self, call: &Call) -> Result<()> {
        // All of it has begun already.
        self.tree.root().begin(call)
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.tree.root().flush(call)
    }

    fn close(&self, _: &Call) -> Result<()> {
        if self.is_closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        match self.tree.close(CLOSE_BUDGET).into_iter().next() {
            Some(failure) => Err(Error::internal(format_args!("backend `{}`: {}", failure.instance, failure.reason))),
            None => Ok(()),
        }
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.tree.root().prune(call, prune)
    }

    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.tree.root().put_blob(call, key, bytes)
    }

    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.tree.root().get_blob(call, key)
    }

    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.tree.root().scan_blobs(call, after, limit)
    }

    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.tree.root().delete_blob(call, key, untouched_since)
    }
}
