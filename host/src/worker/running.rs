//! The threads and tasks of a worker: knows when a group of them has ended, and when one of them died of a panic.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A thread or task that panicked. The panic itself is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Died(pub String);

/// A group that ends together.
#[derive(Debug)]
pub(super) struct Running {
    /// Taken when the group is waited for.
    alive: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
    died: mpsc::Sender<Died>,
}

impl Running {
    pub(super) fn new(died: mpsc::Sender<Died>) -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self { alive: Some(alive), ended, died }
    }

    pub(super) fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let (alive, died) = (self.alive.clone(), self.died.clone());
        thread::Builder::new().name(name.clone()).spawn(move || {
            tell(&died, &name, catch_unwind(AssertUnwindSafe(run)));
            drop(alive);
        })?;
        Ok(())
    }

    pub(super) fn spawn_async(&self, name: &'static str, run: impl Future<Output = ()> + Send + 'static, on: &Handle) {
        let (alive, died) = (self.alive.clone(), self.died.clone());
        on.spawn(async move {
            tell(&died, name, AssertUnwindSafe(run).catch_unwind().await);
            drop(alive);
        });
    }

    /// Can be asked whether the group still runs.
    pub(super) fn alive(&self) -> Option<mpsc::WeakSender<()>> {
        self.alive.as_ref().map(mpsc::Sender::downgrade)
    }

    /// Waits until all have ended; false if they have not by the deadline.
    pub(super) async fn ended(&mut self, deadline: Instant) -> bool {
        self.alive = None;
        timeout_at(deadline, self.ended.recv()).await.is_ok()
    }
}

fn tell(died: &mpsc::Sender<Died>, name: &str, outcome: Result<(), Box<dyn Any + Send>>) {
    if outcome.is_err() {
        // One is enough: if there is no room, another death is not yet looked at.
        let _ = died.try_send(Died(name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_ends_the_group() {
        let (tell, mut died) = mpsc::channel(1);
        let mut group = Running::new(tell);
        group.spawn("quiet".to_owned(), || {}).expect("a thread");
        group.spawn("loud".to_owned(), || panic!("a defect")).expect("a thread");
        group.spawn_async("task", async { panic!("a defect") }, &Handle::current());

        assert!(group.ended(Instant::now() + Duration::from_secs(10)).await);
        assert!(["loud", "task"].contains(&died.recv().await.expect("one is told").0.as_str()));
    }
}
