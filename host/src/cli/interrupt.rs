//! Ctrl-C during long work, and its like (`SIGINT`, `SIGTERM`, `SIGHUP`): the first one has the work end where it may go on
//! later, a second one ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How a process ends that a second signal ends: as if nothing had caught it.
const ENDED_BY_SIGNAL: i32 = 128 + 2;

/// Whether somebody wants the work to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on, to the end of the process.
    pub(crate) fn listen() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            Signals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
            }
        };
        let interrupt = Self(Arc::default());
        let told = Arc::clone(&interrupt.0);
        // Nobody joins it: it waits for as long as the process is there.
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                signals.next().await;
                told.store(true, Ordering::Release);
                signals.next().await;
                std::process::exit(ENDED_BY_SIGNAL);
            });
        })?;
        Ok(interrupt)
    }

    /// Whether there was a signal.
    pub(crate) fn is_told(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
