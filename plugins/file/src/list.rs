//! Lists, counts and prunes: the index, with what the files do not have yet laid over it.
//!
//! What is in memory is looked at before the index: an entry that a checkpoint moves on meanwhile is then seen twice,
//! and taken once, but never missed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::{
    Call, Counts, Deleted, Error, Order, Page, Prune, Pruned, Query, Record, Result, State, Status,
};

use crate::index::{Row, STATUS_CODES, View};
use crate::store::Store;

/// Rows between two looks at the clock.
const STRIDE: usize = 512;

/// The time that reading the files of a page may take; the search for them ends so long before the deadline.
const MARGIN: Duration = Duration::from_millis(200);

/// Rows of what the files do not have yet; none for what is deleted.
type Overlay = HashMap<Arc<str>, Option<Row>>;

/// The place of an evaluation in the order of a query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Id(String),
    /// Newest first, so the greater of two comes first.
    Created(std::cmp::Reverse<(i64, String)>),
}

impl Store {
    pub(crate) fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        let after = query.cursor.as_deref().map(|cursor| Place::parse(cursor, query.order)).transpose()?;
        let overlay = self.overlay();
        let view = self.index.view()?;
        let limit = query.limit.max(1);
        let in_memory = overlay.iter().filter_map(|(id, row)| {
            let row = row.as_ref().filter(|row| matches(query, row))?;
            let place = Place::of(query.order, id, row);
            (Some(&place) > after.as_ref()).then_some(place)
        });
        // As many as there can be in a page, and one that tells whether there are more.
        let mut places: BTreeMap<Place, ()> = BTreeMap::new();
        for place in in_memory {
            places.insert(place, ());
            if places.len() > limit.saturating_add(1) {
                places.pop_last();
            }
        }
        let stop = call.deadline.checked_sub(MARGIN).unwrap_or(call.deadline);
        let mut search =
            Search { query, overlay: &overlay, stop, places, wanted: limit.saturating_add(1), out_of_time: None };
        let searched = match query.order {
            Order::Id => search.by_id(&view, after.as_ref()),
            Order::NewestFirst => search.newest_first(&view, after.as_ref()),
        };
        searched.map_err(|error| self.index.failed(&error))?;
        drop(view);
        let Search { places, out_of_time, .. } = search;
        self.page(query, places.into_keys().collect(), out_of_time, limit)
    }

    /// Reads the states of a page.
    fn page(&self, query: &Query, places: Vec<Place>, out_of_time: Option<Place>, limit: usize) -> Result<Page> {
        // Behind the place at which the search ended somebody may stand who was not seen.
        let mut places: Vec<Place> =
            places.into_iter().filter(|place| out_of_time.as_ref().is_none_or(|end| place <= end)).collect();
        let cursor = match places.len() > limit {
            true => {
                places.truncate(limit);
                places.last().cloned()
            }
            false => out_of_time,
        };
        let mut page =
            Page { entries: Vec::with_capacity(places.len()), cursor: cursor.map(|place| place.to_string()) };
        for place in places {
            match self.get_one(place.id(), query.fields)? {
                Some(found) => page.entries.push((place.id().to_owned(), found)),
                // Deleted meanwhile, or its file was removed by somebody else.
                None => self.caretaker.report_missing(place.id()),
            }
        }
        Ok(page)
    }

    pub(crate) fn counts(&self) -> Result<Counts> {
        let overlay = self.overlay();
        let view = self.index.view()?;
        let failed = |error: redb::Error| self.index.failed(&error);
        let mut counts = [0_i64; 8];
        for code in STATUS_CODES {
            counts[usize::from(code)] = i64::try_from(view.count(code).map_err(failed)?).unwrap_or(i64::MAX);
        }
        for (id, row) in &overlay {
            if let Some(before) = view.row(id).map_err(failed)? {
                counts[usize::from(before.status & 7)] -= 1;
            }
            if let Some(row) = row {
                counts[usize::from(row.status & 7)] += 1;
            }
        }
        let named = STATUS_CODES
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(code, count)| (status_name(code).to_owned(), u64::try_from(count).unwrap_or(0)));
        Ok(Counts { by_status: named.collect(), age_seconds: 0 })
    }

    /// Deletes evaluations that ended before a time.
    pub(crate) fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        let has_ended = |state: &State| Record::completed_at_of(state).is_some_and(|at| at < prune.ended_before);
        let mut ids: Vec<String> = Vec::new();
        let overlay = self.overlay();
        for (id, row) in &overlay {
            if row.as_ref().and_then(|row| row.ended).is_some_and(|ended| ended < prune.ended_before) {
                ids.push(id.to_string());
            }
        }
        let view = self.index.view()?;
        let failed = |error: redb::Error| self.index.failed(&error);
        for status in Status::TERMINAL {
            // What ended before a time was created before it.
            let old = view.by_created(status.code(), i64::MIN, Some((prune.ended_before, ""))).map_err(failed)?;
            for entry in old {
                let (_, id) = entry.map_err(failed)?;
                let has_ended = || {
                    let ended = view.row(&id).map_err(failed)?.and_then(|row| row.ended);
                    Ok::<_, Error>(ended.is_some_and(|ended| ended < prune.ended_before))
                };
                if ids.len() > prune.limit {
                    break;
                }
                if !overlay.contains_key(&*id) && has_ended()? {
                    ids.push(id);
                }
            }
        }
        drop(view);
        let more = ids.len() > prune.limit;
        ids.truncate(prune.limit);
        if prune.dry_run {
            return Ok(Pruned { removed: ids.len() as u64, more });
        }
        let mut removed = 0;
        // In parts, so that merges in between need not wait for all of it.
        for part in ids.chunks(256) {
            let part: Vec<&str> = part.iter().map(String::as_str).collect();
            let answers = self.delete_where(call, &part, &|_, state| has_ended(state))?;
            removed += answers.iter().filter(|answer| **answer == Deleted::Deleted).count() as u64;
            let absent = part.iter().zip(&answers).filter(|(_, answer)| **answer == Deleted::Absent);
            absent.for_each(|(id, _)| self.caretaker.report_missing(id));
        }
        Ok(Pruned { removed, more })
    }

    fn overlay(&self) -> Overlay {
        let mut states = Vec::new();
        self.pending.for_each_unwritten(|id, state| states.push((Arc::clone(id), state.map(Arc::clone))));
        states.into_iter().map(|(id, state)| (id, state.map(|state| Row::of(&state)))).collect()
    }
}

/// The search for the ids of a page, through the index.
struct Search<'a> {
    query: &'a Query,
    overlay: &'a Overlay,
    stop: Instant,
    places: BTreeMap<Place, ()>,
    wanted: usize,
    out_of_time: Option<Place>,
}

impl Search<'_> {
    fn by_id(&mut self, view: &View, after: Option<&Place>) -> Result<(), redb::Error> {
        for (seen, entry) in view.by_id(after.map(Place::id))?.enumerate() {
            let (id, row) = entry?;
            if self.offer(seen, Place::Id(id), |query| matches(query, &row)) {
                break;
            }
        }
        Ok(())
    }

    /// Each status has an order of its own; the newest of their newest is the next.
    fn newest_first(&mut self, view: &View, after: Option<&Place>) -> Result<(), redb::Error> {
        let from = self.query.since.unwrap_or(i64::MIN);
        let mut before = after.map(|place| place.created());
        if let Some(until) = self.query.until
            && before.is_none_or(|before| before > (until, ""))
        {
            before = Some((until, ""));
        }
        let mut heads = Vec::new();
        for code in
            STATUS_CODES.filter(|code| self.query.status.as_deref().is_none_or(|name| name == status_name(*code)))
        {
            let mut rows = view.by_created(code, from, before)?.rev();
            if let Some(first) = rows.next() {
                heads.push((first?, rows));
            }
        }
        for seen in 0.. {
            let newest = heads.iter().enumerate().max_by(|(_, (a, _)), (_, (b, _))| a.cmp(b));
            let Some(index) = newest.map(|(index, _)| index) else { break };
            let (head, rows) = &mut heads[index];
            let place = match rows.next() {
                Some(next) => std::mem::replace(head, next?),
                None => heads.swap_remove(index).0,
            };
            let is_language = match &self.query.language {
                Some(language) => view.row(&place.1)?.is_some_and(|row| row.language == *language),
                None => true,
            };
            if self.offer(seen, Place::Created(std::cmp::Reverse(place)), |_| is_language) {
                break;
            }
        }
        Ok(())
    }

    /// Takes an id into the page if it belongs there. True if the search can end.
    fn offer(&mut self, seen: usize, place: Place, matches: impl FnOnce(&Query) -> bool) -> bool {
        // All that comes now stands behind what is found already.
        if self.places.len() >= self.wanted && self.places.last_key_value().is_some_and(|(last, ())| *last < place) {
            return true;
        }
        let is_late = seen % STRIDE == STRIDE - 1 && Instant::now() >= self.stop;
        if !self.overlay.contains_key(place.id()) && matches(self.query) {
            self.places.insert(place.clone(), ());
            if self.places.len() > self.wanted {
                self.places.pop_last();
            }
        }
        if is_late {
            self.out_of_time = Some(place);
        }
        is_late
    }
}

impl Place {
    fn of(order: Order, id: &str, row: &Row) -> Self {
        match order {
            Order::Id => Self::Id(id.to_owned()),
            Order::NewestFirst => Self::Created(std::cmp::Reverse((row.created, id.to_owned()))),
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Created(std::cmp::Reverse((_, id))) => id,
        }
    }

    fn created(&self) -> (i64, &str) {
        match self {
            Self::Id(id) => (i64::MAX, id),
            Self::Created(std::cmp::Reverse((created, id))) => (*created, id),
        }
    }

    fn parse(cursor: &str, order: Order) -> Result<Self> {
        let place = match order {
            Order::Id => cursor.strip_prefix("id:").map(|id| Self::Id(id.to_owned())),
            Order::NewestFirst => {
                cursor.strip_prefix("created:").and_then(|rest| rest.split_once(':')).and_then(|(created, id)| {
                    Some(Self::Created(std::cmp::Reverse((created.parse().ok()?, id.to_owned()))))
                })
            }
        };
        place.ok_or_else(|| {
            Error::configuration(format_args!("the cursor `{cursor}` is not of this list; take it from the last page"))
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "id:{id}"),
            Self::Created(std::cmp::Reverse((created, id))) => write!(formatter, "created:{created}:{id}"),
        }
    }
}

fn matches(query: &Query, row: &Row) -> bool {
    query.status.as_deref().is_none_or(|name| name == status_name(row.status))
        && query.language.as_deref().is_none_or(|language| language == row.language)
        && query.since.is_none_or(|since| row.created >= since)
        && query.until.is_none_or(|until| row.created < until)
}

fn status_name(code: u8) -> &'static str {
    Status::from_code(code).map_or("unknown", Status::as_str)
}
