//! Every message that a producer is known to send is taken, and stored as the second model says.

use std::time::{SystemTime, UNIX_EPOCH};

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::{NOON, lifecycles::Life};
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, expected, parse_time};
use storage_worker_tests::worker::Setup;

use crate::SOON;

#[test]
fn every_message_of_every_producer_is_taken() {
    let redis = RedisServer::start();
    let setup = Setup::new(&redis.url(), "memory");
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut publisher = Publisher::new(&redis);
    let mut random = fastrand::Rng::with_seed(12);
    let variants = Life::new("unused", NOON).every_variant(&mut random).len();

    for variant in 0..variants {
        let id = format!("20250101_120000_{variant:08x}");
        let (name, (channel, payload)) = Life::new(&id, NOON).every_variant(&mut random).swap_remove(variant);
        let sent = [Sent::new(channel, &payload)];
        let before = now();

        publisher.publish(&sent);

        let confirmation = confirmations.wait_for(1, SOON).remove(0);
        confirmations.take();
        let made_it = matches!(channel, "evaluation:submitted" | "evaluation:queued");
        let confirmed_on = if made_it { "storage:evaluation:created" } else { "storage:evaluation:updated" };
        assert_eq!((confirmation.text("eval_id"), &*confirmation.channel), (&*id, confirmed_on), "{name}");
        // A message without a time counts from its arrival, which only the worker knows.
        let history = worker.history(&id);
        let arrival = history[0]["timestamp"].as_str().and_then(parse_time).expect("a history entry has a time");
        let model = expected(&sent, arrival).remove(&id).expect("the message is valid");
        assert_eq!(worker.record(&id), Some(model.record), "{name}");
        assert_eq!(history, model.history, "{name}");
        let told_its_time = arrival < NOON + 3_600_000_000;
        assert!(told_its_time || (before..=now()).contains(&arrival), "{name}: the time of arrival is {arrival}");
    }

    assert!(setup.dead_letters().is_empty());
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    i64::try_from(now.as_micros()).expect("it is earlier than the year 292000")
}
