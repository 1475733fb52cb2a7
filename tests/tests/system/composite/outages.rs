//! A primary that goes away and comes back, flapping, while events and readers go on, and a worker that is killed meanwhile.
//!
//! `OUTAGE_SECONDS=60` is how long it is away; 3 s else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::generate::Generator;
use storage_worker_tests::http::Http;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::{Sent, read};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{assert_stored, composite, detail, give_back, take_away, wait_until_caught_up};
use crate::SOON;

/// Between two evaluations that are told of.
const PACE: Duration = Duration::from_millis(15);
/// The rest of so many evaluations is told of later.
const UNFINISHED: usize = 60;

fn outage() -> Duration {
    let asked = std::env::var("OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(asked.unwrap_or(3))
}

/// What was confirmed, and what readers saw of it.
#[derive(Default)]
struct Witness {
    /// Events by evaluation.
    confirmed: Mutex<BTreeMap<String, BTreeSet<String>>>,
    reads: AtomicUsize,
    /// Reads that were answered as unavailable.
    unavailable: AtomicUsize,
    stopped: AtomicBool,
}

impl Witness {
    fn note(&self, id: String, event: String) {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().insert(event);
    }

    /// Reads one evaluation: whatever was confirmed before is in the answer, unless that says that it is unavailable.
    fn read(&self, http: &Http, random: &mut fastrand::Rng) {
        let (id, events) = {
            let confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((id, events)) = confirmed.iter().nth(random.usize(..confirmed.len().max(1))) else { return };
            (id.clone(), events.clone())
        };
        let answer = http.get(&format!("/evaluations/{id}/events"));
        self.reads.fetch_add(1, Ordering::Relaxed);
        if answer.status == 503 {
            self.unavailable.fetch_add(1, Ordering::Relaxed);
            return;
        }
        assert_eq!(answer.status, 200, "{id} was confirmed; {}", answer.body);
        for event in events {
            assert!(answer.body.contains(&event), "{event} of {id} was confirmed; read: {}", answer.body);
        }
    }

    fn read_on(&self, http: &Http, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        while !self.stopped.load(Ordering::Acquire) {
            self.read(http, &mut random);
        }
    }

    fn figures(&self) -> String {
        let [reads, unavailable] = [&self.reads, &self.unavailable].map(|count| count.load(Ordering::Relaxed));
        format!("{reads} reads, {unavailable} of them unavailable")
    }
}

/// Tells of evaluations, of each a part now and the rest later, and waits for the confirmations.
struct Teller<'a> {
    witness: &'a Witness,
    confirmations: &'a Confirmations,
    publisher: Publisher,
    generator: Generator,
    random: fastrand::Rng,
    unfinished: Vec<Vec<Sent>>,
    told: Vec<Sent>,
}

impl<'a> Teller<'a> {
    fn new(redis: &RedisServer, confirmations: &'a Confirmations, witness: &'a Witness, seed: u64) -> Self {
        let (publisher, generator) = (Publisher::new(redis), Generator::new(seed));
        let random = fastrand::Rng::with_seed(seed);
        Self { witness, confirmations, publisher, generator, random, unfinished: Vec::new(), told: Vec::new() }
    }

    /// Publishes events, all of which are confirmed as durable. The backends that took them.
    #[track_caller]
    fn tell(&mut self, events: Vec<Sent>) -> BTreeSet<String> {
        self.publisher.publish(&events);
        self.confirmations.wait_for(events.len(), Duration::from_secs(60));
        let mut backends = BTreeSet::new();
        for confirmation in self.confirmations.take() {
            assert_eq!(confirmation.text("durability"), "durable", "{confirmation:?}");
            let is_accepted = confirmation.text("result") == "accepted";
            assert_eq!(is_accepted, confirmation.text("backend") == "disk", "{confirmation:?}");
            backends.insert(confirmation.text("backend").to_owned());
            let (id, event) = confirmation.about();
            self.witness.note(id, event);
        }
        self.told.extend(events);
        backends
    }

    /// Goes on for so long. The backends that took the events.
    #[track_caller]
    fn go_on(&mut self, time: Duration) -> BTreeSet<String> {
        let end = Instant::now() + time;
        let mut backends = BTreeSet::new();
        while Instant::now() < end {
            let mut events = self.generator.lifecycle();
            self.unfinished.push(events.split_off(events.len() / 2));
            if self.unfinished.len() > UNFINISHED {
                events.extend(self.unfinished.swap_remove(self.random.usize(..UNFINISHED)));
            }
            backends.extend(self.tell(events));
            std::thread::sleep(PACE);
        }
        backends
    }

    #[track_caller]
    fn finish(mut self) -> Vec<Sent> {
        let rest: Vec<Sent> = std::mem::take(&mut self.unfinished).into_iter().flatten().collect();
        self.tell(rest);
        self.told
    }
}

/// Takes the primary away and gives it back, quickly, until it is stopped.
fn flap(setup: &Setup, stopped: &AtomicBool) {
    while !stopped.load(Ordering::Acquire) {
        give_back(setup);
        std::thread::sleep(Duration::from_millis(60));
        take_away(setup);
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// Ends what waits for it, however a test ends.
struct StopAtTheEnd<'a>(&'a AtomicBool);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
#[test]
fn a_primary_that_goes_away_and_flaps_as_it_returns_has_everything_in_the_end() {
    let redis = RedisServer::start();
    let setup = composite(&redis);
    let worker = setup.start();
    let (confirmations, witness, flapped) = (Confirmations::listen(&redis), Witness::default(), AtomicBool::new(false));
    let mut teller = Teller::new(&redis, &confirmations, &witness, 11);

    std::thread::scope(|scope| {
        let _stop = [&witness.stopped, &flapped].map(StopAtTheEnd);
        for seed in 0..2 {
            let (witness, http) = (&witness, worker.http());
            scope.spawn(move || witness.read_on(http, seed));
        }
        let before = teller.go_on(Duration::from_secs(1));
        assert_eq!(before, ["files".to_owned()].into(), "the primary took it all");

        take_away(&setup);
        let during = teller.go_on(outage());

        assert_eq!(during, ["disk".to_owned()].into(), "the fallback took it all");
        let last = teller.told.last().expect("something was told");
        let id = read(&last.channel, &last.payload, 0).expect("it is valid").evaluation_id;
        assert_eq!(worker.record(&id).expect("what is confirmed can be read")["incomplete"], true);
        assert_eq!(detail(&worker, "main", "state"), "fallback");
        assert!(worker.is_ready(), "it goes on without its primary");
        let flapping = scope.spawn(|| flap(&setup, &flapped));
        teller.go_on(outage() / 3);
        flapped.store(true, Ordering::Release);
        flapping.join().expect("it flaps until it is told to stop");
        give_back(&setup);
        wait_until_caught_up(&worker);
    });

    let (events, accepted) =
        (teller.finish(), worker.http().metric("storage_worker_backend_count_total", &["accepted"]));
    println!("{:?} away: {} events, {accepted} accepted, {}", outage(), events.len(), witness.figures());
    assert!(accepted > 0.0, "{}", worker.http().get("/metrics").body);
    assert_stored(&setup, worker, &events);
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
#[test]
fn nothing_is_lost_when_the_worker_is_killed_while_it_catches_up() {
    let redis = RedisServer::start();
    let setup =
        composite(&redis).set("backends.far.options.slow_ms", 30).set("backends.main.options.catch_up_batch", 4);
    take_away(&setup);
    let worker = setup.start();
    let (confirmations, witness) = (Confirmations::listen(&redis), Witness::default());
    let mut teller = Teller::new(&redis, &confirmations, &witness, 12);
    let many: Vec<Sent> = (0..200).flat_map(|_| teller.generator.lifecycle()).collect();
    teller.tell(many);
    teller.go_on(outage());
    let events = teller.finish();
    worker.kill();
    give_back(&setup);

    let (mut random, mut held_at) = (fastrand::Rng::with_seed(12), Vec::new());
    for kill in 0..3 {
        let worker = setup.start();
        let held = || detail(&worker, "main", "fallback_held").as_u64().expect("a number");
        let at_start = held();
        assert!(at_start > 0, "kill {kill}: nothing is left to catch up with");
        held_at.push(at_start);
        eventually(SOON, "the catch-up to be at work", || {
            witness.read(worker.http(), &mut random);
            held() + 12 < at_start.max(13)
        });
        worker.kill();
    }

    let worker = setup.start();
    for _ in 0..100 {
        witness.read(worker.http(), &mut random);
    }
    wait_until_caught_up(&worker);
    println!("{:?} away: {} events, held at the starts {held_at:?}, {}", outage(), events.len(), witness.figures());
    assert_stored(&setup, worker, &events);
}
