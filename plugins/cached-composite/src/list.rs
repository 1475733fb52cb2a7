//! `list` and `counts`: the primary's, joined with what the fallback holds while it holds something.
//!
//! Both are walked in the order of the query, unfiltered; an id that stands in both is answered once, with the joined
//! state, to which the filters are applied. A page never goes beyond what both pages of the children cover, so what
//! moves from the fallback to the primary between two pages, or during one, is neither missed nor seen twice.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage_plugin_api::{Backend, Call, Counts, Error, Fields, Found, Order, Page, Query, Record, Result, State};

use crate::composite::{Fallback, Layer};

/// How many evaluations of a child are looked at in one call.
const LOOKED_AT: usize = 200;

/// Where a list stands. Cursors have it as JSON, in hex digits, so that they go into a URL as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    primary: At,
    fallback: At,
    /// The last evaluation that was answered or passed over.
    behind: Option<Key>,
}

/// Where the list of one child stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum At {
    #[default]
    Start,
    Cursor(String),
    End,
}

/// When an evaluation was created, and its id.
type Key = (i64, String);

/// A page of one child.
struct Part {
    /// In the order of the query; bodies are left out.
    entries: Vec<(Key, Found)>,
    next: At,
}

impl Layer {
    pub(crate) fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        let Some(fallback) = &self.fallback else { return self.primary.child.backend.list(call, query) };
        let mut place = match &query.cursor {
            Some(cursor) => Place::parse(cursor)?,
            None => Place::default(),
        };
        let mut page = Page::default();
        let limit = query.limit.max(1);
        loop {
            let rest = Query { limit: limit - page.entries.len(), ..query.clone() };
            let more = match fallback.holding.is_empty() {
                true => self.list_primary(call, &rest, &mut place, &mut page.entries)?,
                false => self.list_both(fallback, call, &rest, &mut place, &mut page.entries)?,
            };
            if !more {
                return Ok(page);
            }
            let is_late = call.remaining().is_zero() && !page.entries.is_empty();
            if page.entries.len() >= limit || is_late {
                page.cursor = Some(place.to_cursor());
                return Ok(page);
            }
        }
    }

    /// A page of the primary alone, filtered by it. True if there may be more.
    fn list_primary(
        &self,
        call: &Call,
        query: &Query,
        place: &mut Place,
        entries: &mut Vec<(String, Found)>,
    ) -> Result<bool> {
        let Some(cursor) = place.primary.cursor() else { return Ok(false) };
        let page = self.primary.child.backend.list(call, &Query { cursor, ..query.clone() })?;
        let is_new = |(id, found): &(String, Found)| {
            place.behind.as_ref().is_none_or(|behind| compare(query.order, behind, &key(id, &found.state)).is_lt())
        };
        entries.extend(page.entries.into_iter().filter(is_new));
        if let Some((id, found)) = entries.last() {
            place.pass(query.order, key(id, &found.state));
        }
        place.primary = At::of(page.cursor);
        Ok(place.primary != At::End)
    }

    /// What comes next of both. True if there may be more.
    fn list_both(
        &self,
        fallback: &Fallback,
        call: &Call,
        query: &Query,
        place: &mut Place,
        entries: &mut Vec<(String, Found)>,
    ) -> Result<bool> {
        // The fallback first: what leaves it meanwhile is in the primary's page.
        let of_fallback = part(&*fallback.child.backend, call, query, &place.fallback)?;
        let of_primary = part(&*self.primary.child.backend, call, query, &place.primary)?;
        let bound = [&of_fallback, &of_primary].into_iter().filter_map(Part::end).min_by(|a, b| match (a, b) {
            (Some(a), Some(b)) => compare(query.order, a, b),
            // A page that is empty and not the last one covers nothing.
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
        });
        let is_covered = |key: &Key| match &bound {
            None => true,
            Some(None) => false,
            Some(Some(bound)) => compare(query.order, key, bound).is_le(),
        };
        let is_next = |key: &Key| place.behind.as_ref().is_none_or(|behind| compare(query.order, behind, key).is_lt());
        let mut next: Vec<&Key> = of_fallback
            .entries
            .iter()
            .chain(&of_primary.entries)
            .map(|(key, _)| key)
            .filter(|key| is_covered(key) && is_next(key))
            .collect();
        next.sort_by(|a, b| compare(query.order, a, b));
        next.dedup_by(|a, b| a.1 == b.1);
        let ids: Vec<&str> = next.iter().map(|key| key.1.as_str()).collect();
        let joined = self.get_whole(call, &ids, query.fields)?;
        let (mut behind, mut left) = (None, query.limit);
        for (own, found) in next.iter().zip(joined) {
            if left == 0 {
                break;
            }
            behind = Some((*own).clone());
            // Deleted since it was listed.
            let Some(found) = found else { continue };
            // Newest first, a joined state stands where the older of its parts does.
            let is_here = query.order == Order::Id || key(&own.1, &found.state) == **own;
            if is_here && matches(query, &found.state) {
                entries.push((own.1.clone(), found));
                left -= 1;
            }
        }
        let is_through = behind.as_ref() == next.last().copied();
        if is_through && bound.is_none() {
            return Ok(false);
        }
        let is_done = |part: &Part| part.entries.last().is_none_or(|(last, _)| is_through && is_covered(last));
        let (fallback_done, primary_done) = (is_done(&of_fallback), is_done(&of_primary));
        if let Some(reached) = if is_through { bound.clone().flatten().or(behind) } else { behind } {
            place.pass(query.order, reached);
        }
        if fallback_done {
            place.fallback = of_fallback.next;
        }
        // What moves to the primary while the list goes on is in its last page, which is read again.
        if primary_done && of_primary.next != At::End {
            place.primary = of_primary.next;
        }
        Ok(true)
    }

    pub(crate) fn counts(&self, call: &Call) -> Result<Counts> {
        let mut counts = self.primary.child.backend.counts(call)?;
        let Some(fallback) = self.fallback.as_ref().filter(|fallback| !fallback.holding.is_empty()) else {
            return Ok(counts);
        };
        let mut cursor = None;
        loop {
            let query = Query { limit: LOOKED_AT, cursor, fields: Fields::WithoutBodies, ..Query::default() };
            let page = fallback.child.backend.list(call, &query)?;
            let ids: Vec<&str> = page.entries.iter().map(|(id, _)| id.as_str()).collect();
            let stored =
                if ids.is_empty() { Vec::new() } else { self.primary.get(call, &ids, Fields::WithoutBodies)? };
            for ((_, held), stored) in page.entries.iter().zip(stored) {
                recount(&mut counts.by_status, stored, &held.state);
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(counts);
            }
            if call.remaining().is_zero() {
                return Err(Error::unavailable(format_args!(
                    "`{}` holds too much to be counted in time; try again when it is merged back",
                    fallback.name
                )));
            }
        }
    }
}

/// Takes into account what the fallback holds of an evaluation.
fn recount(by_status: &mut BTreeMap<String, u64>, stored: Option<Found>, held: &State) {
    let mut joined = State::new();
    if let Some(stored) = stored {
        if let Some(count) = by_status.get_mut(status(&stored.state)) {
            *count = count.saturating_sub(1);
        }
        joined = stored.state;
    }
    joined.merge(held);
    *by_status.entry(status(&joined).to_owned()).or_default() += 1;
    by_status.retain(|_, count| *count > 0);
}

fn status(state: &State) -> &'static str {
    Record::status_of(state).map_or("unknown", storage_plugin_api::Status::as_str)
}

fn key(id: &str, state: &State) -> Key {
    (Record::created_at_of(state).unwrap_or(0), id.to_owned())
}

fn compare(order: Order, a: &Key, b: &Key) -> Ordering {
    match order {
        Order::Id => a.1.cmp(&b.1),
        Order::NewestFirst => Reverse(a).cmp(&Reverse(b)),
    }
}

fn matches(query: &Query, state: &State) -> bool {
    let created = Record::created_at_of(state).unwrap_or(0);
    query.status.as_deref().is_none_or(|wanted| wanted == status(state))
        && query.language.as_deref().is_none_or(|wanted| Record::language_of(state).as_deref() == Some(wanted))
        && query.since.is_none_or(|since| created >= since)
        && query.until.is_none_or(|until| created < until)
}

/// The next page of a child.
fn part(child: &dyn Backend, call: &Call, query: &Query, at: &At) -> Result<Part> {
    let Some(cursor) = at.cursor() else { return Ok(Part { entries: Vec::new(), next: At::End }) };
    let unfiltered =
        Query { order: query.order, fields: Fields::WithoutBodies, limit: LOOKED_AT, cursor, ..Query::default() };
    let page = child.list(call, &unfiltered)?;
    let entries = page.entries.into_iter().map(|(id, found)| (key(&id, &found.state), found)).collect();
    Ok(Part { entries, next: At::of(page.cursor) })
}

impl Place {
    fn parse(cursor: &str) -> Result<Self> {
        let place = hex::decode(cursor).ok().and_then(|json| serde_json::from_slice(&json).ok());
        place.ok_or_else(|| {
            Error::configuration(format_args!("the cursor `{cursor}` is not of this list; take it from the last page"))
        })
    }

    /// Goes on behind this one; never back, to what was answered or passed over already.
    fn pass(&mut self, order: Order, reached: Key) {
        if self.behind.as_ref().is_none_or(|behind| compare(order, behind, &reached).is_lt()) {
            self.behind = Some(reached);
        }
    }

    fn to_cursor(&self) -> String {
        hex::encode(serde_json::to_string(self).expect("a place has only texts and numbers"))
    }
}

impl Part {
    /// Up to where the page covers the child; none if to the end.
    #[expect(clippy::option_option, reason = "a page may cover nothing, something, or all that is left")]
    fn end(&self) -> Option<Option<Key>> {
        (self.next != At::End).then(|| self.entries.last().map(|(key, _)| key.clone()))
    }
}

impl At {
    fn of(cursor: Option<String>) -> Self {
        cursor.map_or(Self::End, Self::Cursor)
    }

    /// What the child is given; none if there is nothing behind.
    #[expect(clippy::option_option, reason = "the first page has no cursor")]
    fn cursor(&self) -> Option<Option<String>> {
        match self {
            Self::Start => Some(None),
            Self::Cursor(cursor) => Some(Some(cursor.clone())),
            Self::End => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a filter had passed over since the last answer was forgotten, and looked at and answered again.
    #[test]
    fn a_place_never_goes_back() {
        let mut place = Place::default();
        let key = |id: &str| (1, id.to_owned());

        for id in ["b", "d", "c"] {
            place.pass(Order::Id, key(id));
        }
        assert_eq!(place.behind, Some(key("d")));

        place.pass(Order::NewestFirst, key("a"));
        place.pass(Order::NewestFirst, key("c"));
        assert_eq!(place.behind, Some(key("a")));
    }
}
