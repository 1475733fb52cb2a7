//! The family *durability*, and several processes at once: what is seen from outside of the process that stores.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backend::{Delete, Deleted, Durability};
use crate::model::state::State;
use crate::names::HISTORY_PREFIX;

use super::delete::delete;
use super::events::{Flood, begun, joined, note};
use super::trial::{
    Trial, Unmet, call, call_ok, expect, expect_same, expect_stored, failed, get, merge, merge_one, open,
};
use super::{Behavior, Level, Need, Place, Processes, Synced};
use crate::model::status::Status;

/// How often a process is killed.
const KILLS: u64 = 5;

pub(super) const BEHAVIORS: &[Behavior] = &[
    behavior("durability.is_answered", "answers every item as `durable`, since it claims to be", is_answered),
    behavior(
        "durability.kept_when_reopened",
        "has everything, and nothing that was deleted, when it is opened again",
        kept_when_reopened,
    ),
    behavior("durability.synced_before_answered", "syncs what it wrote before it answers", synced_before_answered),
    behavior("durability.survives_kill", "has every answered item after its process was killed", survives_kill),
    Behavior {
        name: "shared.four_processes",
        asks: "loses nothing of what four processes merge into the same 1000 ids, and shows it to a fifth",
        level: Level::Shared,
        needs: Need::Shared,
        run: four_processes,
    },
];

const fn behavior(name: &'static str, asks: &'static str, run: fn(&Trial<'_>) -> Result<(), Unmet>) -> Behavior {
    Behavior { name, asks, level: Level::Durable, needs: Need::Durable, run }
}

fn processes(place: &dyn Place) -> Result<&dyn Processes, Unmet> {
    place.processes().ok_or_else(|| Unmet::NotRun("needs other processes; run `storage-worker plugin test`".to_owned()))
}

fn is_answered(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let ids = trial.ids(3);
    let state = note(1);
    for _ in 0..2 {
        for answer in merge(&*backend, &ids.iter().map(|id| (&**id, &state)).collect::<Vec<_>>())? {
            expect(answer.durability == Durability::Durable, "durable", || "volatile".to_owned())?;
        }
    }
    Ok(())
}

fn kept_when_reopened(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let backend = open(&*place)?;
    let ids = trial.ids(30);
    let first: Vec<State> = (1..=30).map(note).collect();
    let batch: Vec<(&str, &State)> = ids.iter().zip(&first).map(|(id, state)| (&**id, state)).collect();
    merge(&*backend, &batch)?;
    // Half of them are updated, and every third is deleted.
    let second = begun(100, Status::Completed, &trial.prefix);
    merge(&*backend, &ids.iter().step_by(2).map(|id| (&**id, &second)).collect::<Vec<_>>())?;
    let deleted: Vec<Delete<'_>> = ids.iter().step_by(3).map(|id| Delete { id, digest: None }).collect();
    delete(&*backend, &deleted, &vec![Deleted::Deleted; deleted.len()])?;
    backend.end()?;

    let backend = open(&*place)?;
    for (index, (id, first)) in ids.iter().zip(&first).enumerate() {
        let both = joined([first, &second]);
        let expected = if index % 2 == 0 { &both } else { first };
        expect_stored(&*backend, id, (index % 3 != 0).then_some(expected))?;
    }
    if trial.capabilities.list_by_id {
        let listed = trial.walk(&*backend, &crate::Query { language: None, ..trial.query(7) });
        if !trial.subject().has_others() {
            let (listed, expected) = (listed?.len(), ids.len() - deleted.len());
            expect(listed == expected, &format!("{expected} states listed"), || format!("{listed}"))?;
        }
    }
    backend.end()
}

fn synced_before_answered(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let flood = Flood { prefix: format!("{}f", trial.prefix), writer: 0, evaluations: 4, events: 24, batch: 1 };
    let merges = processes(&*place)?.watch(&flood)?;
    if merges.len() as u64 != flood.events {
        return Err(Unmet::NotRun(format!("only {} of {} merges were seen", merges.len(), flood.events)));
    }
    let (mut unseen, mut sent, mut unread) = (0, 0, 0);
    for (number, synced) in merges.iter().enumerate() {
        match synced {
            Synced::Itself(_) => {}
            Synced::Something => unseen += 1,
            Synced::Sent => sent += 1,
            Synced::SentSomething => unread += 1,
            Synced::Never(happened) => {
                return failed(
                    "every merge is synced before it is answered `durable`",
                    format!("merge {number}: {happened}"),
                );
            }
        }
    }
    if unseen > 0 {
        trial.note(format!(
            "what it wrote was not recognised in {unseen} of {} merges; it synced something each time",
            flood.events
        ));
    }
    if sent > 0 {
        trial.note(format!("{sent} of {} merges went to another process, which has to sync them", flood.events));
    }
    if unread > 0 {
        trial.note(format!(
            "what was sent could not be read in {unread} of {} merges (encrypted?); the far side has to sync them",
            flood.events
        ));
    }
    Ok(())
}

fn survives_kill(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let processes = processes(&*place)?;
    let mut kept: Vec<(Flood, Vec<u64>)> = Vec::new();
    for writer in 0..KILLS {
        let flood = Flood { prefix: format!("{}f", trial.prefix), writer, evaluations: 5, events: 1_000_000, batch: 1 };
        let kill_after = Duration::from_millis(trial.random.borrow_mut().u64(0..120));
        let answered = processes.run(std::slice::from_ref(&flood), Some(kill_after))?;
        kept.push((flood, answered.into_iter().flatten().collect()));
        // Everything of this process and of those before it.
        let backend = open(&*place)?;
        for (flood, answered) in &kept {
            expect_flooded(&*backend, flood, answered, &format!("after kill -9 number {}", writer + 1))?;
        }
        backend.end()?;
    }
    let all: usize = kept.iter().map(|(_, answered)| answered.len()).sum();
    trial.note(format!("{all} merges were answered before {KILLS} kills"));
    Ok(())
}

/// Each process merges into each id once a round; what is stored at the end is what the model makes of all of it.
fn four_processes(trial: &Trial<'_>) -> Result<(), Unmet> {
    const WRITERS: u64 = 4;
    const IDS: u64 = 1000;
    const BATCH: u64 = 100;
    let place = trial.place()?;
    let processes = processes(&*place)?;
    let backend = open(&*place)?;
    let id = trial.id();
    merge_one(&*backend, &id, &note(1))?;
    let (prefix, events) = (format!("{}f", trial.prefix), IDS * trial.subject().rounds());
    let flood = |writer| Flood { prefix: prefix.clone(), writer, evaluations: IDS, events, batch: BATCH };
    let floods: Vec<Flood> = (0..WRITERS).map(flood).collect();
    let answered = processes.run(&floods, None)?;
    let mut expected: BTreeMap<String, State> = BTreeMap::new();
    for (flood, answered) in floods.iter().zip(&answered) {
        let count = answered.len() as u64;
        expect(count == events, &format!("{events} answered merges of each process"), || format!("{count}"))?;
        for number in 0..events {
            expected.entry(flood.id(number)).or_default().merge(&flood.state(number));
        }
    }
    let expected: Vec<(&str, &State)> = expected.iter().map(|(id, state)| (&**id, state)).collect();
    for part in expected.chunks(BATCH as usize) {
        let ids: Vec<&str> = part.iter().map(|(id, _)| *id).collect();
        for ((id, expected), found) in part.iter().zip(get(&*backend, &ids)?) {
            expect_same(id, Some(expected), found.as_ref().map(|found| &found.state))?;
        }
    }
    trial.note(format!("{} merges of {WRITERS} processes into {IDS} ids", events * WRITERS));
    expect_stored(&*backend, &id, Some(&note(1)))
}

/// Every answered event must be in the history of its evaluation.
fn expect_flooded(backend: &dyn crate::Backend, flood: &Flood, answered: &[u64], when: &str) -> Result<(), Unmet> {
    let mut by_id: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for number in answered {
        by_id.entry(flood.id(*number)).or_default().push(*number);
    }
    for (id, numbers) in by_id {
        let found = get(backend, &[&id])?.remove(0);
        let has = |number: &u64| {
            let name = format!("{HISTORY_PREFIX}{}", flood.event_id(*number));
            found.as_ref().is_some_and(|found| found.state.get(&name).is_some())
        };
        let lost: Vec<&u64> = numbers.iter().filter(|number| !has(number)).collect();
        expect(lost.is_empty(), &format!("all {} answered merges of `{id}` {when}", numbers.len()), || {
            let first = lost.first().copied().copied().unwrap_or_default();
            format!("{} are lost, the first is event `{}`", lost.len(), flood.event_id(first))
        })?;
    }
    call_ok("flush", backend.flush(&call()))
}
