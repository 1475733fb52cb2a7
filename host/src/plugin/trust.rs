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
    /// The file or its directory belongs to neither us nor root.
    #[error(
        "refusing plugin `{path}`: {what} belongs to user {owner}, not to root or to this user; run `chown root {target}`"
    )]
    ForeignOwner { path: PathBuf, what: &'static str, target: PathBuf, owner: u32 },
    /// Its permissions cannot be read.
    #[error("cannot read the permissions of plugin `{path}`")]
    Unreadable { path: PathBuf, source: std::io::Error },
}

/// Checks a file and its directory.
///
/// # Errors
/// When somebody else could change what is loaded.
pub(crate) fn check(path: &Path) -> Result<(), Untrusted> {
    let us = rustix::process::geteuid().as_raw();
    Place::read(path, path, "this file")?.check(path, us)?;
    match path.parent() {
        Some(directory) => Place::read(path, directory, "its directory")?.check(path, us),
        None => Ok(()),
    }
}

/// A file or directory, and who may change it.
struct Place<'a> {
    what: &'static str,
    path: &'a Path,
    is_directory: bool,
    mode: u32,
    owner: u32,
}

impl<'a> Place<'a> {
    fn read(plugin: &Path, path: &'a Path, what: &'static str) -> Result<Self, Untrusted> {
        let metadata =
            std::fs::metadata(path).map_err(|source| Untrusted::Unreadable { path: plugin.to_owned(), source })?;
        let (is_directory, mode) = (metadata.is_dir(), metadata.permissions().mode());
        Ok(Self { what, path, is_directory, mode, owner: metadata.uid() })
    }

    fn check(&self, plugin: &Path, us: u32) -> Result<(), Untrusted> {
        let (path, what, target) = (plugin.to_owned(), self.what, self.path.to_owned());
        // In a directory with the sticky bit, as /tmp, only the owner of a file may replace it.
        let is_sticky = self.is_directory && self.mode & 0o1000 != 0;
        if self.mode & 0o002 != 0 && !is_sticky {
            return Err(Untrusted::WorldWritable { path, what, target });
        }
        if self.owner != 0 && self.owner != us {
            return Err(Untrusted::ForeignOwner { path, what, target, owner: self.owner });
        }
        if self.mode & 0o020 != 0 && !is_sticky {
            tracing::warn!(
                file = %plugin.display(), remedy = format!("chmod g-w {}", target.display()),
                "a plugin's file or directory is writable by its group"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_others_may_change_is_refused_with_the_command_that_mends_it() {
        let refusal = |is_directory, mode, owner| {
            let what = if is_directory { "its directory" } else { "this file" };
            let place = Place { what, path: Path::new("/p"), is_directory, mode, owner };
            place.check(Path::new("/p/x.so"), 1000).err().map(|error| error.to_string())
        };

        assert_eq!(refusal(false, 0o100_755, 0), None);
        assert_eq!(refusal(false, 0o100_755, 1000), None);
        assert_eq!(refusal(true, 0o041_777, 0), None);
        for (is_directory, mode, owner, remedy) in [
            (false, 0o100_757, 1000, "everybody may write this file; run `chmod o-w /p`"),
            (true, 0o040_777, 1000, "everybody may write its directory; run `chmod o-w /p`"),
            (false, 0o100_755, 33, "this file belongs to user 33, not to root or to this user; run `chown root /p`"),
            (true, 0o041_777, 33, "its directory belongs to user 33, not to root or to this user; run `chown root /p`"),
        ] {
            let refusal = refusal(is_directory, mode, owner).expect("it is refused");
            assert!(refusal.ends_with(remedy), "{refusal}");
        }
    }
}
