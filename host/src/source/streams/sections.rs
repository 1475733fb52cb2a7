//! The sections of the source, seen as one.
//!
//! A section is what one connection can read: all streams of a server, or a single stream of a cluster, where each may
//! live on another node. Each section has a reader and a keeper of its own, so that a node that is away holds up no other.

use std::sync::Arc;
use std::time::Instant;

use super::shared::Shared;
use crate::source::{Control, Status, Token};

/// What other threads need of the source.
#[derive(Clone, Debug)]
pub(super) struct Sections(pub(super) Vec<Arc<Shared>>);

impl Control for Sections {
    fn stop(&self) {
        self.0.iter().for_each(|section| section.stop());
    }

    fn acknowledge(&self, tokens: &[Token]) {
        match &*self.0 {
            [only] => only.acknowledge(tokens.iter().copied()),
            sections => {
                for section in sections {
                    section.acknowledge(tokens.iter().copied().filter(|token| section.has(*token)));
                }
            }
        }
    }

    fn entry(&self, token: Token) -> Option<(String, String)> {
        self.0.iter().find(|section| section.has(token))?.entry(token)
    }

    fn finish(&self, deadline: Instant) {
        self.0.iter().for_each(|section| section.close());
        let entries: usize = self.0.iter().map(|section| section.finish(deadline)).sum();
        if entries > 0 {
            tracing::warn!(
                entries,
                "redis was not told in time of entries that are settled; they are delivered again, which does no harm"
            );
        }
    }

    /// Connected if all are; the gaps are those of the section that has the longest.
    fn status(&self) -> Status {
        let mut whole = Status { connected: true, ..Status::default() };
        for section in &self.0 {
            let status = section.status();
            whole.connected &= status.connected;
            whole.connections = whole.connections.max(status.connections);
            whole.disconnected = whole.disconnected.max(status.disconnected);
            whole.received += status.received;
            whole.last_error = whole.last_error.or(status.last_error);
            whole.streams.extend(status.streams);
        }
        whole
    }
}
