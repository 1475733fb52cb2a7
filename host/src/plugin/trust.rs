//! Whether a plugin's file may be run: only if nobody but us and root can change it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Somebody else could change a plugin's file.
#[derive(Debug, Error)]
pub enum Untrusted {
    /// The file or its directory can be written by everybody.
    #[error("refusing plugin `{path}`: everybody may write {what}; run `chmod o-w {target}`")]
    WorldWritable { path: PathBuf, what: &'static str, target: PathBuf },
    /// The file belongs to neither us nor root.
    #[error(
        "refusing plugin `{path}`: it belongs to user {owner}, not to root or to this user; run `chown root {path}`"
    )]
    ForeignOwner { path: PathBuf, owner: u32 },
    /// Its permissions cannot be read.
    #[error("cannot read the permissions of plugin `{path}`")]
    Unreadable { path: PathBuf, source: std::io::Error },
}

/// Checks a file and its directory.
///
/// # Errors
/// When somebody else could change what is loaded.
pub(crate) fn check(path: &Path) -> Result<(), Untrusted> {
    let read =
        |path: &Path| std::fs::metadata(path).map_err(|source| Untrusted::Unreadable { path: path.to_owned(), source });
    let file = read(path)?;
    let world_writable =
        |what, target: &Path| Untrusted::WorldWritable { path: path.to_owned(), what, target: target.to_owned() };
    if file.permissions().mode() & 0o002 != 0 {
        return Err(world_writable("this file", path));
    }
    if let Some(directory) = path.parent() {
        let mode = read(directory)?.permissions().mode();
        // With the sticky bit, as in /tmp, only the owner of a file may replace it.
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Err(world_writable("its directory", directory));
        }
    }
    let us = rustix::process::geteuid().as_raw();
    if file.uid() != 0 && file.uid() != us {
        return Err(Untrusted::ForeignOwner { path: path.to_owned(), owner: file.uid() });
    }
    if file.permissions().mode() & 0o020 != 0 {
        tracing::warn!(file = %path.display(), "plugin file is writable by its group; run `chmod g-w` on it");
    }
    Ok(())
}
