//! The streams, each by itself, seen as one source.
//!
//! Each has a reader and a keeper of its own, over connections of their own: so a stream whose commands are refused, or
//! whose node of a cluster is away, holds up no other.

use std::sync::Arc;
use std::time::Instant;

use super::shared::{Shared, id};
use crate::source::{Control, Status, Token};

/// What other threads need of the source.
#[derive(Clone, Debug)]
pub(super) struct SideBySide(pub(super) Vec<Arc<Shared>>);

impl Control for SideBySide {
    fn stop(&self) {
        self.0.iter().for_each(|stream| stream.stop());
    }

    fn acknowledge(&self, tokens: &[Token]) {
        match &*self.0 {
            [only] => only.settle(tokens.iter().map(|token| id(*token))),
            streams => {
                for stream in streams {
                    let own = tokens.iter().filter(|token| stream.has(**token));
                    stream.settle(own.map(|token| id(*token)));
                }
            }
        }
    }

    fn entry(&self, token: Token) -> Option<(String, String)> {
        Some(self.0.iter().find(|stream| stream.has(token))?.entry(token))
    }

    fn finish(&self, deadline: Instant) {
        self.0.iter().for_each(|stream| stream.close());
        let entries: usize = self.0.iter().map(|stream| stream.finish(deadline)).sum();
        if entries > 0 {
            tracing::warn!(
                entries,
                "redis was not told in time of entries that are settled; they are delivered again, which does no harm"
            );
        }
    }

    /// Connected if all are; the gaps are those of the one that has the longest.
    fn status(&self) -> Status {
        let mut whole = Status { connected: true, ..Status::default() };
        for stream in &self.0 {
            let status = stream.status();
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
