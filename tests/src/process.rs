//! A child process that never outlives its test: it is stopped by its id when dropped, and by a watcher should the
//! test process itself be killed.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running child. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    watcher: Watcher,
}

impl Process {
    /// Starts a command.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child =
            command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let watcher = Watcher::of(child.id());
        Self { child, watcher }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, to take its output from.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone already.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child was not reaped yet");
    }

    /// True while it runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended, if it does so within a limit.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if start.elapsed() > limit {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it at once, without a chance to do anything more.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.watcher.dismiss();
        self.kill();
    }
}

/// A shell that waits for the end of its input, which comes when this process ends in whatever way, and then kills.
#[derive(Debug)]
struct Watcher {
    shell: Option<Child>,
    input: Option<ChildStdin>,
}

impl Watcher {
    fn of(id: u32) -> Self {
        let script = format!("read -r word; [ \"$word\" = dismissed ] || kill -9 {id}");
        let shell = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut shell = shell.expect("start a shell");
        Self { input: shell.stdin.take(), shell: Some(shell) }
    }

    /// Tells it to go home, before the process id can belong to somebody else.
    fn dismiss(&mut self) {
        if let Some(mut input) = self.input.take() {
            let _ = std::io::Write::write_all(&mut input, b"dismissed\n");
        }
        if let Some(mut shell) = self.shell.take() {
            let _ = shell.wait();
        }
    }
}

/// Where a program is, by the search path and the usual places.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/opt/homebrew/bin"].map(PathBuf::from);
    std::env::split_paths(&search).chain(usual).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The built `storage-worker`.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn worker_binary() -> PathBuf {
    built(&format!("storage-worker{}", std::env::consts::EXE_SUFFIX))
}

/// The built library of the plugin of that name.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn plugin_path(name: &str) -> PathBuf {
    built(&library_name(name))
}

/// What the library of the plugin of that name is called on this system.
#[must_use]
pub fn library_name(name: &str) -> String {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    format!("{prefix}storage_backend_{}{suffix}", name.replace('-', "_"))
}

/// Test programs are in `target/<profile>/deps`, what they test is one directory up.
fn built(file: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let directory = own.parent().and_then(Path::parent).expect("a test program lies in target/<profile>/deps");
    let path = directory.join(file);
    assert!(path.is_file(), "`{}` is not built; run `make test`, or `cargo build --workspace` first", path.display());
    path
}
