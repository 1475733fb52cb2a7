//! Loads a library of a plugin in Rust and compares its layout with ours. `c_load.rs` is for plugins in C.

#![allow(unsafe_code, reason = "the loader of the plugin boundary")]

use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{AbiInstability, AbiInstabilityErrors, check_layout_compatibility};
use abi_stable::library::{LibHeader, LibraryError, lib_header_from_path};
use abi_stable::sabi_types::VersionNumber;
use abi_stable::type_layout::TLFieldOrFunction;
use storage_plugin_api::abi::PluginModuleRef;
use storage_plugin_api::manifest::{API_VERSION, Manifest};
use thiserror::Error;

/// Why a library was not loaded.
#[derive(Debug, Error)]
pub enum Refused {
    /// The dynamic linker could not load it.
    #[error("the system cannot load it: {0}")]
    Open(String),
    /// It lacks the symbol that leads to its functions.
    #[error("it has a manifest but does not export a backend; build it as a `cdylib` with `export_backend!`")]
    NoRootModule,
    /// It was made with another version of abi_stable, or another C ABI.
    #[error(
        "it was built with an incompatible version of abi_stable or of the C ABI; build it again with plugin-api {API_VERSION}"
    )]
    OtherFoundation,
    /// Its types have another layout than ours.
    #[error(
        "plugin-api of the plugin ({plugin}) and of this worker ({API_VERSION}) disagree,\n  {difference};\n  \
         build the plugin again with a released plugin-api {API_VERSION}"
    )]
    OtherLayout { plugin: String, difference: String },
    /// It lacks the descriptor of a plugin in C.
    #[error("it has a manifest but does not export `storage_plugin_descriptor`; define it as storage_plugin.h says")]
    NoDescriptor,
    /// Its descriptor is not whole.
    #[error(
        "its `storage_plugin_descriptor` {0}; build the plugin again with storage_plugin.h of plugin-api {API_VERSION}"
    )]
    Descriptor(String),
    /// It could not make its root module.
    #[error("it failed while it was loaded: {0}")]
    Construct(String),
}

/// Loads a library that stays loaded for ever.
///
/// # Errors
/// When it cannot be loaded or was made for another contract.
pub(crate) fn load(path: &Path, manifest: &Manifest) -> Result<PluginModuleRef, Refused> {
    let header = lib_header_from_path(path).map_err(|error| refused(&error))?;
    check_layout(header, manifest)?;
    // SAFETY: the layouts were compared above, by the same check that the safe function makes, but in the direction
    // that the two versions ask for.
    unsafe { header.init_root_module_with_unchecked_layout::<PluginModuleRef>() }.map_err(|error| refused(&error))
}

/// Compares layouts with the older contract as the interface: the newer one has to have all of it and may have more.
///
/// The check of abi_stable itself only goes one way and would refuse every plugin that is older than the worker.
fn check_layout(header: &'static LibHeader, manifest: &Manifest) -> Result<(), Refused> {
    let number = |version| VersionNumber::new(version).map_err(|error| Refused::Construct(error.to_string()));
    let plugin = number(header.version_strings())?;
    let host = number(<PluginModuleRef as abi_stable::library::RootModule>::VERSION_STRINGS)?;
    let ours = <PluginModuleRef as StableAbi>::LAYOUT;
    let theirs = header.layout().ok_or(Refused::OtherFoundation)?;
    let plugin_is_older = (plugin.minor, plugin.patch) <= (host.minor, host.patch);
    let result = match plugin_is_older {
        true => check_layout_compatibility(theirs, ours),
        false => check_layout_compatibility(ours, theirs),
    };
    result.map_err(|errors| {
        tracing::debug!(details = %errors, "layouts of the plugin boundary differ");
        Refused::OtherLayout { plugin: manifest.api.clone(), difference: first_difference(&errors) }
    })
}

/// The stock text has well over a thousand lines; the type and the first thing wrong with it is what helps.
fn first_difference(errors: &AbiInstabilityErrors) -> String {
    let Some(error) = errors.errors.iter().find(|error| !error.errs.is_empty()) else {
        return "in their layout".to_owned();
    };
    // The innermost type on the way to the difference; functions are named by their parameters, which says less.
    let types = error.stack_trace.iter().rev().filter_map(|entry| match &entry.expected {
        TLFieldOrFunction::Field(field) => Some(field.full_type().to_string()),
        TLFieldOrFunction::Function(_) => None,
    });
    let place = types.into_iter().next().unwrap_or_else(|| "PluginModule".to_owned());
    format!("`{place}` {}", error.errs.first().map_or_else(String::new, describe))
}

fn describe(difference: &AbiInstability) -> String {
    match difference {
        AbiInstability::Size(found) => {
            format!("has {} bytes in the older, {} in the newer", found.expected, found.found)
        }
        AbiInstability::Alignment(found) => format!("is aligned to {} and to {}", found.expected, found.found),
        AbiInstability::FieldCountMismatch(found) => format!("has {} and {} fields", found.expected, found.found),
        AbiInstability::Name(found) => format!("is `{}` and `{}`", found.expected, found.found),
        AbiInstability::UnexpectedField(found) => {
            format!("has the field `{}` where the other has `{}`", found.expected.name(), found.found.name())
        }
        _ => "is made in another way".to_owned(),
    }
}

fn refused(error: &LibraryError) -> Refused {
    match error {
        LibraryError::OpenError { err, .. } => Refused::Open(chain(&**err)),
        LibraryError::GetSymbolError { .. } => Refused::NoRootModule,
        LibraryError::InvalidAbiHeader(_) | LibraryError::InvalidCAbi { .. } => Refused::OtherFoundation,
        other => Refused::Construct(other.to_string().split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// An error with its causes; that of libloading says only in a cause what the system said.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
