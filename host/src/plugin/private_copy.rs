//! Loads plugins from copies that nobody else writes, named after their content.
//!
//! Overwriting a library that is mapped crashes the process, and the dynamic linker gives the old library for a path
//! that it knows; a copy of another name has neither trouble. Where no directory is writable and allows execution the
//! file is loaded in place, and the log says so.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::manifest::Inspected;

/// Copies that were not used for so long are removed at start; they may belong to another worker that just starts.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The directory of the copies.
#[derive(Debug)]
pub struct Copies {
    directory: Option<PathBuf>,
}

impl Copies {
    /// Copies in a directory of the configuration, else in the user's cache directory, else in the temporary one.
    pub(crate) fn new(configured: Option<&Path>) -> Self {
        let directory = candidates(configured).into_iter().find(|directory| match prepare(directory) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(directory = %directory.display(), %error, "cannot keep plugin copies here");
                false
            }
        });
        if let Some(directory) = &directory {
            remove_old(directory);
        }
        Self { directory }
    }

    /// Where to load a plugin from: its copy, or the file itself if there can be none.
    pub(crate) fn place(&self, original: &Path, inspected: &Inspected) -> PathBuf {
        let Some(directory) = &self.directory else {
            tracing::warn!(
                file = %original.display(),
                "no directory for plugin copies is writable; the plugin is loaded in place and must not be overwritten, \
                 only replaced by renaming"
            );
            return original.to_owned();
        };
        match copy(directory, inspected) {
            Ok(path) => path,
            Err(error) => {
                tracing::warn!(
                    file = %original.display(), directory = %directory.display(), %error,
                    "cannot copy the plugin; it is loaded in place and must not be overwritten, only replaced by renaming"
                );
                original.to_owned()
            }
        }
    }
}

fn candidates(configured: Option<&Path>) -> Vec<PathBuf> {
    if let Some(directory) = configured {
        return vec![directory.to_owned()];
    }
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
    let user = rustix::process::geteuid().as_raw();
    let temporary = std::env::temp_dir().join(format!("storage-worker-{user}"));
    cache.map(|cache| cache.join("storage-worker/plugins")).into_iter().chain([temporary]).collect()
}

/// Makes the directory if need be, and refuses one that somebody else could write to.
fn prepare(directory: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = std::fs::symlink_metadata(directory)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !ours || metadata.permissions().mode() & 0o022 != 0 {
        return Err(std::io::Error::other("it is not a directory that only this user may write to"));
    }
    if !allows_execution(directory) {
        return Err(std::io::Error::other("its file system does not allow execution"));
    }
    let probe = tempfile_in(directory)?;
    std::fs::remove_file(probe.0)
}

#[cfg(target_os = "linux")]
fn allows_execution(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|info| !info.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

#[cfg(not(target_os = "linux"))]
fn allows_execution(_: &Path) -> bool {
    true
}

fn copy(directory: &Path, inspected: &Inspected) -> std::io::Result<PathBuf> {
    let path = directory.join(format!("{}.{}.so", inspected.manifest.name, inspected.sha256));
    if std::fs::read(&path).is_ok_and(|bytes| bytes == inspected.bytes) {
        // Younger again, so that no start removes it.
        let touched = std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        return touched.map(|()| path);
    }
    let (temporary, mut file) = tempfile_in(directory)?;
    let written = file
        .write_all(&inspected.bytes)
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(0o500)))
        .and_then(|()| std::fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map(|()| path)
}

/// A new file that is ours alone; several threads and processes may make one at the same time.
fn tempfile_in(directory: &Path) -> std::io::Result<(PathBuf, std::fs::File)> {
    let name = format!(".{}-{:016x}.tmp", std::process::id(), fastrand::u64(..));
    let path = directory.join(name);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

fn remove_old(directory: &Path) {
    let old = |entry: &std::fs::DirEntry| {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEPT))
    };
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten().filter(old) {
        if std::fs::remove_file(entry.path()).is_ok() {
            tracing::debug!(file = %entry.path().display(), "removed an old plugin copy");
        }
    }
}
