//! Many writers of the same evaluations at once, new and old: none loses what another wrote.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::json;
use storage_plugin_api::{Call, EventStamp, Fields, Outcome, State, Status, names, with_items};
use storage_worker_tests::postgres_server::PostgresServer;

use super::open;

const WRITERS: u64 = 4;
const ROUNDS: u64 = 25;
const EVALUATIONS: u64 = 1000;
/// Evaluations that a writer merges in one call.
const BATCH: usize = 100;

/// What a writer tells of an evaluation in a round.
fn told(random: &mut fastrand::Rng, writer: u64, round: u64) -> State {
    let stamp = EventStamp::new(random.i64(0..1000), format!("{writer}-{round}"));
    let mut state = State::new();
    state.set_created(&stamp);
    let text = format!("{writer} {round}");
    match random.u8(0..6) {
        0 => {
            state.set_open(&stamp, Status::Running);
            state.set_stage_at(&stamp, Status::Running);
        }
        1 => state.set_text(&stamp, names::CODE, text),
        2 => state.set_metadata(&stamp, "key", format!("\"{text}\"")),
        number => {
            let status = Status::TERMINAL[usize::from(number - 3)];
            state.set_end(&stamp, status);
            state.set_text(&stamp, &names::outcome(status, "output"), text);
        }
    }
    state.set_history(&stamp, "told", Status::Running, "told");
    state
}

/// What a writer tells of an evaluation that is new: its code, an end, and of some writers a second end, whose output
/// has no column.
fn told_of_new(writer: u64) -> State {
    let stamp = EventStamp::new(1, format!("{writer}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_text(&stamp, names::CODE, format!("code {writer}"));
    let ends = if writer.is_multiple_of(2) { &Status::TERMINAL[..2] } else { &Status::TERMINAL[..1] };
    for status in ends {
        state.set_end(&stamp, *status);
        state.set_text(&stamp, &names::outcome(*status, "output"), format!("{status} {writer}"));
    }
    state.set_history(&stamp, "told", Status::Queued, "told");
    state
}

/// Batches like these are inserted without a look whether they are there, which is wrong of some or all of each.
#[test]
fn of_writers_that_take_the_same_evaluations_for_new_one_creates_each_and_all_are_kept() {
    const ROUNDS: usize = 5;
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let of_writer = |writer: u64| {
        let start = writer as usize * BATCH / 2;
        start..start + BATCH
    };
    let last = of_writer(WRITERS - 1).end;
    for round in 0..ROUNDS {
        let ids: Vec<String> = (0..last).map(|number| format!("new-{round}-{number:03}")).collect();
        let backends: Vec<_> = (0..WRITERS)
            .map(|writer| open(&server, cache.path(), &json!({"prepared_statements": writer != 0})))
            .collect::<Result<_, _>>()
            .expect("the database is there");
        let start = Barrier::new(backends.len());
        let created: usize = thread::scope(|scope| {
            let write = |writer: u64| {
                let state = told_of_new(writer);
                let items: Vec<(&str, &State)> = ids[of_writer(writer)].iter().map(|id| (&**id, &state)).collect();
                let call = Call::with_budget(Duration::from_secs(60));
                start.wait();
                let merged = with_items(&items, |items| backends[writer as usize].merge(&call, items));
                let answers = merged.expect("the batch is taken");
                answers.iter().filter(|answer| matches!(answer.outcome, Outcome::Created)).count()
            };
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            writers.into_iter().map(|writer| writer.join().expect("a writer")).sum()
        });
        assert_eq!(created, last);

        let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
        let found = backends[0].get(&Call::with_budget(Duration::from_secs(60)), &asked, Fields::Whole);
        for (place, found) in found.expect("the states are read").into_iter().enumerate() {
            let mut expected = State::new();
            for writer in (0..WRITERS).filter(|writer| of_writer(*writer).contains(&place)) {
                expected.merge(&told_of_new(writer));
            }
            assert_eq!(found.expect("it is stored").state.to_canonical_json(), expected.to_canonical_json());
        }
    }
    let lines = server.connect().number("SELECT count(*) FROM evaluation_events");
    assert_eq!(lines, (ROUNDS * BATCH) as i64 * WRITERS as i64);
}

/// What fails under a guess is looked up, and only what cannot be stored is refused.
#[test]
fn of_a_batch_that_was_taken_for_new_all_is_told_apart() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let merge = |ids: &[&str], state: &State| {
        // Each guesses, as if nothing had gone wrong before.
        let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
        let items: Vec<(&str, &State)> = ids.iter().map(|id| (*id, state)).collect();
        let call = Call::with_budget(Duration::from_secs(60));
        let answers = with_items(&items, |items| backend.merge(&call, items)).expect("the batch is taken");
        answers.into_iter().map(|answer| answer.outcome).collect::<Vec<_>>()
    };
    let too_long = "x".repeat(65);
    assert_eq!(merge(&["a"], &told_of_new(1)), [Outcome::Created]);

    let outcomes = merge(&["a", "b", &too_long, "c"], &told_of_new(1));

    assert_eq!(outcomes[..2], [Outcome::Unchanged, Outcome::Created]);
    assert!(matches!(outcomes[2], Outcome::Rejected(_)), "{outcomes:?}");
    assert_eq!(outcomes[3], Outcome::Created);
    assert_eq!(merge(&["a", "b", "c"], &told_of_new(1)), [Outcome::Unchanged, Outcome::Unchanged, Outcome::Unchanged]);
    assert_eq!(server.connect().number("SELECT count(*) FROM evaluation_events"), 3);
}

#[test]
fn writers_of_the_same_evaluations_lose_nothing_of_each_other() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let ids: Vec<String> = (0..EVALUATIONS).map(|number| format!("same-{number:04}")).collect();

    let models: Vec<BTreeMap<&str, State>> = thread::scope(|scope| {
        let write = |writer: u64| {
            // One of them as it would be behind a pooler.
            let options = json!({"prepared_statements": writer != 0});
            let backend = open(&server, cache.path(), &options).expect("the database is there");
            let mut random = fastrand::Rng::with_seed(writer);
            let mut model: BTreeMap<&str, State> = BTreeMap::new();
            for round in 0..ROUNDS {
                let mut order: Vec<&str> = ids.iter().map(String::as_str).collect();
                random.shuffle(&mut order);
                for batch in order.chunks(BATCH) {
                    let states: Vec<(&str, State)> =
                        batch.iter().map(|id| (*id, told(&mut random, writer, round))).collect();
                    let items: Vec<(&str, &State)> = states.iter().map(|(id, state)| (*id, state)).collect();
                    let call = Call::with_budget(Duration::from_secs(60));
                    let answers = with_items(&items, |items| backend.merge(&call, items)).expect("the batch is taken");
                    for ((id, state), answer) in states.iter().zip(answers) {
                        assert!(matches!(answer.outcome, Outcome::Created | Outcome::Updated), "{answer:?}");
                        model.entry(id).or_default().merge(state);
                    }
                }
            }
            model
        };
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });

    let backend = open(&server, cache.path(), &json!({})).expect("the database is there");
    let call = Call::with_budget(Duration::from_secs(60));
    let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
    let found = backend.get(&call, &asked, Fields::Whole).expect("the states are read");
    let mut lines = 0;
    for (id, found) in ids.iter().zip(found) {
        let mut expected = State::new();
        for model in &models {
            expected.merge(&model[&**id]);
        }
        lines += expected.with_prefix(names::HISTORY_PREFIX).len();
        assert_eq!(found.expect("it is stored").state.to_canonical_json(), expected.to_canonical_json(), "{id}");
    }
    let stored = server
        .connect()
        .number("SELECT count(*) FROM (SELECT DISTINCT evaluation_id, event_id FROM evaluation_events) AS lines");
    assert_eq!(stored, lines as i64);
    assert_eq!(server.connect().number("SELECT count(*) FROM evaluation_events"), lines as i64);
}
