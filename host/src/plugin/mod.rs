//! Finds, checks and loads plugins: from a name in the configuration to a library that can open backends.
//!
//! In steps of trust, each relying only on what the one before established: the file is found (`find.rs`), may be
//! trusted (`trust.rs`), says what it is without being run (`manifest.rs`), is copied to where nobody else writes
//! (`private_copy.rs`), and its layout is compared with ours (`load.rs`), or in C its descriptor is read (`c_load.rs`).
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
use manifest::{Inspected, ManifestError};

/// Loads plugins for one worker.
#[derive(Debug)]
pub struct Loader {
    directories: Vec<PathBuf>,
    copies: private_copy::Copies,
    metrics: Arc<dyn PluginMetrics>,
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
            loaded: Arc::default(),
        }
    }

    /// A loader that looks in other directories and knows what this one has loaded.
    #[must_use]
    pub fn looking_in(&self, directories: &[PathBuf], cache: Option<&Path>) -> Self {
        Self { loaded: Arc::clone(&self.loaded), ..Self::new(directories, cache, Arc::clone(&self.metrics)) }
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
        trust::check(&path)?;
        let name = || plugin.to_owned();
        let inspected = manifest::inspect(&path).map_err(|source| LoadError::Manifest {
            plugin: name(),
            path: path.clone(),
            source,
        })?;
        if let Some(expected) = pin.filter(|expected| *expected != inspected.sha256) {
            let (found, expected) = (inspected.sha256, expected.to_owned());
            return Err(LoadError::Pinned { plugin: name(), path, found, expected });
        }
        manifest::check(&inspected.manifest).map_err(|source| LoadError::Manifest {
            plugin: name(),
            path: path.clone(),
            source,
        })?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = loaded.get(&inspected.sha256) {
            return Ok(Arc::clone(library));
        }
        let library = self.load_new(&path, inspected).map_err(|source| LoadError::Load {
            plugin: name(),
            path: path.clone(),
            source,
        })?;
        loaded.insert(library.sha256().to_owned(), Arc::clone(&library));
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
