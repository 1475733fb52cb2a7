//! What happens to workers and servers in a run, and when: a schedule that follows from a seed.

use std::time::Duration;

/// Something that is done to a worker or to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of a worker, which is started again.
    KillWorker,
    /// A worker is stopped for longer than the claim time, and goes on.
    StopWorker,
    /// `kill -9` of Redis.
    KillRedis,
    /// Redis ends every connection but those that listen.
    CutClients,
    /// PostgreSQL ends at once, as `pg_ctl stop -m immediate` makes it.
    StopPostgres,
    /// Nothing more fits on the disk.
    FillDisk,
}

/// When and how a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What happens.
    pub fault: Fault,
    /// Which worker it happens to, by its place; taken modulo their number.
    pub victim: usize,
    /// How much of the events that belong to this fault must be confirmed before, in hundredths.
    pub after: usize,
    /// How long to wait then.
    pub delay: Duration,
    /// How long what is taken away stays away.
    pub outage: Duration,
    /// Whether what is stored is looked at before anybody has a chance to store it again.
    pub audited: bool,
}

/// So many faults of each of these kinds, in an order and with times that follow from the seed.
#[must_use]
pub fn schedule(seed: u64, kinds: &[Fault], each: usize) -> Vec<Planned> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut faults: Vec<Fault> = kinds.iter().flat_map(|fault| std::iter::repeat_n(*fault, each)).collect();
    random.shuffle(&mut faults);
    let mut seen: Vec<Fault> = Vec::new();
    let mut plan = |fault| {
        seen.push(fault);
        Planned {
            fault,
            victim: random.usize(..64),
            after: random.usize(..50),
            delay: Duration::from_millis(random.u64(..40)),
            outage: Duration::from_millis(random.u64(50..800)),
            // Every second one of a kind.
            audited: seen.iter().filter(|before| **before == fault).count() % 2 == 1,
        }
    };
    faults.into_iter().map(&mut plan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_schedule_with_as_many_faults_of_each_kind_as_asked_for() {
        let kinds = [Fault::KillWorker, Fault::KillRedis, Fault::StopPostgres];
        let make = |seed| schedule(seed, &kinds, 20);

        let planned = make(1);

        assert_eq!(planned, make(1));
        assert_ne!(planned, make(2));
        for kind in kinds {
            let of_kind = || planned.iter().filter(|planned| planned.fault == kind);
            assert_eq!(of_kind().count(), 20);
            assert_eq!(of_kind().filter(|planned| planned.audited).count(), 10);
        }
    }
}
