//! What no single value shows: whether the parts of a configuration fit together.

use std::net::SocketAddr;

use super::{Config, Origin, Origins, Problem};
use crate::storage;

/// Everything that does not fit, in the order of the parts.
pub(crate) fn problems(config: &Config, origins: &Origins) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |path: &[&str], message: String| {
        let (key, origin) = origins.nearest(path);
        problems.push(Problem::new(origin, key, message));
    };
    for (key, message) in config.redis.problems() {
        add(&["redis", key], message);
    }
    if clash(config.http.listen, config.admin.listen) {
        let message = format!(
            "`http.listen` ({}) and `admin.listen` ({}) are the same port; give one of them another",
            config.http.listen, config.admin.listen
        );
        let given = if *origins.get("admin.listen") == Origin::Default { "http" } else { "admin" };
        add(&[given, "listen"], message);
    }
    if config.events.is_empty() {
        add(&["events"], "every event row is dropped, so nothing would be listened to; enable one".to_owned());
    }
    if !config.source.pubsub.enabled && !config.source.streams.is_enabled() {
        add(
            &["source", "pubsub", "enabled"],
            "`source.pubsub.enabled` is `false` and there is no other source; enable it, or give `source.streams.streams`"
                .to_owned(),
        );
    }
    for (key, message) in config.source.streams.problems() {
        add(&["source", "streams", key], message);
    }
    for (channel, key, message) in config.events.problems() {
        add(&["events", &channel, key], message);
    }
    for (key, message) in config.worker.problems() {
        add(&["worker", key], message);
    }
    for (key, message) in config.journal.problems() {
        add(&["journal", key], message);
    }
    for (key, message) in config.dead_letters.problems(&config.source.streams.streams) {
        add(&["dead_letters", key], message);
    }
    for (path, message) in storage::config::problems(&config.storage, &config.backends) {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        add(&path, message);
    }
    problems.sort_by_key(|problem: &Problem| problem.origin.file_line().map(|(_, line)| line));
    problems
}

fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let same_address = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_address
}
