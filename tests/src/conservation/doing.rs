//! Carries faults out, and gives everybody the means to come back.

use std::time::{Duration, Instant};

use super::faults::{Fault, Planned};
use super::{CLAIM_AFTER, GROUP, Run, STREAM};
use crate::streams::Stream;
use crate::wait::eventually;

/// How long something may take to be noticed.
const SOON: Duration = Duration::from_secs(60);
/// Events that are added while something is to be noticed.
const A_FEW: usize = 200;
/// Events that a worker is at work on for longer than between two looks.
const MANY: usize = 1000;
/// So often a worker is killed until it had something in hand.
const TRIES: usize = 10;

/// What a kill of worker and PostgreSQL came between.
#[derive(Clone, Copy, Debug)]
pub struct KilledBetween {
    /// Events that were confirmed for the first time before it.
    pub confirmed: usize,
    /// Entries that the worker had taken and not acknowledged.
    pub in_hand: usize,
}

impl Run {
    /// Publishes so many events, and does what is planned while workers store them.
    pub fn go_through(&mut self, planned: &Planned, events: usize) {
        self.begin(events, events * planned.after / 100, planned.delay);
        let begun = Instant::now();
        let victim = planned.victim % self.crew.count();
        match planned.fault {
            Fault::KillWorker => self.kill_worker(victim, planned.audited),
            Fault::StopWorker => self.stop_worker(victim),
            Fault::KillRedis => self.kill_redis(planned.outage),
            Fault::CutClients => self.cut_clients(),
            Fault::StopPostgres => self.stop_postgres(planned.outage, planned.audited),
            Fault::FillDisk => self.fill_disk(planned.outage),
        }
        let (fault, added, confirmed) = (planned.fault, self.producer.added(), self.confirmed.all.len());
        eprintln!("  {added:7} published, {confirmed:7} confirmed, {fault:?} ({victim}) {:?}", begun.elapsed());
    }

    /// When everything is stored publishes so many events more, and kills the first worker and PostgreSQL at once after a
    /// confirmation. Looks for what was confirmed before anybody can store it again.
    ///
    /// # Panics
    /// When the run does not store in PostgreSQL.
    pub fn kill_both_after_a_confirmation(&mut self, events: usize, delay: Duration) -> KilledBetween {
        self.settle();
        self.confirmed.note_all(&self.redis);
        self.confirmed.take_new();
        self.begin(events, 0, delay);
        let (crew, postgres) = (&mut self.crew, self.postgres.as_mut().expect("it stores in PostgreSQL"));
        std::thread::scope(|scope| {
            scope.spawn(|| postgres.stop_immediately());
            crew.kill(0);
        });
        postgres.restart();
        let confirmed = self.audit();
        let in_hand = self.in_hand_of(0);
        self.crew.start_again(0);
        KilledBetween { confirmed, in_hand }
    }

    /// Asks for events, and waits until more than so many were confirmed since.
    fn begin(&mut self, events: usize, confirmed: usize, delay: Duration) {
        self.crew.look();
        self.confirmed.note();
        self.producer.ask_for(events);
        self.confirmed.wait_for(confirmed + 1);
        std::thread::sleep(delay);
    }

    /// Again while it had nothing in hand, which is no fault.
    fn kill_worker(&mut self, victim: usize, audited: bool) {
        for _ in 0..TRIES {
            self.crew.look();
            self.crew.kill(victim);
            if audited {
                self.audit();
            }
            let in_hand = self.in_hand_of(victim);
            self.crew.start_again(victim);
            if in_hand > 0 {
                return;
            }
            eventually(SOON, "the worker to have entries in hand", || {
                if self.producer.is_idle() {
                    self.producer.ask_for(MANY);
                }
                self.in_hand_of(victim) > 0
            });
        }
        panic!("{TRIES} kills met no entry on its way");
    }

    /// Entries that a worker has taken and not acknowledged.
    fn in_hand_of(&self, place: usize) -> usize {
        Stream::new(&self.redis, STREAM).pending_of(GROUP, &Self::name_of(place)).len()
    }

    /// The others take over what it has in hand, and it then goes on with the same. Nobody else is there for a while, so
    /// that it has to show that it reads new entries, too.
    fn stop_worker(&mut self, victim: usize) {
        self.crew.freeze(|place| place == victim);
        std::thread::sleep(CLAIM_AFTER + CLAIM_AFTER / 2);
        if self.crew.count() > 1 {
            let name = Self::name_of(victim);
            let mut stream = Stream::new(&self.redis, STREAM);
            eventually(SOON, "the others to take over", || stream.pending_of(GROUP, &name).is_empty());
        }
        self.crew.freeze(|place| place != victim);
        self.crew.thaw(|place| place == victim);
        let taken = |run: &Self| run.crew.worker(victim).http().metric("storage_worker_stream_entries_total", &[]);
        let before = taken(self);
        self.producer.ask_for(A_FEW);
        eventually(SOON, "it to read entries again", || taken(self) > before);
        self.crew.thaw(|place| place != victim);
    }

    fn kill_redis(&mut self, outage: Duration) {
        let subscriptions = self.confirmed.listener().subscriptions();
        self.redis.kill();
        std::thread::sleep(outage);
        self.redis.restart();
        self.confirmed.listener().wait_for_subscription(subscriptions + 1);
    }

    /// The connection that says so and those that listen stay.
    fn cut_clients(&self) {
        let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
        redis::cmd("CLIENT").arg(&kill).exec(&mut self.redis.connect()).expect("end connections");
    }

    fn stop_postgres(&mut self, outage: Duration, audited: bool) {
        let postgres = self.postgres.as_mut().expect("it stores in PostgreSQL");
        postgres.stop_immediately();
        std::thread::sleep(outage);
        if audited {
            self.crew.freeze(|_| true);
        }
        postgres.restart();
        if audited {
            self.audit();
            self.crew.thaw(|_| true);
        }
    }

    fn fill_disk(&mut self, outage: Duration) {
        let disk = self.disk.as_ref().expect("there is a disk that can be filled");
        disk.fill();
        let health = || self.crew.worker(0).http().get("/health").status;
        eventually(SOON, "the worker to notice that the disk is full", || {
            if self.producer.is_idle() {
                self.producer.ask_for(A_FEW);
            }
            health() == 503
        });
        std::thread::sleep(outage);
        disk.make_room();
        eventually(SOON, "the worker to be well again", || health() == 200);
    }
}
