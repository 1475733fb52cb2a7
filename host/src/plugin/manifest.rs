//! Reads what a plugin's file says of itself, without running any of it: loading a library already runs code.

use std::path::Path;

use object::{Architecture, Object, ObjectSection};
use sha2::{Digest, Sha256};
use storage_plugin_api::manifest::{
    ABI_C, ABI_RUST, API_VERSION, DOCUMENTS, MAGIC, Manifest, SECTION, SECTION_MACHO, TARGET,
};
use thiserror::Error;

/// Largest file that is read as a plugin, in bytes. A debug build with all its symbols is far below.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A file that was read and found to be a plugin.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it says of itself.
    pub manifest: Manifest,
    /// SHA-256 of the file, 64 hex digits.
    pub sha256: String,
    /// The file, so that what is loaded is what was checked.
    pub bytes: Vec<u8>,
}

/// Why a file is no plugin that this worker can run.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("cannot read the file: {0}")]
    Read(#[from] std::io::Error),
    /// It is too large to be a plugin.
    #[error("the file has {bytes} bytes; a plugin has at most {MAX_FILE_BYTES}")]
    TooLarge { bytes: u64 },
    /// It is no library for this system.
    #[error("not a shared library of this system, or a damaged one ({reason})")]
    NotALibrary { reason: String },
    /// It is a library for another processor.
    #[error("it was built for {found}, this worker runs on {TARGET}; build it for {TARGET}")]
    OtherTarget { found: String },
    /// It has no manifest.
    #[error(
        "it is a library but not a plugin: it has no section `{SECTION}`; export a backend with `export_backend!`, or in C with STORAGE_PLUGIN_MANIFEST"
    )]
    NoManifest,
    /// Its manifest cannot be read.
    #[error("its manifest cannot be read: {0}")]
    Malformed(String),
    /// It speaks a boundary that this worker does not know.
    #[error("it speaks the plugin boundary `{found}`, this worker `{ABI_RUST}` and `{ABI_C}`; use a newer worker")]
    OtherAbi { found: String },
    /// It is a plugin in C that is no document store.
    #[error("it is a plugin in C of the kind `{found}`, this worker knows `{DOCUMENTS}`; use a newer worker")]
    OtherKind { found: String },
    /// It was built against another major version of the contract.
    #[error(
        "it was built for plugin-api {plugin},\n  this worker speaks {API_VERSION};\n  \
         use a worker of plugin-api {plugin_major}.x, or a plugin built against plugin-api {host_major}.x"
    )]
    OtherMajor { plugin: String, plugin_major: String, host_major: String },
    /// A panic in it would end the worker.
    #[error(
        "it was built with `panic = \"abort\"`, so a panic in it would end the worker; build it with `panic = \"unwind\"`"
    )]
    PanicAbort,
}

/// Reads a file and its manifest.
///
/// # Errors
/// When it is no plugin. Whether this worker can run it is for [`check`] to say.
pub(crate) fn inspect(path: &Path) -> Result<Inspected, ManifestError> {
    let metadata = std::fs::metadata(path)?;
    // To read a pipe would wait for its writer for ever.
    if !metadata.is_file() {
        return Err(ManifestError::Read(std::io::Error::other("it is a directory, a pipe or a device")));
    }
    let bytes = metadata.len();
    if bytes > MAX_FILE_BYTES {
        return Err(ManifestError::TooLarge { bytes });
    }
    let bytes = std::fs::read(path)?;
    let manifest = read(&bytes)?;
    Ok(Inspected { manifest, sha256: hex::encode(Sha256::digest(&bytes)), bytes })
}

/// Reads the manifest out of a library's bytes.
///
/// # Errors
/// When there is none.
pub fn read(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let not_a_library = |error: object::Error| ManifestError::NotALibrary { reason: error.to_string() };
    let file = object::File::parse(bytes).map_err(not_a_library)?;
    if file.kind() != object::ObjectKind::Dynamic {
        return Err(ManifestError::NotALibrary { reason: "an executable or an object file".to_owned() });
    }
    let section = file.section_by_name(SECTION).or_else(|| file.section_by_name(SECTION_MACHO));
    let data = section.ok_or(ManifestError::NoManifest)?.data().map_err(not_a_library)?;
    check_whole(bytes, &file)?;
    // In C the text ends with a NUL, and linkers may fill up a section.
    let end = data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let manifest: Manifest =
        serde_json::from_slice(&data[..end]).map_err(|error| ManifestError::Malformed(error.to_string()))?;
    if manifest.magic != MAGIC {
        return Err(ManifestError::Malformed(format!("`magic` is `{}`", manifest.magic)));
    }
    check_processor(&manifest, file.architecture())?;
    Ok(manifest)
}

/// The loader of the system says of a library of another processor that there is no such file.
fn check_processor(manifest: &Manifest, found: Architecture) -> Result<(), ManifestError> {
    let said = match manifest.target.split('-').next() {
        Some("x86_64") => Architecture::X86_64,
        Some("aarch64") => Architecture::Aarch64,
        _ => return Ok(()),
    };
    if found != said {
        let reason = format!("its head is for {found:?}, its manifest for {}", manifest.target);
        return Err(ManifestError::NotALibrary { reason });
    }
    Ok(())
}

/// A library that lost its end would be mapped, and then crash the worker where it reads what is missing.
fn check_whole(bytes: &[u8], file: &object::File<'_>) -> Result<(), ManifestError> {
    use object::ObjectSegment;
    let ends = file.segments().map(|segment| segment.file_range()).map(|(start, size)| start.saturating_add(size));
    let needed = ends.max().unwrap_or_default();
    if needed > bytes.len() as u64 {
        let reason = format!("it has {} bytes and says it has at least {needed}", bytes.len());
        return Err(ManifestError::NotALibrary { reason });
    }
    Ok(())
}

/// Whether this worker can run a plugin of that manifest. A newer minor version is fine: it only has more.
///
/// # Errors
/// When it cannot; the text names both sides and the remedy.
pub(crate) fn check(manifest: &Manifest) -> Result<(), ManifestError> {
    match manifest.abi.as_str() {
        ABI_RUST => {}
        ABI_C if manifest.kind == DOCUMENTS => {}
        ABI_C => return Err(ManifestError::OtherKind { found: manifest.kind.clone() }),
        other => return Err(ManifestError::OtherAbi { found: other.to_owned() }),
    }
    if manifest.target != TARGET {
        return Err(ManifestError::OtherTarget { found: manifest.target.clone() });
    }
    let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
    let (plugin_major, host_major) = (major(&manifest.api), major(API_VERSION));
    if plugin_major != host_major {
        return Err(ManifestError::OtherMajor { plugin: manifest.api.clone(), plugin_major, host_major });
    }
    if manifest.panic == "abort" {
        return Err(ManifestError::PanicAbort);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_not_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("libstorage_backend_socket.so");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");

        for path in [directory.path(), &socket] {
            let error = inspect(path).expect_err("it is no plugin");
            assert!(error.to_string().contains("pipe"), "{error}");
        }
    }
}
