//! Makes the items of one merge from the events that a lane has gathered: the states of one evaluation are joined.
//!
//! The events keep their own states, so that an item that is refused can be tried again event by event.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use storage_plugin_api::{State, with_items};

use super::taken::{Company, Taken};

/// One item of a merge, and which of the gathered events it is made of.
#[derive(Debug)]
pub(super) struct Item {
    first: usize,
    joined: Option<Joined>,
}

/// What further events of the same evaluation add.
#[derive(Debug)]
struct Joined {
    state: State,
    others: Vec<Other>,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    event: usize,
    told_something_new: bool,
}

impl Item {
    /// The item of a single event.
    pub(super) fn single(event: usize) -> Self {
        Self { first: event, joined: None }
    }

    /// The events it is made of, and whether each told something that those before it had not.
    pub(super) fn events(&self) -> impl Iterator<Item = (usize, bool)> + '_ {
        let others = self.joined.iter().flat_map(|joined| &joined.others);
        std::iter::once((self.first, true)).chain(others.map(|other| (other.event, other.told_something_new)))
    }

    pub(super) fn is_joined(&self) -> bool {
        self.joined.is_some()
    }

    fn state<'a>(&'a self, events: &'a [Taken]) -> &'a State {
        self.joined.as_ref().map_or(&events[self.first].event.state, |joined| &joined.state)
    }

    fn join(&mut self, event: usize, events: &[Taken]) {
        let first = &events[self.first].event.state;
        let joined = self.joined.get_or_insert_with(|| Joined { state: first.clone(), others: Vec::new() });
        let told_something_new = joined.state.merge(&events[event].event.state);
        joined.others.push(Other { event, told_something_new });
    }
}

/// The items of the events that are merged in one call: all but those that are to be alone.
pub(super) fn items(events: &[Taken]) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::with_capacity(events.len());
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(events.len());
    for (index, taken) in events.iter().enumerate() {
        match taken.company {
            Company::Alone => {}
            Company::Beside => items.push(Item::single(index)),
            Company::Joined => match places.entry(&taken.event.evaluation_id) {
                Entry::Occupied(place) => items[*place.get()].join(index, events),
                Entry::Vacant(place) => {
                    place.insert(items.len());
                    items.push(Item::single(index));
                }
            },
        }
    }
    items
}

/// Lends the items to a call of the backend.
pub(super) fn lend<R>(items: &[Item], events: &[Taken], call: impl FnOnce(&[storage_plugin_api::Item<'_>]) -> R) -> R {
    let states: Vec<(&str, &State)> =
        items.iter().map(|item| (&*events[item.first].event.evaluation_id, item.state(events))).collect();
    with_items(&states, call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::test_kit::taken;

    #[test]
    fn events_of_one_evaluation_are_joined_and_others_are_not() {
        let events = [taken("a", "1", 1), taken("b", "2", 2), taken("a", "3", 3), taken("a", "1", 1)];

        let items = items(&events);

        let made_of: Vec<Vec<(usize, bool)>> = items.iter().map(|item| item.events().collect()).collect();
        assert_eq!(made_of, [vec![(0, true), (2, true), (3, false)], vec![(1, true)]]);
        let mut expected = events[0].event.state.clone();
        expected.merge(&events[2].event.state);
        assert_eq!(items[0].state(&events).to_canonical_json(), expected.to_canonical_json());
    }

    #[test]
    fn an_event_that_is_to_be_alone_is_in_no_common_call() {
        let mut events = [taken("a", "1", 1), taken("a", "2", 2), taken("a", "3", 3)];
        events[0].company = Company::Alone;
        events[1].company = Company::Beside;

        let items = items(&events);

        let made_of: Vec<Vec<(usize, bool)>> = items.iter().map(|item| item.events().collect()).collect();
        assert_eq!(made_of, [vec![(1, true)], vec![(2, true)]]);
    }
}
