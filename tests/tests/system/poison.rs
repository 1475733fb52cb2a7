//! Poison among good events: all that is good is stored, all that is bad is a dead letter, and what that costs is printed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::{Setup, Worker};

use crate::SOON;

const STREAM: &str = "evaluation:events";
/// One in so many is bad.
const ONE_IN: usize = 1000;
/// Larger ones are refused.
const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// How many events there are in a round, and how many pairs of rounds; `make soak` has more.
fn size() -> (usize, usize) {
    match std::env::var_os("POISON_EVENTS").and_then(|text| text.to_str()?.parse().ok()) {
        Some(events) => (events, 5),
        None => (6000, 1),
    }
}

fn good(id: &str) -> Sent {
    let code = "print(42)\n".repeat(50);
    let at = "2025-01-01T12:00:00Z";
    Sent::new(
        "evaluation:queued",
        &json!({"eval_id": id, "event_id": format!("q-{id}"), "code": code, "timestamp": at}),
    )
}

/// A bad event of one of so many kinds, and the reason that its letter has.
fn bad(number: usize, id: &str) -> (Sent, &'static str) {
    let queued = |payload: &[u8]| Sent { channel: "evaluation:queued".to_owned(), payload: payload.to_vec() };
    let of = |payload: Value| queued(payload.to_string().as_bytes());
    match number % 6 {
        0 => (queued(format!("{{\"eval_id\":\"{id}\",\"code\":").as_bytes()), "invalid_json"),
        1 => {
            let parts: [&[u8]; 3] = [b"{\"eval_id\":\"", id.as_bytes(), b"\",\"code\":\"\xff\"}"];
            (queued(&parts.concat()), "invalid_utf8")
        }
        2 => (of(json!({"eval_id": id, "no": "code"})), "missing_field"),
        3 => (of(json!({"eval_id": format!("../{id}"), "code": "x"})), "invalid_id"),
        4 => (of(json!({"eval_id": id, "code": "x".repeat(MAX_PAYLOAD_BYTES)})), "too_large"),
        _ => (Sent::new("evaluation:unheard-of", &json!({"eval_id": id, "code": "x"})), "unknown_channel"),
    }
}

/// Events of a round, and the reasons of the letters to come.
fn events(round: &str, count: usize, is_poisoned: bool) -> (Vec<Sent>, Vec<&'static str>) {
    let mut reasons = Vec::new();
    let event = |number: usize| {
        let id = format!("{round}-{number}");
        if is_poisoned && number % ONE_IN == ONE_IN / 2 {
            let (sent, reason) = bad(number / ONE_IN, &id);
            reasons.push(reason);
            sent
        } else {
            good(&id)
        }
    };
    ((0..count).map(event).collect(), reasons)
}

fn setup(redis: &RedisServer, plugin: &str) -> Setup {
    Setup::new(&redis.url(), plugin)
        .set("source.pubsub.enabled", false)
        .set("source.streams.streams", vec![STREAM])
        .set("source.streams.block", "100ms")
        .set("worker.name", "a")
        .set("worker.max_payload_bytes", i64::try_from(MAX_PAYLOAD_BYTES).expect("it is small"))
        .set("worker.retry_max", "100ms")
}

/// Adds events while nobody reads, and gives how long a worker took from the first confirmation to the last event.
#[track_caller]
fn run(
    redis: &RedisServer,
    setup: &Setup,
    confirmations: &Confirmations,
    sent: &[Sent],
    good: usize,
) -> (Duration, Worker) {
    let mut stream = Stream::new(redis, STREAM);
    stream.add(sent);
    confirmations.take();
    let worker = setup.start_unready();
    confirmations.wait_for(1, SOON);
    let began = Instant::now();
    let limit = SOON + Duration::from_millis(5 * sent.len() as u64);
    confirmations.wait_for(good, limit);
    let took = began.elapsed();
    eventually(limit, "everything to be acknowledged", || stream.pending("storage-worker") == 0);
    (took, worker)
}

#[test]
fn one_bad_event_in_a_thousand_of_six_kinds_costs_no_good_one() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let setup = setup(&redis, "postgres")
        .set("backends.main.options.url", server.url())
        .set("backends.main.options.durability", "durable");
    let confirmations = Confirmations::listen(&redis);
    let (count, pairs) = size();
    // Tables and caches are warm after it.
    let (sent, _) = events("warm", count.min(6000), false);
    run(&redis, &setup, &confirmations, &sent, sent.len()).1.terminate(SOON);
    let (mut ratios, mut expected) = (Vec::new(), Vec::new());

    for pair in 0..pairs {
        let mut took = [Duration::ZERO; 2];
        for (index, is_poisoned) in [false, true].into_iter().enumerate() {
            let (sent, reasons) = events(&format!("r{pair}{index}"), count, is_poisoned);
            let good = count - reasons.len();
            let (time, worker) = run(&redis, &setup, &confirmations, &sent, good);
            let wanted: BTreeSet<_> = good_ids(&sent);
            let confirmed: BTreeSet<_> = confirmations.events().into_iter().map(|(id, _)| id).collect();
            assert_eq!((confirmed.len(), confirmed == wanted), (good, true), "every good one is confirmed, no other");
            expected.extend(reasons);
            took[index] = time;
            worker.terminate(SOON);
        }
        ratios.push(took[0].as_secs_f64() / took[1].as_secs_f64());
        eprintln!(
            "{count} events into postgres: {:.0}/s without poison, {:.0}/s with one bad in {ONE_IN}",
            count as f64 / took[0].as_secs_f64(),
            count as f64 / took[1].as_secs_f64()
        );
    }

    let stored: i64 = server.connect().number("SELECT count(*) FROM evaluations");
    let good = 6000.min(count) + pairs * 2 * count - expected.len();
    assert_eq!(stored, i64::try_from(good).expect("few"), "all that is good is stored, and nothing else");
    let mut reasons: Vec<String> =
        setup.dead_letters().iter().map(|letter| letter["reason"].as_str().expect("a reason").to_owned()).collect();
    reasons.sort_unstable();
    expected.sort_unstable();
    assert_eq!(reasons, expected, "all that is bad is a dead letter, once");
    ratios.sort_by(f64::total_cmp);
    eprintln!("throughput with poison against without: {:.2} (aim 0.7)", ratios[ratios.len() / 2]);
}

fn good_ids(sent: &[Sent]) -> BTreeSet<String> {
    let id = |event: &Sent| {
        let payload: Value = serde_json::from_slice(&event.payload).ok()?;
        let id = payload["event_id"].as_str()?;
        Some(id.strip_prefix("q-")?.to_owned())
    };
    sent.iter().filter_map(id).collect()
}

/// What storage refuses is found out by trying it apart from its neighbours, which costs more than what is no event.
#[test]
fn events_that_only_storage_refuses_cost_no_good_one() {
    for (way, reason) in [("invalid_item", "invalid_item"), ("internal", "internal"), ("panic", "internal")] {
        let redis = RedisServer::start();
        let setup = setup(&redis, "hostile").set("backends.main.options.merge", way);
        let confirmations = Confirmations::listen(&redis);
        let id =
            |number: usize| if number % ONE_IN == 500 { format!("hostile-{number}") } else { format!("e-{number}") };
        let mut stream = Stream::new(&redis, STREAM);
        stream.add(&(0..3000).map(|number| good(&id(number))).collect::<Vec<_>>());

        let worker = setup.start();
        let began = Instant::now();
        confirmations.wait_for(2997, SOON * 2);
        let took = began.elapsed();
        let mut more = 3000;
        eventually(SOON, "the letters", || {
            // Whether it is an event's fault shows in company only.
            stream.add(&(more..more + 8).map(|number| good(&format!("more-{number}"))).collect::<Vec<_>>());
            more += 8;
            setup.dead_letters().len() == 3
        });

        confirmations.wait_for(2997 + more - 3000, SOON);
        assert!(confirmations.events().iter().all(|(id, _)| !id.starts_with("hostile")), "{way}");
        let letters = setup.dead_letters();
        let reasons: Vec<&str> = letters.iter().filter_map(|letter| letter["reason"].as_str()).collect();
        assert_eq!(reasons, vec![reason; 3], "{way}");
        assert!(worker.record("e-501").is_some() && worker.record("hostile-500").is_none(), "{way}");
        eprintln!("3000 events, one in {ONE_IN} answered `{way}`: {:.0}/s", 3000.0 / took.as_secs_f64());
    }
}

/// It used to look ready for ever.
#[test]
fn a_backend_that_fails_at_everything_makes_the_worker_unready() {
    let redis = RedisServer::start();
    let setup = setup(&redis, "hostile").set("backends.main.options.merge", "internal");
    let sent: Vec<Sent> = (0..20).map(|number| good(&format!("hostile-{number}"))).collect();
    Stream::new(&redis, STREAM).add(&sent);

    let worker = setup.start_unready();

    eventually(SOON, "readiness to say so", || {
        let readiness = worker.http().get("/readyz");
        readiness.status == 503 && readiness.body.contains("hostile in `merge`")
    });
    assert!(setup.dead_letters().is_empty(), "an outage is no poison");
}
