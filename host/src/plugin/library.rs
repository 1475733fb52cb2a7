//! A loaded plugin: says what an instance would be, and opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abi_stable::std_types::{RResult, RString};
use serde_json::Value;
use storage_plugin_api::abi::{
    Answered, CheckArguments, ChildHandle, HostHandle, OpenArguments, PluginModuleRef, READ_ONLY,
};
use storage_plugin_api::export::lend_backend;
use storage_plugin_api::import::{ImportedBackend, ImportedDocuments, error_of};
use storage_plugin_api::manifest::{self, Manifest};
use storage_plugin_api::{Backend, Child, ChildDescription, Description, DocumentBackend, Durability, Error, Result};

use super::c_call::CHost;
use super::c_load::CPlugin;
use super::host_api::{self, PluginMetrics};
use super::manifest::Inspected;

/// How long a plugin in C is told that its `check` has; it has nothing to wait for.
const CHECK_BUDGET: Duration = Duration::from_secs(5);

/// A library that is loaded and stays so.
pub struct Library {
    path: PathBuf,
    manifest: Manifest,
    sha256: String,
    code: Code,
    metrics: Arc<dyn PluginMetrics>,
}

/// What a library has to be called by.
pub(crate) enum Code {
    Rust(PluginModuleRef),
    C(CPlugin),
}

impl std::fmt::Debug for Library {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Library").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Library {
    pub(crate) fn new(path: PathBuf, inspected: Inspected, code: Code, metrics: Arc<dyn PluginMetrics>) -> Self {
        Self { path, manifest: inspected.manifest, sha256: inspected.sha256, code, metrics }
    }

    /// The file it was found as.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of its file, 64 hex digits.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What an instance of these options would be. Has no side effects.
    ///
    /// # Errors
    /// `Configuration` when the options cannot be read, `Internal` when the plugin panics.
    pub fn check(&self, instance: &str, options: &Value, children: &[ChildDescription]) -> Result<Description> {
        let mut description = match &self.code {
            Code::Rust(module) => self.check_rust(*module, instance, options, children)?,
            Code::C(plugin) => {
                let host = CHost::new(instance, &self.manifest.name, self.host());
                plugin.check(&host, options, CHECK_BUDGET)?
            }
        };
        if self.manifest.kind == manifest::DOCUMENTS {
            description.capabilities = DocumentBackend::capabilities(&description.capabilities);
        }
        Ok(description)
    }

    fn check_rust(
        &self,
        module: PluginModuleRef,
        instance: &str,
        options: &Value,
        children: &[ChildDescription],
    ) -> Result<Description> {
        let children = serde_json::to_string(children).map_err(Error::internal)?;
        let answered = module.check()(CheckArguments {
            instance: instance.into(),
            options: options.to_string().into(),
            children: children.into(),
            host: self.host(),
            reserved: [0; 4],
        });
        let description: RString = result(answered)?;
        serde_json::from_str(&description)
            .map_err(|error| Error::internal(format_args!("its description cannot be read: {error}")))
    }

    fn host(&self) -> HostHandle {
        host_api::handle(Arc::clone(&self.metrics))
    }

    /// Opens an instance. Blocks, and may do so for ever: the caller waits on another thread.
    ///
    /// # Errors
    /// What the plugin says, `Internal` when it panics.
    pub fn open(
        &self,
        instance: &str,
        options: &Value,
        children: Vec<Child>,
        durability: Durability,
        budget: Duration,
        read_only: bool,
    ) -> Result<Arc<dyn Backend>> {
        let module = match &self.code {
            Code::Rust(module) => *module,
            Code::C(plugin) => {
                let name = (instance, self.manifest.name.as_str());
                let store = plugin.open(name, self.host(), options, budget, read_only)?;
                return Ok(Arc::new(DocumentBackend::new(Arc::new(store), durability)));
            }
        };
        let lend = |child: Child| ChildHandle {
            role: child.role.into(),
            name: child.name.into(),
            capabilities: serde_json::to_string(&child.description.capabilities).unwrap_or_default().into(),
            backend: lend_backend(child.backend),
            reserved: [0; 2],
        };
        let opened = result(module.open()(OpenArguments {
            instance: instance.into(),
            options: options.to_string().into(),
            children: children.into_iter().map(lend).collect(),
            host: self.host(),
            budget_us: u64::try_from(budget.as_micros()).unwrap_or(u64::MAX),
            flags: if read_only { READ_ONLY } else { 0 },
            reserved: [0; 3],
        }))?;
        match (opened.backend.into_option(), opened.documents.into_option()) {
            (Some(backend), _) => Ok(Arc::new(ImportedBackend::new(backend))),
            (None, Some(documents)) => {
                Ok(Arc::new(DocumentBackend::new(Arc::new(ImportedDocuments::new(documents)), durability)))
            }
            (None, None) => Err(Error::internal("the plugin opened nothing")),
        }
    }
}

fn result<T>(answered: Answered<T>) -> Result<T> {
    match answered {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(failure) => Err(error_of(&failure)),
    }
}
