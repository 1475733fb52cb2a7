//! The signals that the worker heeds: `SIGTERM`, and `SIGINT` for people at a terminal, end it; `SIGHUP` has it read its
//! configuration again.

use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
pub(super) enum Signal {
    /// To end; its name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}

/// Listens from its creation on, so that no signal ends the process unasked.
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End("SIGTERM"),
            _ = self.interrupt.recv() => Signal::End("SIGINT"),
            _ = self.hangup.recv() => Signal::Reload,
        }
    }

    /// The name of the next signal that asks for the end.
    pub(crate) async fn end(&mut self) -> &'static str {
        loop {
            if let Signal::End(name) = self.next().await {
                return name;
            }
        }
    }
}
