//! Joins the items of one id into what is stored of it, in memory: the SDK's merge, and what became of each item.

use storage_plugin_api::{Item, Outcome, Record, Register, RegisterRef, State, Status, ValueKind, names};

use crate::state_form::is_stored;

/// The items of a batch that are of one evaluation, by their place in the batch.
#[derive(Clone)]
pub(crate) struct Group<'a> {
    pub(crate) id: &'a str,
    pub(crate) items: Vec<(usize, &'a Item<'a>)>,
}

/// The groups of a batch, in the order of their ids' bytes: in that order every transaction writes.
pub(crate) fn groups<'a>(batch: &'a [Item<'a>]) -> Vec<Group<'a>> {
    let mut places: Vec<usize> = (0..batch.len()).collect();
    // Stable, so items of one id stay in their order.
    places.sort_by_key(|place| batch[*place].id());
    let mut groups: Vec<Group<'a>> = Vec::with_capacity(batch.len());
    for place in places {
        let item = &batch[place];
        match groups.last_mut().filter(|group| group.id == item.id()) {
            Some(group) => group.items.push((place, item)),
            None => groups.push(Group { id: item.id(), items: vec![(place, item)] }),
        }
    }
    groups
}

/// What items made of a state.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) state: State,
    /// Of what was stored: what decides which bodies and lines of the history have to be written. None if nothing was.
    pub(crate) before: Option<State>,
    /// For each item: what happened, and the status afterwards.
    pub(crate) outcomes: Vec<(Outcome, Option<Status>)>,
    /// There is something to write.
    pub(crate) is_changed: bool,
}

/// Joins the items of a group into what is stored, if anything is.
pub(crate) fn join(stored: Option<State>, group: &Group<'_>) -> Joined {
    let before = stored.as_ref().map(outline);
    let mut state = stored.unwrap_or_default();
    let mut outcomes = Vec::with_capacity(group.items.len());
    let mut is_changed = false;
    let mut exists = before.is_some();
    for (_, item) in &group.items {
        let changed = merge(&mut state, item, before.is_some());
        is_changed |= changed;
        let outcome = match (changed, exists) {
            (false, _) => Outcome::Unchanged,
            (true, false) => Outcome::Created,
            (true, true) => Outcome::Updated,
        };
        exists |= changed;
        outcomes.push((outcome, Record::status_of(&state)));
    }
    Joined { state, before, outcomes, is_changed }
}

/// The registers of a state that the writes of its successor depend on: its status, its bodies and its history.
fn outline(state: &State) -> State {
    let matters = |register: &&Register| {
        register.value.as_body().is_some()
            || *register.name == *names::OPEN
            || register.name.starts_with(names::END_PREFIX)
            || register.name.starts_with(names::HISTORY_PREFIX)
    };
    let mut outline = State::new();
    state.registers().iter().filter(matters).for_each(|register| outline.set(register.clone()));
    outline
}

fn merge(state: &mut State, item: &Item<'_>, has_stored_bodies: bool) -> bool {
    let registers = item.registers();
    if !has_stored_bodies || !registers.iter().any(|register| is_stored_already(state, register)) {
        return state.merge_registers(registers.iter().copied());
    }
    let news: Vec<RegisterRef<'_>> =
        registers.iter().filter(|register| !is_stored_already(state, register)).copied().collect();
    state.merge_registers(news.into_iter())
}

/// True if a register is the body that is stored: of the same rank, so the same thing.
///
/// To the merge, what we hold is a reference, over which a text of the same rank would win for being more whole. But it
/// stands for the text. The hash is looked at only if all else is the same, that is for a repeated event.
fn is_stored_already(state: &State, register: &RegisterRef<'_>) -> bool {
    if register.kind() == ValueKind::Json {
        return false;
    }
    let Some(held) = state.get(register.name()) else { return false };
    let Some(body) = held.value.as_body().filter(|body| is_stored(body)) else { return false };
    held.rule == register.rule()
        && held.stage == register.stage()
        && held.stamp.time == register.time()
        && *held.stamp.event_id == *register.event_id()
        && *body.hash() == register.hash()
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::{EventStamp, with_items};

    use super::*;
    use crate::shown::take_texts;
    use crate::state_form::{read, write};

    fn completed(time: i64, output: &str) -> State {
        let mut state = State::new();
        let stamp = EventStamp::new(time, "c");
        state.set_end(&stamp, Status::Completed);
        state.set_text(&stamp, "completed/output", output);
        state
    }

    fn stored(state: &State) -> State {
        let mut state = state.clone();
        take_texts(&mut state);
        read(&write(&state)).expect("a state")
    }

    #[test]
    fn a_repeated_body_changes_nothing_and_another_one_does() {
        let held = stored(&completed(5, "out"));
        for (offered, expected) in [
            (completed(5, "out"), Outcome::Unchanged),
            (completed(6, "late"), Outcome::Unchanged),
            (completed(4, "early"), Outcome::Updated),
            (completed(5, "out").without_bodies(), Outcome::Unchanged),
        ] {
            let joined = with_items(&[("e", &offered)], |batch| join(Some(held.clone()), &groups(batch)[0]));

            assert_eq!(joined.outcomes, [(expected, Some(Status::Completed))]);
        }
    }

    #[test]
    fn an_id_that_occurs_twice_counts_as_two_merges() {
        let (first, second) = (completed(5, "out"), completed(4, "early"));
        let empty = State::new();

        let outcomes = with_items(&[("b", &empty), ("a", &first), ("a", &first), ("a", &second)], |batch| {
            let groups = groups(batch);
            assert_eq!(groups.iter().map(|group| group.id).collect::<Vec<_>>(), ["a", "b"]);
            groups.iter().map(|group| join(None, group).outcomes).collect::<Vec<_>>()
        });

        let status = Some(Status::Completed);
        let a = [(Outcome::Created, status), (Outcome::Unchanged, status), (Outcome::Updated, status)];
        assert_eq!(outcomes, [a.to_vec(), vec![(Outcome::Unchanged, None)]]);
    }
}
