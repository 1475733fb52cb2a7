//! Pages of states in order, taken from all shards at once.
//!
//! The locks are held for a bounded number of entries, so that a filter that matches little does not stop the merges.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use storage_plugin_api::{Error, Order, Query, Result, State, Status, json, names};

use crate::shard::{Entry, Shard};

/// Most entries looked at while the locks are held.
const STRIDE: usize = 4096;

/// Where a page ended, or an entry's place in the order of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In id order.
    Id(Arc<str>),
    /// Newest first.
    Created((i64, Arc<str>)),
}

/// A page: ids and states in order, and where to go on.
pub(crate) type Found = (Vec<(Arc<str>, Arc<State>)>, Option<Place>);

/// Collects a page.
pub(crate) fn page(shards: &[RwLock<Shard>], query: &Query) -> Result<Found> {
    let filter = Filter::of(query);
    let limit = query.limit.max(1);
    let mut place = query.cursor.as_deref().map(|cursor| Place::parse(cursor, query.order)).transpose()?;
    let mut found: Vec<(Arc<str>, Arc<State>)> = Vec::new();
    let mut last = None;
    loop {
        let guards: Vec<RwLockReadGuard<'_, Shard>> =
            shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner)).collect();
        let mut heads = Heads::new(&guards, query.order, place.as_ref());
        let mut stride_end = None;
        for seen in 1..=STRIDE {
            let Some((id, entry)) = heads.next() else { return Ok((found, None)) };
            if filter.matches(entry) {
                if found.len() == limit {
                    return Ok((found, last));
                }
                found.push((Arc::clone(id), Arc::clone(&entry.state)));
                last = Some(Place::of(query.order, id, entry));
            }
            if seen == STRIDE {
                stride_end = Some(Place::of(query.order, id, entry));
            }
        }
        drop(heads);
        place = stride_end;
    }
}

impl Place {
    fn of(order: Order, id: &Arc<str>, entry: &Entry) -> Self {
        match order {
            Order::Id => Self::Id(Arc::clone(id)),
            Order::NewestFirst => Self::Created((entry.created, Arc::clone(id))),
        }
    }

    fn parse(cursor: &str, order: Order) -> Result<Self> {
        let place = match order {
            Order::Id => cursor.strip_prefix("id:").map(|id| Self::Id(id.into())),
            Order::NewestFirst => cursor
                .strip_prefix("created:")
                .and_then(|rest| rest.split_once(':'))
                .and_then(|(created, id)| Some(Self::Created((created.parse().ok()?, id.into())))),
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
            Self::Created((created, id)) => write!(formatter, "created:{created}:{id}"),
        }
    }
}

/// What entries a query wants.
struct Filter<'a> {
    query: &'a Query,
    status: Option<&'a str>,
    /// As the register holds it.
    language: Option<String>,
}

impl<'a> Filter<'a> {
    fn of(query: &'a Query) -> Self {
        let language = query.language.as_deref().map(json::canonical_string);
        Self { query, status: query.status.as_deref(), language }
    }

    fn matches(&self, entry: &Entry) -> bool {
        self.status.is_none_or(|status| entry.status.map_or("unknown", Status::as_str) == status)
            && self.query.since.is_none_or(|since| entry.created >= since)
            && self.query.until.is_none_or(|until| entry.created < until)
            && self.language.as_deref().is_none_or(|language| {
                entry.state.get(names::LANGUAGE).and_then(|register| register.value.as_json()) == Some(language)
            })
    }
}

type Entries<'a> = Box<dyn Iterator<Item = (&'a Arc<str>, &'a Entry)> + 'a>;

/// The next entry of every shard; the least of them is the next of all.
struct Heads<'a> {
    order: Order,
    heap: BinaryHeap<Reverse<Head<'a>>>,
}

struct Head<'a> {
    order: Order,
    id: &'a Arc<str>,
    entry: &'a Entry,
    rest: Entries<'a>,
}

impl<'a> Heads<'a> {
    fn new(guards: &'a [RwLockReadGuard<'_, Shard>], order: Order, place: Option<&'a Place>) -> Self {
        let mut heads = Self { order, heap: BinaryHeap::with_capacity(guards.len()) };
        for shard in guards {
            heads.push(match (order, place) {
                (_, Some(Place::Id(id))) => Box::new(shard.behind(Some(id))),
                (_, Some(Place::Created(place))) => Box::new(shard.older_than(Some(place))),
                (Order::Id, None) => Box::new(shard.behind(None)),
                (Order::NewestFirst, None) => Box::new(shard.older_than(None)),
            });
        }
        heads
    }

    fn push(&mut self, mut rest: Entries<'a>) {
        if let Some((id, entry)) = rest.next() {
            self.heap.push(Reverse(Head { order: self.order, id, entry, rest }));
        }
    }

    fn next(&mut self) -> Option<(&'a Arc<str>, &'a Entry)> {
        let Reverse(head) = self.heap.pop()?;
        let next = (head.id, head.entry);
        self.push(head.rest);
        Some(next)
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.order {
            Order::Id => self.id.cmp(other.id),
            Order::NewestFirst => (other.entry.created, other.id).cmp(&(self.entry.created, self.id)),
        }
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head<'_> {}
