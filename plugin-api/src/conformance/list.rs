//! The family *list*: pages in order, with filters, while others write.

use std::collections::{BTreeMap, BTreeSet};

use crate::backend::Backend;
use crate::error::ErrorKind;
use crate::model::record::Record;
use crate::model::state::State;
use crate::model::status::Status;
use crate::query::{Fields, Order, Query};

use super::events::{EPOCH, begun, joined, stamp};
use super::trial::{Trial, Unmet, call, call_ok, expect, expect_same, failed, merge, short};
use super::{Behavior, Level, Need};

pub(super) const BEHAVIORS: &[Behavior] = &[
    by_id("list.by_id", "lists every state once in id order, whatever the size of a page", in_id_order),
    by_id(
        "list.while_rows_are_added",
        "lists in id order what was there throughout exactly once while rows are added",
        added,
    ),
    by_id(
        "list.while_rows_are_deleted",
        "lists in id order what was there throughout exactly once while rows are deleted",
        deleted,
    ),
    by_id("list.filters", "lists by status, language and time of creation, and by all of them", filters_by_id),
    by_id("list.foreign_cursor", "refuses a cursor that it did not give as `configuration`, or lists", foreign_cursor),
    Behavior {
        name: "list.newest_first",
        asks: "lists every state once, newest first and then by id, descending, with filters",
        level: Level::Complete,
        needs: Need::ListByCreated,
        run: newest_first,
    },
];

const fn by_id(name: &'static str, asks: &'static str, run: fn(&Trial<'_>) -> Result<(), Unmet>) -> Behavior {
    Behavior { name, asks, level: Level::Basic, needs: Need::ListById, run }
}

type Stored = BTreeMap<String, State>;

/// Merges states of several statuses and times, in an order of their own.
fn fill(trial: &Trial<'_>, backend: &dyn Backend, count: usize) -> Result<Stored, Unmet> {
    fill_ids(trial, backend, trial.ids(count))
}

fn fill_ids(trial: &Trial<'_>, backend: &dyn Backend, ids: Vec<String>) -> Result<Stored, Unmet> {
    let statuses = [Status::Queued, Status::Running, Status::Completed, Status::Failed];
    // Three of each time, so that the id has to decide.
    let states =
        (0..).map(|number| begun(number / 3, statuses[usize::try_from(number).unwrap_or(0) % 4], &trial.prefix));
    let stored: Stored = ids.into_iter().zip(states).collect();
    // What is listed by changes with the last merge: by an earlier event a status, by a later one a time.
    let (mut overtaken, mut late) = (State::new(), State::new());
    overtaken.set_open(&stamp(-1, "overtaken"), Status::Provisioning);
    late.set_created(&stamp(100, "late"));
    let mut batch: Vec<(&str, &State)> = stored.iter().map(|(id, state)| (&**id, state)).collect();
    trial.shuffle(&mut batch);
    for first in [&overtaken, &late] {
        merge(backend, &batch.iter().map(|(id, _)| (*id, first)).collect::<Vec<_>>())?;
    }
    merge(backend, &batch)?;
    Ok(stored.iter().map(|(id, state)| (id.clone(), joined([&overtaken, &late, state]))).collect())
}

/// The list of a query must be exactly these ids, in this order, each with its state.
fn expect_list(
    trial: &Trial<'_>,
    backend: &dyn Backend,
    query: &Query,
    expected: &[(&String, &State)],
) -> Result<(), Unmet> {
    let found = trial.walk(backend, query)?;
    let ids: Vec<&String> = found.iter().map(|(id, _)| id).collect();
    let expected_ids: Vec<&String> = expected.iter().map(|(id, _)| *id).collect();
    if ids != expected_ids {
        let place = ids.iter().zip(&expected_ids).take_while(|(found, expected)| found == expected).count();
        let at = |ids: &[&String]| {
            let id = ids.get(place).map_or("the end".to_owned(), |id| format!("`{id}`"));
            format!(
                "{} states, at place {place} {id} (pages of {}, query {})",
                ids.len(),
                query.limit,
                short(&format!("{query:?}"))
            )
        };
        return failed(at(&expected_ids), at(&ids));
    }
    for ((id, found), (_, state)) in found.iter().zip(expected) {
        expect_same(id, Some(state), Some(&found.state))?;
    }
    Ok(())
}

fn in_id_order(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    // In the order of bytes capitals come before `_`, and that before small letters.
    let odd = ["-", ".", ":", "@", "B", "_", "a", "~"].map(|end| format!("{}{end}", trial.prefix));
    let stored = fill_ids(trial, &*backend, [trial.ids(52), odd.to_vec()].concat())?;
    let expected: Vec<_> = stored.iter().collect();
    for limit in [1, 7, 30, 60, 61, 1000] {
        expect_list(trial, &*backend, &trial.query(limit), &expected)?;
    }
    two_at_a_time(trial, &*backend, &expected)?;
    more_than_a_read(trial, &*backend, &stored)?;
    let query = Query { fields: Fields::WithoutBodies, ..trial.query(50) };
    let (id, found) = trial.walk(&*backend, &query)?.remove(0);
    expect_same(&id, Some(&stored[&id].without_bodies()), Some(&found.state))
}

/// A page may be larger than what a store reads at once.
fn more_than_a_read(trial: &Trial<'_>, backend: &dyn Backend, stored: &BTreeMap<String, State>) -> Result<(), Unmet> {
    let many = trial.ids(700);
    let state = begun(0, Status::Queued, &trial.prefix);
    merge(backend, &many.iter().map(|id| (&**id, &state)).collect::<Vec<_>>())?;
    let expected: BTreeSet<&String> = many.iter().chain(stored.keys()).collect();
    for limit in [600, 1000] {
        let found = trial.walk(backend, &trial.query(limit))?;
        let is_same = found.iter().map(|(id, _)| id).eq(expected.iter().copied());
        expect(is_same, &format!("{} states once, in pages of {limit}", expected.len()), || {
            let ids: Vec<_> = found.iter().map(|(id, _)| id).collect();
            format!("{} states: {}", ids.len(), short(&format!("{ids:?}")))
        })?;
    }
    Ok(())
}

/// Lists of two readers, a page of the one and then one of the other, must not disturb each other.
fn two_at_a_time(trial: &Trial<'_>, backend: &dyn Backend, expected: &[(&String, &State)]) -> Result<(), Unmet> {
    let mut readers = [(trial.query(7), Vec::new()), (trial.query(9), Vec::new())];
    for _ in 0..10_000 {
        let mut is_end = true;
        for (query, seen) in &mut readers {
            if !seen.is_empty() && query.cursor.is_none() {
                continue;
            }
            let page = call_ok("list", backend.list(&call(), query))?;
            seen.extend(page.entries.into_iter().map(|(id, _)| id));
            query.cursor = page.cursor;
            is_end &= query.cursor.is_none() || seen.is_empty();
        }
        if is_end {
            break;
        }
    }
    for (_, mut seen) in readers {
        seen.retain(|id| id.starts_with(&trial.prefix));
        let is_same = seen.iter().eq(expected.iter().map(|(id, _)| *id));
        expect(is_same, &format!("each of the {} states once, while somebody else lists", expected.len()), || {
            format!("{} states: {}", seen.len(), short(&format!("{seen:?}")))
        })?;
    }
    Ok(())
}

/// Goes through the pages and changes something after each; what was there throughout must be seen once.
fn walk_meanwhile(
    trial: &Trial<'_>,
    backend: &dyn Backend,
    throughout: &BTreeSet<String>,
    mut change: impl FnMut(usize) -> Result<(), Unmet>,
) -> Result<(), Unmet> {
    let mut query = trial.query(7);
    let mut seen = Vec::new();
    for step in 0..10_000 {
        let page = call_ok("list", backend.list(&call(), &query))?;
        seen.extend(page.entries.into_iter().map(|(id, _)| id).filter(|id| throughout.contains(id)));
        let Some(cursor) = page.cursor else {
            let expected: Vec<String> = throughout.iter().cloned().collect();
            let missed = expected.iter().find(|id| !seen.contains(id)).map(|id| format!("`{id}` is missing"));
            let twice = seen
                .windows(2)
                .find(|pair| pair[0] >= pair[1])
                .map(|pair| format!("`{}` came behind `{}`", pair[1], pair[0]));
            let seen = missed.or(twice).unwrap_or_default();
            return expect(seen.is_empty(), "every state that is there throughout is listed once, in order", || seen);
        };
        query.cursor = Some(cursor);
        change(step)?;
    }
    failed("a last page", "10 000 pages")
}

fn added(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let stored = fill(trial, &*backend, 60)?;
    let throughout: BTreeSet<String> = stored.keys().cloned().collect();
    walk_meanwhile(trial, &*backend, &throughout, |step| {
        if step >= 30 {
            return Ok(());
        }
        // In front of everything, between, and behind everything.
        let between = format!("{}-{:06}x{step}", trial.prefix, step * 7 % 60);
        let ids = [format!("{}-+{step}", trial.prefix), between, format!("{}-z{step}", trial.prefix)];
        let state = begun(1, Status::Queued, &trial.prefix);
        merge(&*backend, &ids.each_ref().map(|id| (id.as_str(), &state))).map(drop)
    })
}

fn deleted(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let stored = fill(trial, &*backend, 60)?;
    let ids: Vec<String> = stored.into_keys().collect();
    let throughout: BTreeSet<String> = ids.iter().skip(1).step_by(2).cloned().collect();
    // Every other one goes, some before the cursor, some behind it, and some that the cursor stands at.
    let mut doomed: Vec<&String> = ids.iter().step_by(2).collect();
    walk_meanwhile(trial, &*backend, &throughout, |_| {
        let ids: Vec<&String> = doomed.drain(..doomed.len().min(4)).collect();
        let items: Vec<_> = ids.iter().map(|id| crate::Delete { id, digest: None }).collect();
        call_ok("delete", backend.delete(&call(), &items)).map(drop)
    })
}

/// Queries with filters, and those of the states that they must find.
fn expect_filters(trial: &Trial<'_>, backend: &dyn Backend, stored: &Stored, order: Order) -> Result<(), Unmet> {
    let language = Some(trial.prefix.clone());
    let base = Query { order, limit: 5, language, ..Query::default() };
    let status = |name: &str| Some(name.to_owned());
    let queries = [
        base.clone(),
        Query { status: status("completed"), ..base.clone() },
        Query { status: status("queued"), since: Some(EPOCH + 4), ..base.clone() },
        Query { since: Some(EPOCH + 4), ..base.clone() },
        Query { until: Some(EPOCH + 4), ..base.clone() },
        Query { since: Some(EPOCH + 4), until: Some(EPOCH + 8), ..base.clone() },
        Query { status: status("cancelled"), ..base.clone() },
        Query { language: Some(format!("{}-none", trial.prefix)), ..base },
    ];
    for query in queries {
        let matches = |state: &State| {
            let created = Record::created_at_of(state).unwrap_or_default();
            let status = Record::status_of(state).map(Status::as_str);
            query.status.as_deref().is_none_or(|wanted| status == Some(wanted))
                && Record::language_of(state) == query.language
                && query.since.is_none_or(|since| created >= since)
                && query.until.is_none_or(|until| created < until)
        };
        let mut expected: Vec<_> = stored.iter().filter(|(_, state)| matches(state)).collect();
        if order == Order::NewestFirst {
            expected.sort_by_key(|(id, state)| std::cmp::Reverse((Record::created_at_of(state), *id)));
        }
        expect_list(trial, backend, &query, &expected)?;
    }
    Ok(())
}

fn filters_by_id(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let stored = fill(trial, &*backend, 40)?;
    expect_filters(trial, &*backend, &stored, Order::Id)
}

fn newest_first(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let stored = fill(trial, &*backend, 40)?;
    let mut expected: Vec<_> = stored.iter().collect();
    expected.sort_by_key(|(id, state)| std::cmp::Reverse((Record::created_at_of(state), *id)));
    for limit in [1, 7, 40, 41] {
        let query = Query { order: Order::NewestFirst, ..trial.query(limit) };
        expect_list(trial, &*backend, &query, &expected)?;
    }
    expect_filters(trial, &*backend, &stored, Order::NewestFirst)
}

fn foreign_cursor(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    fill(trial, &*backend, 3)?;
    for cursor in ["\u{0}", "nonsense", "-1", "99999999999999999999", "{}", "👻", &"x".repeat(5000)] {
        let query = Query { cursor: Some(cursor.to_owned()), ..trial.query(2) };
        if let Err(error) = backend.list(&call(), &query) {
            let is_right = error.kind == ErrorKind::Configuration;
            expect(is_right, "a foreign cursor is refused as `configuration`, or ignored", || {
                format!("cursor {}: `{}`: {error}", short(&format!("{cursor:?}")), error.kind)
            })?;
        }
    }
    Ok(())
}
