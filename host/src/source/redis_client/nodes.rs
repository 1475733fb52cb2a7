//! The nodes of a cluster: which are known, which is asked first, and which has a key.
//!
//! No map is kept of what lives where. Connections are made seldom, and each time a node is asked anew: so nothing here
//! can be out of date, and a key that has moved is followed as soon as its connection fails.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::{ConnectionInfo, Pipeline, Value, pipe};

use super::address::{elsewhere, host, place};

/// What is known of the nodes.
pub(super) struct Nodes {
    /// Those that the URL names.
    named: Vec<ConnectionInfo>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that a node told of.
    learned: Vec<ConnectionInfo>,
    /// The one that took a connection last, by its place.
    preferred: Option<String>,
    /// Counts up, so that not the same node is asked each time.
    turn: usize,
}

/// What a node said of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// All nodes, by host and port.
    nodes: Vec<(String, u16)>,
    /// The primary that has the key that was asked for.
    owner: Option<(String, u16)>,
}

impl Answer {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl Nodes {
    pub(super) fn new(named: Vec<ConnectionInfo>) -> Self {
        Self { named, state: Mutex::default() }
    }

    /// All nodes that are known, the one first that took a connection last.
    pub(super) fn steady(&self) -> Vec<ConnectionInfo> {
        let state = self.lock();
        let mut all = self.all(&state);
        let first = all.iter().position(|node| state.preferred.as_ref() == Some(&place(node)));
        all.rotate_left(first.unwrap_or(0));
        all
    }

    /// All nodes that are known, each time another one first.
    pub(super) fn in_turn(&self) -> Vec<ConnectionInfo> {
        let mut state = self.lock();
        state.turn = state.turn.wrapping_add(1);
        let mut all = self.all(&state);
        let first = state.turn % all.len().max(1);
        all.rotate_left(first);
        all
    }

    pub(super) fn prefer(&self, node: &ConnectionInfo) {
        self.lock().preferred = Some(place(node));
    }

    /// Takes note of the nodes that one told of. Gives the one that has the key.
    pub(super) fn learn(&self, asked: &ConnectionInfo, answer: Answer) -> Option<ConnectionInfo> {
        let named: Vec<String> = self.named.iter().map(place).collect();
        let nodes = answer.nodes.into_iter().map(|(host, port)| elsewhere(asked, host, port));
        self.lock().learned = nodes.filter(|node| !named.contains(&place(node))).collect();
        answer.owner.map(|(host, port)| elsewhere(asked, host, port))
    }

    fn all(&self, state: &State) -> Vec<ConnectionInfo> {
        self.named.iter().chain(&state.learned).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a node which slot a key has, and which node has which slots.
pub(super) fn question(key: &str) -> Pipeline {
    let mut pipeline = pipe();
    pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key).cmd("CLUSTER").arg("SLOTS");
    pipeline
}

/// Reads the answer of the node that was asked; none if it is not of the form that Redis gives.
pub(super) fn read(slot: i64, slots: &Value, asked: &ConnectionInfo) -> Option<Answer> {
    let mut answer = Answer { nodes: Vec::new(), owner: None };
    let Value::Array(ranges) = slots else { return None };
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = range.as_slice() else { return None };
        for (index, node) in nodes.iter().enumerate() {
            let node = node_of(node, asked)?;
            if index == 0 && (*first..=*last).contains(&slot) {
                answer.owner = Some(node.clone());
            }
            if !answer.nodes.contains(&node) {
                answer.nodes.push(node);
            }
        }
    }
    Some(answer)
}

fn node_of(node: &Value, asked: &ConnectionInfo) -> Option<(String, u16)> {
    let Value::Array(node) = node else { return None };
    let [name, Value::Int(port), ..] = node.as_slice() else { return None };
    let name = match name {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    };
    // A node that does not know what it is called is where it was asked.
    let name = if matches!(&*name, "" | "?") { host(asked).to_owned() } else { name };
    Some((name, u16::try_from(*port).ok()?))
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    fn info(url: &str) -> ConnectionInfo {
        url.into_connection_info().expect("a readable URL")
    }

    fn node(name: &str, port: i64) -> Value {
        Value::Array(vec![Value::BulkString(name.into()), Value::Int(port), Value::BulkString("id".into())])
    }

    fn slots() -> Value {
        let range =
            |first, last, nodes: Vec<Value>| Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat());
        Value::Array(vec![
            range(0, 99, vec![node("a", 1), node("b", 2)]),
            range(100, 16383, vec![node("", 3), node("a", 1)]),
        ])
    }

    #[test]
    fn the_primary_of_a_slot_is_found_and_every_node_learned_once() {
        let asked = info("redis://asked:9");

        let answer = read(100, &slots(), &asked).expect("an answer");

        assert_eq!(answer.owner, Some(("asked".to_owned(), 3)));
        assert_eq!(answer.nodes, [("a".to_owned(), 1), ("b".to_owned(), 2), ("asked".to_owned(), 3)]);
        assert_eq!(read(99, &slots(), &asked).expect("an answer").owner, Some(("a".to_owned(), 1)));
        assert_eq!(read(0, &Value::Array(Vec::new()), &asked).expect("an answer").owner, None);
        assert_eq!(read(0, &Value::Nil, &asked), None);
    }

    #[test]
    fn the_node_that_took_a_connection_is_asked_first_and_others_follow() {
        let asked = info("redis://u:p@asked:9");
        let nodes = Nodes::new(vec![asked.clone()]);
        let owner = nodes.learn(&asked, read(0, &slots(), &asked).expect("an answer")).expect("an owner");

        nodes.prefer(&owner);

        let places = |infos: Vec<ConnectionInfo>| infos.iter().map(place).collect::<Vec<_>>();
        assert_eq!(places(nodes.steady()), ["a:1", "b:2", "asked:3", "asked:9"]);
        assert_eq!(owner.redis_settings().password(), Some("p"));
        assert_ne!(places(nodes.in_turn()), places(nodes.in_turn()));
    }
}
