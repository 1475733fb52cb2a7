//! The host as a plugin sees it: where its metrics go, and its `tracing` events.
pub struct Host;
