//! A disk that can be full: a file system in memory, of a size that is changed while it is used.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted disk, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
    bytes: u64,
}

impl SmallDisk {
    /// Mounts a disk of so many bytes; none where this user may not mount.
    ///
    /// # Panics
    /// When the directory cannot be made.
    #[must_use]
    pub fn mount(at: PathBuf, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(&at).expect("make a directory");
        mount(&at, &format!("size={bytes}")).then_some(Self { at, bytes })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Makes it as small as what is on it, so that nothing more fits.
    ///
    /// # Panics
    /// When it cannot be made so, again and again.
    pub fn fill(&self) {
        // Whoever writes meanwhile makes it larger than was found, and then it is refused.
        let filled = (0..1000).any(|_| {
            let found = rustix::fs::statvfs(&self.at).expect("look at the disk");
            let used = (found.f_blocks - found.f_bfree).max(1);
            self.resize(used * found.f_frsize)
        });
        assert!(filled, "cannot make `{}` smaller", self.at.display());
    }

    /// Gives it its size again.
    ///
    /// # Panics
    /// When that is refused.
    pub fn make_room(&self) {
        assert!(self.resize(self.bytes), "cannot make `{}` larger", self.at.display());
    }

    fn resize(&self, bytes: u64) -> bool {
        mount(&self.at, &format!("remount,size={bytes}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a worker that is being killed may still have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn mount(at: &Path, options: &str) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).stderr(Stdio::null());
    mount.status().is_ok_and(|status| status.success())
}
