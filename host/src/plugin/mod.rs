//! Finds, checks and loads plugins: from a name in the configuration to a library that can open backends.
//!
//! In steps of trust, each relying only on what the one before established: the file is found (`find.rs`), may be
//! trusted (`trust.rs`), says what it is without being run (`manifest.rs`), is a build that the operator wants
//! (`lock.rs`), is copied to where nobody else writes (`private_copy.rs`), and its layout is compared with ours
//! (`load.rs`), or in C its descriptor is read (`c_load.rs`).
//! `library.rs` then makes and opens instances, `host_api.rs` is what plugins may call. Nothing is ever unloaded.
//! A plugin in C becomes a document store by `c_store.rs`, `c_call.rs` and `c_options.rs`. The loaders and these are the
//! only unsafe code of the host.

mod c_call;
mod c_load;
mod c_options;
mod c_store;
pub mod find;
pub mod host_api;
pub mod library;
pub mod load;
pub mod lock;
pub mod manifest;
mod metrics;
pub mod private_copy;
mod source;
pub mod trust;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use storage_plugin_api::manifest::ABI_C;
use thiserror::Error;

use host_api::PluginMetrics;
use library::{Code, Library};
use lock::Lock;
use manifest::{Inspected, ManifestError};

/// Loads plugins for one worker.
#[derive(Debug)]
pub struct Loader {
    directories: Vec<PathBuf>,
    copies: private_copy::Copies,
    metrics: Arc<dyn PluginMetrics>,
    /// The builds that may run; any if there is none.
    lock: Option<Lock>,
    /// By content hash: a library that is loaded already is used again.
    loaded: Arc<Mutex<HashMap<String, Arc<Library>>>>,
}

/// Why a plugin was not loaded. The text says what to do.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No file of that name.
    #[error("{0}")]
    NotFound(#[from] find::NotFound),
    /// Somebody else could change the file.
    #[error("{0}")]
    Untrusted(#[from] trust::Untrusted),
    /// The file does not say that it is a plugin that we can run.
    #[error("cannot load plugin `{plugin}` from `{path}`: {source}")]
    Manifest { plugin: String, path: PathBuf, source: ManifestError },
    /// Its content is not what the configuration demands.
    #[error(
        "cannot load plugin `{plugin}` from `{path}`: its SHA-256 is {found}, the configuration demands {expected}; \
         restore the file, or change `sha256` if the new build is wanted"
    )]
    Pinned { plugin: String, path: PathBuf, found: String, expected: String },
    /// Its content is not what the lock file demands.
    #[error(
        "cannot load plugin `{plugin}` from `{path}`: its SHA-256 is {found}, the lock file `{lock}` demands {expected}; \
         restore the file, or run `storage-worker plugin lock` if the new build is wanted"
    )]
    Locked { plugin: String, path: PathBuf, found: String, expected: String, lock: PathBuf },
    /// There is a lock file, and it is not in it.
    #[error(
        "cannot load plugin `{plugin}` from `{path}`: its SHA-256 is {found}, and it is not in the lock file `{lock}`; \
         run `storage-worker plugin lock` if it is wanted"
    )]
    NotLocked { plugin: String, path: PathBuf, found: String, lock: PathBuf },
    /// The file could not be loaded, or its layout is not ours.
    #[error("cannot load plugin `{plugin}` from `{path}`: {source}")]
    Load { plugin: String, path: PathBuf, source: load::Refused },
}

impl Loader {
    /// A loader that looks in these directories, after that of the executable.
    #[must_use]
    pub fn new(directories: &[PathBuf], cache: Option<&Path>, metrics: Arc<dyn PluginMetrics>) -> Self {
        Self {
            directories: find::directories(directories),
            copies: private_copy::Copies::new(cache),
            metrics,
            lock: None,
            loaded: Arc::default(),
        }
    }

    /// A loader that looks in other directories and knows what this one has loaded.
    #[must_use]
    pub fn looking_in(&self, directories: &[PathBuf], cache: Option<&Path>) -> Self {
        Self { loaded: Arc::clone(&self.loaded), ..Self::new(directories, cache, Arc::clone(&self.metrics)) }
    }

    /// Only the builds of a lock file, if there is one.
    #[must_use]
    pub fn with_lock(self, lock: Option<Lock>) -> Self {
        Self { lock, ..self }
    }

    /// The directories that are searched, in order.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Loads a plugin by its name or by a path, or gives the one that is loaded already.
    ///
    /// # Errors
    /// When there is none, it may not be trusted, or it was made for another worker.
    pub fn load(&self, plugin: &str, pin: Option<&str>) -> Result<Arc<Library>, LoadError> {
        let path = find::resolve(plugin, &self.directories)?;
        let inspected = inspected(plugin, &path, pin)?;
        if let Some(lock) = &self.lock {
            check_lock(lock, plugin, &path, &inspected, pin.is_some())?;
        }
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = loaded.get(&inspected.sha256) {
            return Ok(Arc::clone(library));
        }
        let library = self.load_new(&path, inspected).map_err(|source| LoadError::Load {
            plugin: plugin.to_owned(),
            path: path.clone(),
            source,
        })?;
        loaded.insert(library.sha256().to_owned(), Arc::clone(&library));
        self.metrics.loaded(loaded.len());
        Ok(library)
    }

    fn load_new(&self, path: &Path, inspected: Inspected) -> Result<Arc<Library>, load::Refused> {
        let place = self.copies.place(path, &inspected);
        let code = match inspected.manifest.abi.as_str() {
            ABI_C => Code::C(c_load::load(&place)?),
            _ => Code::Rust(load::load(&place, &inspected.manifest)?),
        };
        tracing::info!(
            plugin = inspected.manifest.name,
            version = inspected.manifest.version,
            api = inspected.manifest.api,
            file = %path.display(),
            sha256 = inspected.sha256,
            "plugin loaded"
        );
        Ok(Arc::new(Library::new(path.to_owned(), inspected, code, Arc::clone(&self.metrics))))
    }
}

/// Reads the file of a plugin and finds that this worker may run it, as far as that can be known without running it.
///
/// # Errors
/// When it may not be trusted, is not the pinned one, or was made for another worker.
pub(crate) fn inspected(plugin: &str, path: &Path, pin: Option<&str>) -> Result<Inspected, LoadError> {
    let (name, path_owned) = (|| plugin.to_owned(), || path.to_owned());
    let unfit = |source| LoadError::Manifest { plugin: name(), path: path_owned(), source };
    trust::check(path)?;
    let inspected = manifest::inspect(path).map_err(unfit)?;
    if let Some(expected) = pin.filter(|expected| *expected != inspected.sha256) {
        let (found, expected) = (inspected.sha256, expected.to_owned());
        return Err(LoadError::Pinned { plugin: name(), path: path_owned(), found, expected });
    }
    manifest::check(&inspected.manifest).map_err(unfit)?;
    Ok(inspected)
}

/// What the configuration itself pins need not be in the lock file; what is in both must be the one build.
fn check_lock(lock: &Lock, plugin: &str, path: &Path, inspected: &Inspected, is_pinned: bool) -> Result<(), LoadError> {
    let (name, path, found) = (plugin.to_owned(), path.to_owned(), inspected.sha256.clone());
    match lock.plugins.get(plugin) {
        Some(locked) if locked.sha256 == found => Ok(()),
        None if is_pinned => Ok(()),
        Some(locked) => {
            let (expected, lock) = (locked.sha256.clone(), lock.path.clone());
            Err(LoadError::Locked { plugin: name, path, found, expected, lock })
        }
        None => Err(LoadError::NotLocked { plugin: name, path, found, lock: lock.path.clone() }),
    }
}
