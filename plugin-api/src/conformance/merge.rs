//! The family *merge*: what becomes of a state does not depend on how its parts came.

use crate::abi::with_items;
use crate::backend::Outcome;
use crate::model::body::{Body, Reference, sha256};
use crate::model::record::Record;
use crate::model::register::{EventStamp, Register, Rule, Value};
use crate::model::state::State;
use crate::model::status::Status;
use crate::names;

use super::events::{begun, joined, lifecycle, note, stamp};
use super::trial::{
    Trial, Unmet, call, call_ok, expect, expect_same, expect_stored, failed, get, merge, merge_one, short,
};
use super::{Behavior, Level, Need};

/// Orders that are tried of the events of a lifecycle.
const ORDERS: usize = 24;
const MANY: usize = 10_000;
const LARGE_BYTES: usize = 16 * 1024 * 1024;

pub(super) const BEHAVIORS: &[Behavior] = &[
    behavior("merge.tells_what_happened", "answers Created, then Updated, then Unchanged, with the status", tells),
    behavior("merge.order", "gives the same state whatever order events come in, repeats included", order),
    behavior("merge.ties", "decides between events of one time by stage, event id and value", ties),
    behavior("merge.grouping", "gives the same state whether events come alone or joined", grouping),
    behavior("merge.id_twice_in_a_batch", "takes an id that occurs twice in a batch as two merges", id_twice),
    behavior("merge.history_limit", "keeps of too long a history the earliest entries", history_limit),
    behavior("merge.bad_item", "takes the neighbours of an item that it cannot take", bad_item),
    behavior("merge.empty_batch", "answers an empty batch with no answers", empty_batch),
    behavior("merge.empty_state", "stores nothing of a state of which nothing is known", empty_state),
    behavior("merge.many_items", "takes 10 000 items at once", many_items),
    behavior("merge.large_body", "keeps a body of 16 MiB", large_body),
    behavior("merge.odd_text", "keeps any Unicode text, NUL included, and the digits of numbers", odd_text),
    behavior("merge.ids_at_the_limits", "tells ids of every legal form apart", ids_at_the_limits),
    behavior("merge.unknown_registers", "keeps registers of names that it does not know", unknown_registers),
    behavior("merge.references", "keeps references to bodies as they are", references),
];

const fn behavior(name: &'static str, asks: &'static str, run: fn(&Trial<'_>) -> Result<(), Unmet>) -> Behavior {
    Behavior { name, asks, level: Level::Basic, needs: Need::Nothing, run }
}

fn tells(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let id = trial.id();
    let (first, second) = (note(1), begun(2, Status::Completed, "python"));
    let expected = [
        (&first, Outcome::Created, Status::Running),
        (&first, Outcome::Unchanged, Status::Running),
        (&second, Outcome::Updated, Status::Completed),
        (&first, Outcome::Unchanged, Status::Completed),
    ];
    for (state, outcome, status) in expected {
        let answer = merge_one(&*backend, &id, state)?;
        // `Accepted` and no status are honest answers of a backend that does not know.
        let is_right = answer.outcome == outcome || answer.outcome == Outcome::Accepted;
        expect(is_right, &format!("{outcome:?}"), || format!("{:?}", answer.outcome))?;
        let is_right = answer.status.is_none_or(|found| found == status);
        expect(is_right, &format!("status `{status}`"), || format!("{:?}", answer.status))?;
    }
    Ok(())
}

fn order(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let events = lifecycle();
    let expected = joined(&events);
    let orders: Vec<(String, Vec<usize>)> = trial
        .ids(ORDERS)
        .into_iter()
        .map(|id| {
            // Every event once, and one of them twice.
            let mut order: Vec<usize> =
                (0..events.len()).chain([trial.random.borrow_mut().usize(..events.len())]).collect();
            trial.shuffle(&mut order);
            (id, order)
        })
        .collect();
    for place in 0..=events.len() {
        let batch: Vec<(&str, &State)> = orders.iter().map(|(id, order)| (&**id, &events[order[place]])).collect();
        merge(&*backend, &batch)?;
    }
    for (id, order) in &orders {
        let found = get(&*backend, &[id])?.remove(0);
        expect_same(id, Some(&expected), found.as_ref().map(|found| &found.state)).map_err(|unmet| match unmet {
            Unmet::Failed { expected, seen } => {
                Unmet::Failed { expected, seen: format!("{seen} (events in the order {order:?})") }
            }
            not_run @ Unmet::NotRun(_) => not_run,
        })?;
    }
    Ok(())
}

/// Two states that differ in what decides a tie only.
fn ties(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let open = |event_id: &str, status| {
        let mut state = State::new();
        state.set_open(&stamp(1, event_id), status);
        state
    };
    let valued = |event_id: &str, value: &str| {
        let mut state = State::new();
        state.set_metadata(&stamp(1, event_id), "key", value.to_owned());
        state.set_string(&stamp(1, event_id), names::LANGUAGE, value);
        state.set_text(&stamp(1, event_id), names::CODE, value);
        state
    };
    let pairs = [
        (open("a", Status::Running), open("b", Status::Queued)),
        (valued("a", "1"), valued("b", "2")),
        (valued("same", "1"), valued("same", "2")),
    ];
    for (one, other) in &pairs {
        let expected = joined([one, other]);
        for events in [[one, other], [other, one]] {
            let id = trial.id();
            for event in events {
                merge_one(&*backend, &id, event)?;
            }
            expect_stored(&*backend, &id, Some(&expected))?;
        }
    }
    Ok(())
}

fn grouping(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let events: Vec<State> = (1..=6).map(note).collect();
    let expected = joined(&events);
    for _ in 0..12 {
        let id = trial.id();
        let mut rest = &events[..];
        while !rest.is_empty() {
            let count = trial.random.borrow_mut().usize(1..=rest.len());
            let (group, others) = rest.split_at(count);
            rest = others;
            merge_one(&*backend, &id, &joined(group))?;
        }
        expect_stored(&*backend, &id, Some(&expected))?;
    }
    Ok(())
}

fn id_twice(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let (id, other) = (trial.id(), trial.id());
    let events: Vec<State> = (1..=3).map(note).collect();
    merge(&*backend, &[(&id, &events[0]), (&other, &events[0]), (&id, &events[1]), (&id, &events[2])])?;
    expect_stored(&*backend, &id, Some(&joined(&events)))?;
    expect_stored(&*backend, &other, Some(&events[0]))
}

fn history_limit(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let id = trial.id();
    let entries = |numbers: std::ops::Range<i64>| {
        let mut state = State::new();
        for number in numbers {
            let stamp = stamp(number, &format!("note-{number}"));
            state.set_history(&stamp, "status_changed", Status::Running, "");
        }
        state
    };
    let limit = i64::try_from(names::MAX_HISTORY).unwrap_or(i64::MAX);
    // The later ones come first.
    let states = [entries(500..500 + limit), entries(0..1000)];
    for state in &states {
        merge_one(&*backend, &id, state)?;
    }
    expect_stored(&*backend, &id, Some(&joined(&states)))
}

fn bad_item(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let (before, after) = (trial.id(), trial.id());
    let state = note(1);
    let bad_ids = [format!("{}/../\0{}", trial.prefix, "x".repeat(300)), String::new()];
    for bad in &bad_ids {
        let batch = [(&*before, &state), (&**bad, &state), (&*after, &state)];
        let answers = call_ok("merge", with_items(&batch, |batch| backend.merge(&call(), batch)))?;
        let outcomes: Vec<_> = answers.iter().map(|answer| &answer.outcome).collect();
        let [first, middle, last] = outcomes[..] else {
            return failed("3 answers", format!("{}", outcomes.len()));
        };
        for neighbour in [first, last] {
            let is_taken = !matches!(neighbour, Outcome::Rejected(_));
            expect(is_taken, "the neighbours of an impossible id are taken", || short(&format!("{neighbour:?}")))?;
        }
        if let Outcome::Rejected(error) = middle {
            let is_right = error.kind == crate::ErrorKind::InvalidItem;
            expect(is_right, "an impossible id is taken, or rejected as `invalid_item`", || {
                short(&format!("{error:?}"))
            })?;
        }
    }
    expect_stored(&*backend, &before, Some(&state))?;
    expect_stored(&*backend, &after, Some(&state))
}

fn empty_batch(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    merge(&*backend, &[]).map(drop)
}

fn empty_state(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let (id, known) = (trial.id(), trial.id());
    let nothing = State::new();
    merge_one(&*backend, &known, &note(1))?;
    let answers = merge(&*backend, &[(&id, &nothing), (&known, &nothing)])?;
    for answer in &answers {
        let is_right = matches!(answer.outcome, Outcome::Unchanged | Outcome::Accepted);
        expect(is_right, "a state of which nothing is known is answered Unchanged", || {
            format!("{:?}", answer.outcome)
        })?;
    }
    expect_stored(&*backend, &id, None)?;
    expect_stored(&*backend, &known, Some(&note(1)))
}

fn many_items(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let items: Vec<(String, State)> = (1..).take(MANY).map(|number| (trial.id(), note(number))).collect();
    let batch: Vec<(&str, &State)> = items.iter().map(|(id, state)| (&**id, state)).collect();
    merge(&*backend, &batch)?;
    for chunk in items.chunks(1000) {
        let ids: Vec<&str> = chunk.iter().map(|(id, _)| &**id).collect();
        for ((id, state), found) in chunk.iter().zip(get(&*backend, &ids)?) {
            expect_same(id, Some(state), found.as_ref().map(|found| &found.state))?;
        }
    }
    Ok(())
}

fn large_body(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let id = trial.id();
    let mut random = trial.random.borrow_mut().fork();
    let line = |_| format!("{:016x} ä\n", random.u64(..));
    let text: String = (0..LARGE_BYTES / 20).map(line).collect();
    let mut state = note(1);
    state.set_text(&stamp(1, "note-1"), names::CODE, text);
    merge_one(&*backend, &id, &state)?;
    expect_stored(&*backend, &id, Some(&state))
}

fn odd_text(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let texts = [
        "\0",
        "a\0b",
        "\u{1}\u{1f}\u{7f}\u{80}",
        "\"\\\\\"'`$(x)%s{}",
        "\r\n\u{2028}\u{2029}",
        "e\u{301} é",
        "👩‍👩‍👧 𝄞 \u{10ffff}",
        "\u{fffd}\u{feff}\u{ffff}",
        "שלום \u{202e}abc",
        "$serde_json::private::RawValue",
        " ",
        "NULL",
        "'; DROP TABLE x; --",
    ];
    let numbers = ["1.50", "1e400", "-0.0", "123456789012345678901234567890", "0.1000000000000000055511151231257827"];
    let id = trial.id();
    let stamp = stamp(1, "odd \u{1f600} 'id'");
    let mut state = State::new();
    state.set_text(&stamp, names::CODE, texts.concat());
    for (status, texts) in Status::TERMINAL.into_iter().zip(texts.chunks(5)) {
        state.set_text(&stamp, &names::outcome(status, "output"), texts.concat());
    }
    for text in texts {
        let json = crate::json::canonical(&serde_json::Value::from(text));
        state.set_metadata(&stamp, &format!("key {text}"), json);
    }
    for number in numbers {
        state.set_metadata(&stamp, &format!("number {number}"), format!("{{\"a\":[{number},null,true]}}"));
    }
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    state.set_metadata(&stamp, "deep", deep);
    state.set_history(&stamp, "status_changed", Status::Running, &texts.concat());
    let id_of_one = trial.id();
    merge(&*backend, &[(&id, &state), (&id_of_one, &note(1))])?;
    expect_stored(&*backend, &id, Some(&state))?;
    let again = merge_one(&*backend, &id, &state)?.outcome;
    expect(matches!(again, Outcome::Unchanged | Outcome::Accepted), "the same again is Unchanged", || {
        format!("{again:?}")
    })
}

fn ids_at_the_limits(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let prefix = &trial.prefix;
    let room = 64 - prefix.len();
    let ids = [
        format!("{prefix}{}", "z".repeat(room)),
        format!("{prefix}{}y", "z".repeat(room - 1)),
        format!("{prefix}case"),
        format!("{prefix}CASE"),
        format!("{prefix}Case"),
        format!("{prefix}._:@~+-"),
        format!("{prefix}..."),
        format!("{prefix}.."),
        format!("{prefix}.json"),
        format!("{prefix}.tmp"),
        format!("{prefix}~"),
        format!("{prefix}A"),
        prefix.clone(),
    ];
    let states: Vec<State> = (1..).take(ids.len()).map(note).collect();
    let batch: Vec<(&str, &State)> = ids.iter().zip(&states).map(|(id, state)| (&**id, state)).collect();
    merge(&*backend, &batch)?;
    for (id, state) in batch {
        expect_stored(&*backend, id, Some(state))?;
    }
    Ok(())
}

fn unknown_registers(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let id = trial.id();
    let of = |rule, time, name: &'static str| {
        let stamp = stamp(time, &format!("note-{time}"));
        let value = Value::Json(format!("{{\"of\":{time}}}").into());
        Register { name: name.into(), rule, stage: 0, stamp, value }
    };
    let states: Vec<State> = [1, 2]
        .map(|time| {
            let mut state = note(time);
            // Each name only once, so that this is about names and not about what wins.
            state.set(of(Rule::First, time, if time == 1 { "future/one" } else { "future/two" }));
            state.set(of(Rule::Last, time, if time == 1 { "zz of the future" } else { "aa of the future" }));
            state
        })
        .into();
    for state in &states {
        merge_one(&*backend, &id, state)?;
    }
    expect_stored(&*backend, &id, Some(&joined(&states)))
}

fn references(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let id = trial.id();
    let text = "a body that lives elsewhere\n";
    let reference = Reference {
        characters: text.chars().count() as u64,
        lines: 1,
        location: Some("blob:elsewhere".to_owned()),
        preview: "a body".to_owned(),
        sha256: sha256(text.as_bytes()),
    };
    let mut state = note(1);
    let stamp = EventStamp::new(stamp(1, "").time, "note-1");
    let value = Value::Body(Body::reference(reference));
    state.set(Register { name: names::intern(names::CODE), rule: Rule::First, stage: 0, stamp, value });
    let answer = merge_one(&*backend, &id, &state)?;
    let status = Record::status_of(&state);
    expect(answer.status.is_none() || answer.status == status, "status `running`", || format!("{:?}", answer.status))?;
    expect_stored(&*backend, &id, Some(&state))
}
