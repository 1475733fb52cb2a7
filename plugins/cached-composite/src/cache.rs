//! The cache: entries made of whole reads, joined into by merges, void when they are too old.
//!
//! An entry is a state in the child with one more register, which says when it was made and in which epoch. Whatever
//! lacks it is no entry: say what a merge left behind whose entry the child had just forgotten. So the child may forget
//! what it likes, and nothing is kept here that grows with what it holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{
    Call, Child, Delete, Deleted, Error, EventStamp, Fields, Item, Outcome, Register, Result, Rule, State, Value,
    names, with_items,
};
use tracing::warn;

use crate::claims::Claims;
use crate::flights::{Flights, Lead};
use crate::lock;
use crate::shared::ByName;

/// The register that makes a state an entry.
const FILLED: &str = "cached_composite/filled";

static TOGETHER: ByName<Together> = ByName::new();

/// What instances over one cache share.
#[derive(Debug)]
struct Together {
    /// Entries of another epoch are void.
    epoch: AtomicU64,
    /// Ids whose entries somebody changes.
    claims: Claims,
    flights: Mutex<Vec<Weak<Flights>>>,
}

impl Default for Together {
    fn default() -> Self {
        // What another process left behind is of another epoch.
        let epoch = AtomicU64::new(fastrand::u64(..));
        Self { epoch, claims: Claims::default(), flights: Mutex::default() }
    }
}

/// The child that reads ask first.
pub(crate) struct Cache {
    child: Child,
    host: Host,
    ttl: Duration,
    together: Arc<Together>,
    pub(crate) flights: Arc<Flights>,
    /// From when on reads become entries; unknown before it is told.
    filled_from: OnceLock<Instant>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What the cache has of an id.
#[derive(Default)]
pub(crate) struct Looked {
    /// The state of an entry.
    pub(crate) state: Option<State>,
    /// The entry is within its time.
    pub(crate) is_fresh: bool,
    /// There is something, an entry or not.
    pub(crate) is_there: bool,
}

/// A whole state that was read for those who wait for it.
pub(crate) struct Filling<'a> {
    pub(crate) lead: &'a Lead<'a>,
    pub(crate) state: &'a State,
    /// Something is there that must not be joined into.
    pub(crate) replaces: bool,
}

impl Cache {
    pub(crate) fn new(child: Child, host: Host, ttl: Duration) -> Self {
        let together = TOGETHER.get(&child.name);
        let flights = Arc::new(Flights::default());
        let mut tables = lock(&together.flights);
        tables.retain(|table| table.strong_count() > 0);
        tables.push(Arc::downgrade(&flights));
        drop(tables);
        let (filled_from, hits, misses) = Default::default();
        Self { child, host, ttl, together, flights, filled_from, hits, misses }
    }

    /// The tree is in use, and nobody merges past this cache any more when the time of that call is over.
    ///
    /// Merges that are under way in the tree before, which may have no cache or another one, bring nothing here; what was
    /// read before one of them came to its end would stay.
    pub(crate) fn begin(&self, call: &Call) {
        let remaining = call.remaining();
        let _ = self.filled_from.set(Instant::now() + remaining + remaining / 10);
    }

    /// True if what is read from now on may become an entry.
    pub(crate) fn is_filled(&self, now: Instant) -> bool {
        self.filled_from.get().is_some_and(|from| now >= *from)
    }

    /// Asked before a read of the primary begins whose answer is to become an entry.
    pub(crate) fn epoch(&self) -> u64 {
        self.together.epoch.load(Ordering::SeqCst)
    }

    /// What there is of each id. A cache that fails has nothing.
    pub(crate) fn look(&self, call: &Call, ids: &[&str], fields: Fields) -> Vec<Looked> {
        let (epoch, now) = (self.epoch(), now());
        let looked: Vec<Looked> = match self.child.backend.get(&part_of(call), ids, fields) {
            Ok(found) => found
                .into_iter()
                .map(|found| match found {
                    Some(found) => self.looked(&found.state, epoch, now),
                    None => Looked::default(),
                })
                .collect(),
            // Something may be there.
            Err(_) => ids.iter().map(|_| Looked { is_there: true, ..Looked::default() }).collect(),
        };
        let hits = looked.iter().filter(|looked| looked.is_fresh).count() as u64;
        let misses = looked.len() as u64 - hits;
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
        for (name, count) in [("cache_hits", hits), ("cache_misses", misses)] {
            if count > 0 {
                self.host.count(name, count);
            }
        }
        looked
    }

    /// Makes entries of whole reads that nothing was merged into since they began.
    pub(crate) fn fill(&self, call: &Call, epoch: u64, fillings: &[Filling<'_>]) {
        let claimed = self.together.claims.claim_free(fillings.iter().map(|filling| filling.lead.id()));
        // In this order: a merge that comes later waits for the claim, one that came before has outdated the read.
        let wanted = |filling: &&Filling<'_>| claimed.has(filling.lead.id()) && !filling.lead.is_outdated();
        let fillings: Vec<&Filling<'_>> = fillings.iter().filter(wanted).collect();
        let replaced: Vec<&str> =
            fillings.iter().filter(|filling| filling.replaces).map(|filling| filling.lead.id()).collect();
        let call = part_of(call);
        if fillings.is_empty() || self.remove(&call, &replaced).is_err() {
            return;
        }
        let marker = marker(epoch);
        let entries: Vec<(&str, State)> = fillings
            .iter()
            .map(|filling| {
                let mut entry = filling.state.clone();
                entry.set(marker.clone());
                (filling.lead.id(), entry)
            })
            .collect();
        let lent: Vec<(&str, &State)> = entries.iter().map(|(id, entry)| (*id, entry)).collect();
        // What the cache does not take is read from the primary again.
        if let Ok(answers) = with_items(&lent, |items| self.child.backend.merge(&call, items)) {
            let filled = answers.iter().filter(|answer| !matches!(answer.outcome, Outcome::Rejected(_))).count();
            self.host.count("cache_fills", filled as u64);
        }
    }

    /// Joins what was merged into the entries that there are. Afterwards no read finds an entry without it.
    pub(crate) fn join(&self, call: &Call, items: &[Item<'_>]) {
        self.change(call, items.iter().map(Item::id), |call| self.join_claimed(call, items));
    }

    /// Removes the entries of what was deleted.
    pub(crate) fn forget(&self, call: &Call, ids: &[&str]) {
        self.change(call, ids.iter().copied(), |call| self.remove(call, ids));
    }

    /// Makes all entries void.
    pub(crate) fn forget_all(&self) {
        self.together.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Hits and misses so far.
    pub(crate) fn figures(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn change<'i>(
        &self,
        call: &Call,
        ids: impl Iterator<Item = &'i str> + Clone,
        change: impl FnOnce(&Call) -> Result<()>,
    ) {
        if ids.clone().next().is_none() {
            return;
        }
        let call = part_of(call);
        let claimed = self.together.claims.claim(ids.clone(), call.deadline);
        for flights in lock(&self.together.flights).iter().filter_map(Weak::upgrade) {
            flights.outdate(ids.clone());
        }
        let changed = match &claimed {
            Some(_) => change(&call),
            None => Err(Error::overloaded("others were at work on the same entries until the deadline")),
        };
        if let Err(error) = changed {
            self.forget_all();
            self.host.count("cache_voided", 1);
            warn!(cache = self.child.name, %error, "cache could not be brought up to date, all its entries are void");
        }
    }

    fn join_claimed(&self, call: &Call, items: &[Item<'_>]) -> Result<()> {
        let ids: Vec<&str> = items.iter().map(Item::id).collect();
        let (epoch, now) = (self.epoch(), now());
        let there = self.child.backend.get(call, &ids, Fields::WithoutBodies)?;
        let (mut joined, mut removed) = (Vec::new(), Vec::new());
        for (item, found) in items.iter().zip(&there) {
            match found {
                Some(found) if self.looked(&found.state, epoch, now).state.is_some() => joined.push(*item),
                Some(_) => removed.push(item.id()),
                None => {}
            }
        }
        if !joined.is_empty() {
            let answers = self.child.backend.merge(call, &joined)?;
            let kept = |outcome: &Outcome| matches!(outcome, Outcome::Updated | Outcome::Unchanged);
            // One that was created was forgotten in between; one that was refused lacks what was merged.
            let lost = joined.iter().zip(&answers).filter(|(_, answer)| !kept(&answer.outcome));
            removed.extend(lost.map(|(item, _)| item.id()));
        }
        self.remove(call, &removed)
    }

    fn remove(&self, call: &Call, ids: &[&str]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let items: Vec<Delete<'_>> = ids.iter().map(|id| Delete { id, digest: None }).collect();
        let failed = |answer: Deleted| match answer {
            Deleted::Failed(error) => Some(error),
            Deleted::Deleted | Deleted::Absent | Deleted::Differs => None,
        };
        let answers = self.child.backend.delete(call, &items)?;
        answers.into_iter().find_map(failed).map_or(Ok(()), Err)
    }

    fn looked(&self, entry: &State, epoch: u64, now: i64) -> Looked {
        let nothing = Looked { is_there: true, ..Looked::default() };
        let Some(filled) = entry.get(FILLED) else { return nothing };
        if filled.value.as_json().and_then(|json| json.parse().ok()) != Some(epoch) {
            return nothing;
        }
        // An entry from the future was made before the clock was set back.
        let age = now.checked_sub(filled.stamp.time).and_then(|age| u64::try_from(age).ok());
        let is_fresh = age.is_some_and(|age| Duration::from_micros(age) < self.ttl);
        Looked { state: Some(without_marker(entry)), is_fresh, is_there: true }
    }
}

/// A cache that hangs shall not use up the time of those that it is to speed up.
fn part_of(call: &Call) -> Call {
    call.at_most(call.remaining() / 4)
}

fn marker(epoch: u64) -> Register {
    Register {
        name: names::intern(FILLED),
        rule: Rule::Last,
        stage: 0,
        stamp: EventStamp::new(now(), "filled"),
        value: Value::Json(epoch.to_string().into()),
    }
}

fn without_marker(entry: &State) -> State {
    let mut state = State::with_capacity(entry.registers().len());
    for register in entry.registers().iter().filter(|register| register.name != FILLED) {
        state.set(register.clone());
    }
    state
}

/// Microseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
