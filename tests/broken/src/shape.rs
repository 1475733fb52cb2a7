//! What a merge makes of a state, and a page of a list; right, but for the rule that is broken.

use std::collections::BTreeMap;

use storage_plugin_api::{
    Body, Error, Item, Order, Page, Query, Record, Register, Result, Rule as Keep, State, Status, Value, names,
};

use crate::found;
use crate::rules::Rule;

/// Bodies are cut here.
const CUT: usize = 1 << 20;

/// The state after a merge.
pub(crate) fn merged(broken: Option<Rule>, before: Option<&State>, item: &Item<'_>) -> State {
    let mut state = before.cloned().unwrap_or_default();
    let incoming = changed(broken, &item.to_state());
    let arrives_last = |register: &&Register| {
        state.get(&register.name).is_some_and(|stored| match broken {
            Some(Rule::LastArrival) => register.rule == Keep::First && stored.stamp.time != register.stamp.time,
            Some(Rule::TiesByArrival) => stored.stamp.time == register.stamp.time,
            _ => false,
        })
    };
    let is_history = |register: &Register| register.name.starts_with(names::HISTORY_PREFIX);
    if broken == Some(Rule::HistoryByArrival)
        && state.registers().iter().filter(|entry| is_history(entry)).count() > 9_999
    {
        let mut others = State::new();
        incoming
            .registers()
            .iter()
            .filter(|register| !is_history(register))
            .for_each(|other| others.set(other.clone()));
        state.merge(&others);
        return state;
    }
    let (replacing, joining): (Vec<_>, Vec<_>) = incoming.registers().iter().partition(arrives_last);
    if !replacing.is_empty() {
        let is_replaced = |name: &str| replacing.iter().any(|register| register.name == name);
        let kept: Vec<Register> =
            state.registers().iter().filter(|register| !is_replaced(&register.name)).cloned().collect();
        state = State::new();
        kept.into_iter().chain(replacing.into_iter().cloned()).for_each(|register| state.set(register));
    }
    let mut others = State::new();
    joining.into_iter().for_each(|register| others.set(register.clone()));
    state.merge(&others);
    state
}

/// The registers of an item, as a backend with that defect understands them.
fn changed(broken: Option<Rule>, state: &State) -> State {
    let first = state.registers().first().map(|register| register.stamp.clone());
    let is_known = |name: &str| {
        let prefixes = [names::METADATA_PREFIX, names::HISTORY_PREFIX];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
            || matches!(names::intern(name), std::borrow::Cow::Borrowed(_))
    };
    let mut changed = State::new();
    for register in state.registers() {
        let mut register = register.clone();
        match (broken, &register.value, &first) {
            (Some(Rule::OneStampPerItem), _, Some(first)) if state.registers().len() < 100 => {
                register.stamp = first.clone()
            }
            (Some(Rule::KnownNames), ..) if !is_known(&register.name) => continue,
            (Some(Rule::Truncates), Value::Body(body), _) if body.as_text().is_some_and(|text| text.len() > CUT) => {
                let text = body.as_text().unwrap_or_default();
                register.value = Value::Body(Body::text(&text[..text.floor_char_boundary(CUT)]));
            }
            (Some(Rule::EmptyReferences), Value::Body(body), _) if body.as_text().is_none() => {
                register.value = Value::Body(Body::text(""));
            }
            (Some(Rule::StripsNul), Value::Body(body), _) => {
                if let Some(text) = body.as_text() {
                    register.value = Value::Body(Body::text(text.replace('\0', "")));
                }
            }
            _ => {}
        }
        changed.set(register);
    }
    changed
}

/// A page of a list. A cursor is the id where it ended, with the number of states that there were. `firsts` has
/// the states as they were created, and `last` is the id where the last page of any list ended.
pub(crate) fn page(
    broken: Option<Rule>,
    states: &BTreeMap<String, State>,
    firsts: &BTreeMap<String, State>,
    last: &mut String,
    query: &Query,
) -> Result<Page> {
    let is = |rule| broken == Some(rule);
    let until =
        |until: i64| if is(Rule::UntilInclusive) && query.order == Order::Id { until.saturating_add(1) } else { until };
    let matches = |id: &String, state: &State| {
        let created = Record::created_at_of(state).unwrap_or_default();
        let is_stale = is(Rule::StaleIndex) && query.order == Order::Id;
        let indexed = firsts.get(id).filter(|_| is_stale).unwrap_or(state);
        let status = Record::status_of(indexed).map(Status::as_str);
        query.status.as_deref().is_none_or(|wanted| status == Some(wanted))
            && query.language.as_deref().is_none_or(|wanted| Record::language_of(state).as_deref() == Some(wanted))
            && query.since.is_none_or(|since| created >= since)
            && query.until.is_none_or(|end| created < until(end))
    };
    let created = |state: &State| Record::created_at_of(state).unwrap_or_default();
    let mut all: Vec<(&String, &State)> = states.iter().collect();
    if query.order == Order::NewestFirst {
        match is(Rule::IdsAscending) {
            true => all.sort_by_key(|(id, state)| (std::cmp::Reverse(created(state)), *id)),
            false => all.sort_by_key(|(id, state)| std::cmp::Reverse((created(state), *id))),
        }
    }
    if is(Rule::FriendlyOrder) && query.order == Order::Id {
        all.sort_by_key(|(id, _)| (id.to_lowercase(), *id));
    }
    let mut start = 0;
    if let Some(cursor) = &query.cursor {
        let refused = || match is(Rule::CursorIsInternal) {
            true => Error::internal("cannot read the cursor"),
            false => Error::configuration("this cursor is of another backend"),
        };
        let (number, rest) = cursor.split_once(' ').ok_or_else(refused)?;
        let (time, id) = rest.split_once(' ').ok_or_else(refused)?;
        let (number, time): (usize, i64) =
            (number.parse().map_err(|_| refused())?, time.parse().map_err(|_| refused())?);
        start = all.partition_point(|(other, state)| match (query.order, is(Rule::IdsAscending)) {
            (Order::Id, _) if is(Rule::OneCursor) => other.as_str() <= last.as_str(),
            (Order::Id, _) if is(Rule::FriendlyOrder) => {
                (other.to_lowercase(), other.as_str()) <= (id.to_lowercase(), id)
            }
            (Order::Id, _) => other.as_str() <= id,
            (Order::NewestFirst, true) => {
                (std::cmp::Reverse(created(state)), other.as_str()) <= (std::cmp::Reverse(time), id)
            }
            (Order::NewestFirst, false) => (created(state), other.as_str()) >= (time, id),
        });
        if is(Rule::SkippingCursor) {
            start += states.len().saturating_sub(number);
        }
        if is(Rule::DeletedCursor) && !states.contains_key(id) {
            return Ok(Page::default());
        }
    }
    if is(Rule::OneRead) {
        all.truncate(start + 256);
    }
    let mut page = Page::default();
    if is(Rule::Capacity) {
        page.entries = Vec::with_capacity(query.limit);
    }
    for (id, state) in all.into_iter().skip(start).filter(|(id, state)| matches(id, state)) {
        if page.entries.len() == query.limit.max(1) {
            if is(Rule::PagesOfOne) && query.limit == 1 && query.order == Order::Id {
                break;
            }
            let last = page.entries.last().map(|(id, found)| (id, created(&found.state)));
            page.cursor = last.map(|(id, time)| format!("{} {time} {id}", states.len()));
            break;
        }
        last.clone_from(id);
        page.entries.push((id.clone(), found(state, query.fields)));
    }
    Ok(page)
}
