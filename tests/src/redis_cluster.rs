//! A private Redis Cluster on 127.0.0.1: masters that share the slots evenly, and replicas as asked for.

use std::time::Duration;

use redis::{Value, cmd};

use crate::redis_server::{RedisServer, free_port};
use crate::wait::eventually;

/// How many slots a cluster has.
const SLOTS: usize = 16384;
/// How long the nodes may take to agree on something.
const AGREE_LIMIT: Duration = Duration::from_secs(60);

/// A cluster. Its nodes are stopped when dropped.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters as it was started, then the replicas.
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts masters, and replicas of the first of them, and waits until all agree.
    ///
    /// # Panics
    /// When they do not in time.
    #[must_use]
    pub fn start(masters: usize, replicas: usize) -> Self {
        let (nodes, ports): (Vec<RedisServer>, Vec<u16>) = (0..masters + replicas).map(|_| start_node()).unzip();
        let cluster = Self { nodes };
        for index in 0..masters {
            let (first, end) = (SLOTS * index / masters, SLOTS * (index + 1) / masters);
            cluster.command(index, &["ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]);
            // Each its own, or they have to settle it between them first.
            cluster.command(index, &["SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for (node, bus_port) in cluster.nodes.iter().zip(&ports).skip(1) {
            cluster.command(0, &["MEET", "127.0.0.1", &node.port().to_string(), &bus_port.to_string()]);
        }
        let all = masters + replicas;
        cluster.wait_for("the nodes to know each other", |node| known_nodes(node) == all);
        let first = cluster.id(0);
        for replica in masters..all {
            cluster.command(replica, &["REPLICATE", &first]);
        }
        cluster.wait_for("the cluster to be well", |node| info(node).contains("cluster_state:ok"));
        if replicas > 0 {
            let replication = |node: &RedisServer| text(node, &["INFO", "replication"]);
            let connected = format!("connected_slaves:{replicas}");
            eventually(AGREE_LIMIT, "the replicas to be in step", || {
                let is_linked = |node| replication(node).contains("master_link_status:up");
                replication(&cluster.nodes[0]).contains(&connected) && cluster.nodes[masters..].iter().all(is_linked)
            });
        }
        cluster
    }

    /// Where a worker finds it: by two of its nodes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", self.nodes[0].port(), self.nodes[1].port())
    }

    /// A node, by its place: the masters come first.
    #[must_use]
    pub fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index]
    }

    /// A node, to kill and start again.
    pub fn node_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.nodes[index]
    }

    /// A key that begins so, and whose slot the cluster gave to a master when it was started.
    #[must_use]
    pub fn key_on(&self, master: usize, masters: usize, prefix: &str) -> String {
        let range = SLOTS * master / masters..SLOTS * (master + 1) / masters;
        let mut keys = (0..).map(|number| format!("{prefix}:{{{number}}}"));
        keys.find(|key| range.contains(&self.slot(key))).expect("some key is in every range")
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot(&self, key: &str) -> usize {
        let live = self.nodes.iter().find_map(|node| node.try_connect().ok());
        let mut connection = live.expect("a node lives");
        cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut connection).expect("ask for a slot")
    }

    /// The id of a node.
    #[must_use]
    pub fn id(&self, index: usize) -> String {
        text(&self.nodes[index], &["CLUSTER", "MYID"])
    }

    /// Has a node run a command about the cluster.
    ///
    /// # Panics
    /// When it refuses.
    #[track_caller]
    pub fn command(&self, index: usize, arguments: &[&str]) -> Value {
        let answer = cmd("CLUSTER").arg(arguments).query(&mut self.nodes[index].connect());
        answer.unwrap_or_else(|error| panic!("CLUSTER {arguments:?}: {error}"))
    }

    /// Moves a slot with one key in it from a node to another, as a resharding does.
    ///
    /// # Panics
    /// When a node refuses.
    pub fn move_slot(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot(key).to_string();
        let (source, target) = (self.id(from), self.id(to));
        self.command(to, &["SETSLOT", &slot, "IMPORTING", &source]);
        self.command(from, &["SETSLOT", &slot, "MIGRATING", &target]);
        let port = self.nodes[to].port().to_string();
        let migrate =
            cmd("MIGRATE").arg(&["127.0.0.1", port.as_str(), key, "0", "30000"]).exec(&mut self.nodes[from].connect());
        migrate.expect("move the key");
        for index in [to, from] {
            self.command(index, &["SETSLOT", &slot, "NODE", &target]);
        }
    }

    /// Waits until every node that lives says so.
    #[track_caller]
    fn wait_for(&self, what: &str, is_so: impl Fn(&RedisServer) -> bool) {
        eventually(AGREE_LIMIT, what, || self.nodes.iter().all(&is_so));
    }
}

/// A node without slots, and the port on which the nodes speak to each other.
fn start_node() -> (RedisServer, u16) {
    let bus_port = free_port();
    let bus = bus_port.to_string();
    let arguments = [
        ["--cluster-enabled", "yes"],
        ["--cluster-port", bus.as_str()],
        ["--cluster-node-timeout", "2000"],
        // A node that is away takes the slots of the others along otherwise.
        ["--cluster-require-full-coverage", "no"],
        ["--appendfsync", "always"],
    ];
    (RedisServer::start_with(arguments.as_flattened()), bus_port)
}

fn text(node: &RedisServer, words: &[&str]) -> String {
    let answer = cmd(words[0]).arg(&words[1..]).query(&mut node.connect());
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn info(node: &RedisServer) -> String {
    text(node, &["CLUSTER", "INFO"])
}

fn known_nodes(node: &RedisServer) -> usize {
    let line = info(node).lines().find_map(|line| line.trim().strip_prefix("cluster_known_nodes:")?.parse().ok());
    line.expect("a node counts the nodes that it knows")
}
