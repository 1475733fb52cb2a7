//! The states in memory: what a merge, a list and a delete do to them.
//!
//! Plain functions on a map, so that they can be tested without a worker. Put your own store in its place.

use std::collections::BTreeMap;
use std::ops::Bound;

use storage_plugin_api::{
    Answer, Counts, Delete, Deleted, Durability, Error, Fields, Found, Item, Order, Outcome, Page,
    Query, Record, Result, State, Status,
};

/// States by id, at most so many.
#[derive(Debug)]
pub(crate) struct States {
    map: BTreeMap<String, State>,
    max_evaluations: usize,
}

impl States {
    pub(crate) fn new(max_evaluations: usize) -> Self {
        Self {
            map: BTreeMap::new(),
            max_evaluations,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Joins one state into the stored one. What is full today may have room tomorrow: `overloaded` is tried again.
    pub(crate) fn merge(&mut self, item: &Item<'_>) -> Answer {
        let answer = |outcome, state: &State| {
            Answer::new(outcome, Record::status_of(state), Durability::Volatile)
        };
        if let Some(state) = self.map.get_mut(item.id()) {
            let changed = state.merge_registers(item.registers().iter().copied());
            return answer(
                if changed {
                    Outcome::Updated
                } else {
                    Outcome::Unchanged
                },
                state,
            );
        }
        if item.registers().is_empty() {
            // Nothing is known, so there is nothing to store.
            return Answer::new(Outcome::Unchanged, None, Durability::Volatile);
        }
        if self.map.len() >= self.max_evaluations {
            return Answer::rejected(Error::overloaded("full; raise `max_evaluations`"));
        }
        let state = item.to_state();
        let created = answer(Outcome::Created, &state);
        self.map.insert(item.id().to_owned(), state);
        created
    }

    pub(crate) fn get(&self, id: &str, fields: Fields) -> Option<Found> {
        self.map.get(id).map(|state| found(state, fields))
    }

    /// A page in id order; the cursor is the last id of the page.
    pub(crate) fn page(&self, query: &Query) -> Result<Page> {
        if query.order != Order::Id {
            return Err(Error::configuration("this backend lists by id only"));
        }
        let behind = query
            .cursor
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = self
            .map
            .range::<str, _>((behind, Bound::Unbounded))
            .filter(|(_, state)| matches(query, state))
            .map(|(id, state)| (id.clone(), found(state, query.fields)));
        let entries: Vec<(String, Found)> = matching.by_ref().take(query.limit.max(1)).collect();
        let more = matching.next().is_some();
        let cursor = entries.last().filter(|_| more).map(|(id, _)| id.clone());
        Ok(Page { entries, cursor })
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for state in self.map.values() {
            *counts
                .by_status
                .entry(status(state).to_owned())
                .or_default() += 1;
        }
        counts
    }

    pub(crate) fn delete(&mut self, item: &Delete<'_>) -> Deleted {
        let Some(state) = self.map.get(item.id) else {
            return Deleted::Absent;
        };
        if item.digest.is_some_and(|digest| state.digest() != *digest) {
            return Deleted::Differs;
        }
        self.map.remove(item.id);
        Deleted::Deleted
    }
}

fn status(state: &State) -> &'static str {
    Record::status_of(state).map_or("unknown", Status::as_str)
}

fn found(state: &State, fields: Fields) -> Found {
    let state = match fields {
        Fields::Whole => state.clone(),
        Fields::WithoutBodies => state.without_bodies(),
    };
    Found {
        state,
        incomplete: false,
    }
}

fn matches(query: &Query, state: &State) -> bool {
    let created = Record::created_at_of(state).unwrap_or_default();
    query
        .status
        .as_deref()
        .is_none_or(|wanted| status(state) == wanted)
        && query
            .language
            .as_deref()
            .is_none_or(|wanted| Record::language_of(state).as_deref() == Some(wanted))
        && query.since.is_none_or(|since| created >= since)
        && query.until.is_none_or(|until| created < until)
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::{EventStamp, with_items};

    use super::*;

    #[test]
    fn the_same_event_again_changes_nothing() {
        let mut event = State::new();
        event.set_open(&EventStamp::new(1, "event-1"), Status::Queued);
        let mut states = States::new(1);
        let mut merge =
            |id: &str| with_items(&[(id, &event)], |items| states.merge(&items[0]).outcome);

        assert_eq!(merge("a"), Outcome::Created);
        assert_eq!(merge("a"), Outcome::Unchanged);
        assert!(
            matches!(merge("b"), Outcome::Rejected(_)),
            "there is room for one"
        );
    }
}
