//! A small disk of its own, that can be filled: a tmpfs, mounted where that is allowed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::postgres_server::server_user;

/// What takes the room.
const BALLAST: &str = "ballast";

/// A mounted tmpfs, for the user that PostgreSQL runs as. Unmounted when dropped, and should the test process be killed.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
    janitor: Child,
}

impl SmallDisk {
    /// Mounts one of so many MiB. None where that is not allowed, which is then said: the test is not run.
    ///
    /// # Panics
    /// When no directory can be made.
    #[must_use]
    pub fn mount(mebibytes: usize) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("disk-").tempdir().expect("make a temporary directory");
        let owner = server_user().map_or_else(String::new, |(user, group)| format!(",uid={user},gid={group}"));
        let options = format!("size={mebibytes}m,mode=0700{owner}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()).output();
        let refusal = match mounted {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(refusal) = refusal {
            // Not by `println`, which is not shown of a test that passes.
            let said =
                writeln!(std::io::stderr(), "not run: needs a small disk; a tmpfs cannot be mounted here: {refusal}");
            said.expect("say that a test is not run");
            return None;
        }
        // It unmounts as soon as its input ends, by whatever way this process ends.
        let janitor = Command::new("/bin/sh")
            .args(["-c", "read -r word; umount -l \"$1\"", "sh"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("start a shell");
        Some(Self { directory, janitor })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all the room that there is.
    ///
    /// # Panics
    /// When there is no end of it.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("open a file");
        let block = [0; 4096];
        for _ in 0..1_000_000 {
            if ballast.write_all(&block).is_err() {
                return;
            }
        }
        panic!("the disk does not fill");
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// When nothing was taken.
    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("remove a file");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join(BALLAST)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}
