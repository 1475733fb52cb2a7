//! SIGTERM: what was read is stored and acknowledged, and the rest stays in the stream.

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;

use super::{GROUP, STREAM, assert_all_stored, setup, wait_until_settled};
use crate::SOON;

#[test]
fn a_drain_acknowledges_what_it_has_stored_and_leaves_the_rest_in_the_stream() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "file", "a");
    let mut stream = Stream::new(&redis, STREAM);
    let mut generator = Generator::new(15);
    let mut events = Vec::new();

    for _ in 0..3 {
        let confirmations = Confirmations::listen(&redis);
        let worker = setup.start();
        let added: Vec<Sent> = (0..1000).flat_map(|_| generator.any_set()).collect();
        stream.add(&added);
        events.extend(added);
        eventually(SOON, "the worker to be at work", || confirmations.count() > 0);

        let (status, log) = worker.terminate(SOON);

        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(stream.pending(GROUP), 0);
        assert_eq!(stream.consumers(GROUP), ["a"], "its run is out of the group");
    }
    let worker = setup.start();
    wait_until_settled(&mut stream);
    assert_all_stored(&worker, &events);
    assert!(setup.dead_letters().is_empty());
}
