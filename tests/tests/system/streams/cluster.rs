//! Redis Cluster: a stream on each primary, and pub/sub beside them; nodes that die, take over, and hand slots on.

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_cluster::RedisCluster;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use super::{assert_all_stored, wait_until_settled};
use crate::SOON;

const MASTERS: usize = 3;

/// A stream on each primary, by the primary's place.
fn streams(cluster: &RedisCluster) -> Vec<String> {
    (0..MASTERS).map(|master| cluster.key_on(master, MASTERS, "events")).collect()
}

fn setup(cluster: &RedisCluster, streams: &[String], plugin: &str) -> Setup {
    Setup::new(&cluster.url(), plugin)
        .set("source.streams.streams", streams.to_vec())
        .set("source.streams.block", "100ms")
        .set("source.streams.claim_after", "2s")
        .set("redis.reconnect_max", "500ms")
        .set("worker.name", "a")
}

fn events(generator: &mut Generator, sets: usize) -> Vec<Sent> {
    (0..sets).flat_map(|_| generator.any_set()).collect()
}

/// Adds events to a stream on the node that has it, and waits until all are settled.
fn add_and_wait(node: &RedisServer, key: &str, events: &[Sent]) {
    let mut stream = Stream::new(node, key);
    stream.add(events);
    wait_until_settled(&mut stream);
}

fn wait_for_health(worker: &Worker, status: u16) {
    eventually(SOON, "health to change", || worker.http().get("/health").status == status);
}

#[test]
fn events_over_all_primaries_are_stored_and_a_slot_that_moves_is_followed() {
    let cluster = RedisCluster::start(MASTERS, 0);
    let keys = streams(&cluster);
    let setup = setup(&cluster, &keys, "memory");
    let worker = setup.start();
    // One node hears what is confirmed through another.
    let confirmations = Confirmations::listen(cluster.node(2));
    let mut generator = Generator::new(61);
    let mut all = Vec::new();

    for (master, key) in keys.iter().enumerate() {
        let added = events(&mut generator, 100);
        Stream::new(cluster.node(master), key).add(&added);
        all.extend(added);
    }
    let published = events(&mut generator, 30);
    let mut publisher = Publisher::new(cluster.node(1));
    // How many listeners there are at other nodes Redis does not count.
    for event in &published {
        publisher.try_publish(event).expect("publish");
    }
    all.extend(published);
    confirmations.wait_for(all.len(), SOON);
    for (master, key) in keys.iter().enumerate() {
        wait_until_settled(&mut Stream::new(cluster.node(master), key));
    }

    let before = events(&mut generator, 100);
    Stream::new(cluster.node(0), &keys[0]).add(&before);
    cluster.move_slot(&keys[0], 0, 1);
    let after = events(&mut generator, 100);
    add_and_wait(cluster.node(1), &keys[0], &after);
    all.extend(before.into_iter().chain(after));

    assert_all_stored(&worker, &all);
    assert!(setup.dead_letters().is_empty());
    wait_for_health(&worker, 200);
    let (status, log) = worker.terminate(SOON);
    assert_eq!(status.code(), Some(0), "{log}");
    let mut moved = Stream::new(cluster.node(1), &keys[0]);
    assert_eq!((moved.pending(super::GROUP), moved.consumers(super::GROUP)), (0, vec!["a".to_owned()]));
}

#[test]
fn a_primary_that_is_killed_holds_up_no_other_and_nothing_is_lost() {
    let mut cluster = RedisCluster::start(MASTERS, 1);
    let keys = streams(&cluster);
    let setup = setup(&cluster, &keys, "file");
    let worker = setup.start();
    let mut generator = Generator::new(62);
    let mut all = Vec::new();
    let mut add = |node: &RedisServer, key: &str| {
        let added = events(&mut generator, 100);
        Stream::new(node, key).add(&added);
        all.extend(added);
    };

    // It has no replica: what it has waits until it is back.
    add(cluster.node(2), &keys[2]);
    cluster.node_mut(2).kill();
    wait_for_health(&worker, 503);
    let health = worker.http().get("/health").json().to_string();
    assert!(health.contains(&keys[2]), "{health}");
    add(cluster.node(1), &keys[1]);
    wait_until_settled(&mut Stream::new(cluster.node(1), &keys[1]));
    cluster.node_mut(2).restart();
    wait_for_health(&worker, 200);
    add(cluster.node(2), &keys[2]);
    wait_until_settled(&mut Stream::new(cluster.node(2), &keys[2]));

    // The first has one, which takes over, with what it was told of.
    add(cluster.node(0), &keys[0]);
    redis::cmd("WAIT").arg(&["1", "10000"]).exec(&mut cluster.node(0).connect()).expect("wait for the replica");
    wait_until_settled(&mut Stream::new(cluster.node(0), &keys[0]));
    cluster.node_mut(0).kill();
    let role = |node: &RedisServer| redis::cmd("ROLE").query::<Vec<redis::Value>>(&mut node.connect()).expect("a role");
    eventually(SOON, "the replica to take over", || {
        role(cluster.node(3)).first() == Some(&redis::Value::BulkString(b"master".to_vec()))
    });
    eventually(SOON, "the new primary to take entries", || {
        redis::cmd("EXISTS").arg(&keys[0]).exec(&mut cluster.node(3).connect()).is_ok()
    });
    add(cluster.node(3), &keys[0]);
    wait_until_settled(&mut Stream::new(cluster.node(3), &keys[0]));
    wait_for_health(&worker, 200);

    assert_all_stored(&worker, &all);
    assert!(setup.dead_letters().is_empty());
}
