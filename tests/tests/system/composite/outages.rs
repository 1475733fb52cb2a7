//! A primary that goes away and comes back, flapping, while events and readers go on, and a worker that is killed meanwhile.
//!
//! `OUTAGE_SECONDS=60` is how long it is away; 3 s else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use storage_worker_tests::confirmations::{Confirmation, Confirmations};
use storage_worker_tests::generate::Generator;
use storage_worker_tests::http::{Answer, Http};
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
/// The statuses that last.
const ENDED: [&str; 3] = ["completed", "failed", "cancelled"];

fn outage() -> Duration {
    let asked = std::env::var("OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(asked.unwrap_or(3))
}

/// What a read must show at the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// All that was confirmed: the primary is there.
    Whole,
    /// All that the fallback took: the primary is away, and what only it has can be missing.
    Fallback,
    /// All that was confirmed, or it says that it is incomplete.
    Changing,
}

/// What was confirmed of an evaluation.
#[derive(Clone, Default)]
struct Known {
    /// Events, and whether the fallback took them.
    events: BTreeMap<String, bool>,
    /// The last one that was confirmed since the outage began.
    last: Option<String>,
    has_ended: bool,
}

/// What was confirmed, and what readers saw of it.
struct Witness {
    confirmed: Mutex<BTreeMap<String, Known>>,
    phase: Mutex<Phase>,
    reads: AtomicUsize,
    /// Reads that were answered as unavailable, or marked incomplete.
    unavailable: AtomicUsize,
    incomplete: AtomicUsize,
    stopped: AtomicBool,
}

impl Witness {
    fn new() -> Self {
        Self {
            confirmed: Mutex::default(),
            phase: Mutex::new(Phase::Whole),
            reads: AtomicUsize::new(0),
            unavailable: AtomicUsize::new(0),
            incomplete: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    fn note(&self, confirmation: &Confirmation) {
        let (id, event) = confirmation.about();
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = confirmed.entry(id).or_default();
        known.last = (self.phase() != Phase::Whole).then(|| event.clone());
        known.events.insert(event, confirmation.text("backend") == "disk");
        known.has_ended |= ENDED.contains(&confirmation.text("status"));
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_phase(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Reads one evaluation, which is not older than what was confirmed before.
    fn read(&self, http: &Http, random: &mut fastrand::Rng) {
        let (id, known) = {
            let confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((id, known)) = confirmed.iter().nth(random.usize(..confirmed.len().max(1))) else { return };
            (id.clone(), known.clone())
        };
        let before = self.phase();
        let Some(record) = self.answer(http, &format!("/evaluations/{id}")) else { return };
        let record = record.json();
        if record["incomplete"] == true {
            self.incomplete.fetch_add(1, Ordering::Relaxed);
            assert_ne!((before, self.phase()), (Phase::Whole, Phase::Whole), "{record}");
        } else if known.has_ended {
            let status = record["status"].as_str().unwrap_or_default();
            assert!(ENDED.contains(&status), "the end of {id} was confirmed; read: {record}");
        }
        let Some(events) = self.answer(http, &format!("/evaluations/{id}/events")) else { return };
        // A read during which the phase changes may belong to either.
        let phase = if self.phase() == before { before } else { Phase::Changing };
        let is_promised = |event: &String, by_fallback: bool| match phase {
            Phase::Whole => true,
            Phase::Fallback => by_fallback,
            // Whoever took it, and whatever became of it since.
            Phase::Changing => known.last.as_ref() == Some(event),
        };
        for (event, _) in known.events.iter().filter(|(event, by_fallback)| is_promised(event, **by_fallback)) {
            assert!(events.body.contains(event), "{event} of {id} was confirmed; read: {}", events.body);
        }
    }

    /// None if it cannot be had now.
    fn answer(&self, http: &Http, path: &str) -> Option<Answer> {
        let answer = http.get(path);
        self.reads.fetch_add(1, Ordering::Relaxed);
        if answer.status == 503 {
            self.unavailable.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        assert_eq!(answer.status, 200, "{path} was confirmed; {}", answer.body);
        Some(answer)
    }

    fn read_on(&self, http: &Http, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        while !self.stopped.load(Ordering::Acquire) {
            self.read(http, &mut random);
        }
    }

    fn figures(&self) -> String {
        let counts = [&self.reads, &self.incomplete, &self.unavailable];
        let [reads, incomplete, unavailable] = counts.map(|count| count.load(Ordering::Relaxed));
        format!("{reads} reads, {incomplete} of them incomplete, {unavailable} unavailable")
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
            self.witness.note(&confirmation);
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
    let (confirmations, witness, flapped) = (Confirmations::listen(&redis), Witness::new(), AtomicBool::new(false));
    let mut teller = Teller::new(&redis, &confirmations, &witness, 11);

    std::thread::scope(|scope| {
        let _stop = [&witness.stopped, &flapped].map(StopAtTheEnd);
        for seed in 0..2 {
            let (witness, http) = (&witness, worker.http());
            scope.spawn(move || witness.read_on(http, seed));
        }
        let before = teller.go_on(Duration::from_secs(1));
        assert_eq!(before, ["files".to_owned()].into(), "the primary took it all");

        witness.set_phase(Phase::Changing);
        take_away(&setup);
        witness.set_phase(Phase::Fallback);
        let during = teller.go_on(outage());

        assert_eq!(during, ["disk".to_owned()].into(), "the fallback took it all");
        let last = teller.told.last().expect("something was told");
        let id = read(&last.channel, &last.payload, 0).expect("it is valid").evaluation_id;
        assert_eq!(worker.record(&id).expect("what is confirmed can be read")["incomplete"], true);
        assert_eq!(detail(&worker, "main", "state"), "fallback");
        assert!(worker.is_ready(), "it goes on without its primary");
        witness.set_phase(Phase::Changing);
        let flapping = scope.spawn(|| flap(&setup, &flapped));
        teller.go_on(outage() / 3);
        flapped.store(true, Ordering::Release);
        flapping.join().expect("it flaps until it is told to stop");
        give_back(&setup);
        wait_until_caught_up(&worker);
        witness.set_phase(Phase::Whole);
        std::thread::sleep(Duration::from_millis(300));
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
    let (confirmations, witness) = (Confirmations::listen(&redis), Witness::new());
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
