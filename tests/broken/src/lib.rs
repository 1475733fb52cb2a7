//! A right and durable backend of which one rule can be broken, so that the conformance kit can show that it finds it.
//!
//! States are in memory, behind the synced log of `log.rs`. `rules.rs` lists what `break = "…"` takes.

mod blobs;
mod log;
mod rules;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use serde::Deserialize;
use storage_plugin_api::{
    Answer, Backend, BlobPage, Call, Capabilities, ChildDescription, Counts, Delete, Deleted, Description, Durability,
    Error, Fields, Found, Health, Item, OpenBackend, Opening, Outcome, Page, Prune, Pruned, Query, Record, Result,
    State, Status,
};

use crate::log::Log;
use crate::rules::Rule;

storage_plugin_api::export_backend!("broken", Broken);

/// The options.
#[derive(Clone, Debug, Deserialize)]
pub struct Options {
    path: PathBuf,
    #[serde(rename = "break")]
    broken: Option<Rule>,
    /// Answers as if its disk were gone.
    #[serde(default)]
    away: bool,
    /// Not used; a secret that must not be shown.
    #[serde(rename = "password")]
    _password: Option<String>,
    /// The same within a URL.
    #[serde(rename = "url")]
    _url: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

/// The backend.
pub struct Broken {
    options: Options,
    kept: Arc<Mutex<Kept>>,
}

/// The instance that was opened last in this process, for the one rule that mixes them up.
static LAST_OPENED: Mutex<Weak<Mutex<Kept>>> = Mutex::new(Weak::new());

struct Kept {
    log: Log,
    states: BTreeMap<String, State>,
    /// The states as they were created.
    firsts: BTreeMap<String, State>,
    deleted: BTreeSet<String>,
    counted: Option<Counts>,
    /// Where the last page of a list ended.
    last_listed: String,
    /// The thread that opened it, and those that merged.
    writers: Vec<ThreadId>,
    /// What the last merge changed, as it was before.
    before_last: BTreeMap<String, Option<State>>,
    is_flushed: bool,
}

impl std::fmt::Debug for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Broken").field("options", &self.options).finish_non_exhaustive()
    }
}

impl OpenBackend for Broken {
    type Options = Options;

    fn check(options: &Options, _: &[ChildDescription]) -> Description {
        let is = |rule| options.broken == Some(rule);
        if is(Rule::CheckWrites) {
            let _ = std::fs::create_dir_all(&options.path);
            let _ = std::fs::write(options.path.join("checked"), []);
        }
        let unknown = options.others.keys().filter(|_| !is(Rule::AnyOption));
        let capabilities = Capabilities {
            durable: true,
            exclusive: !is(Rule::ClaimsShared),
            list_by_id: true,
            list_by_created: true,
            counts: !is(Rule::OffersMore),
            prune: true,
            blobs: true,
            parallel_calls: 4,
            ..Capabilities::default()
        };
        let mut problems: Vec<String> = unknown.map(|name| format!("unknown option `{name}`")).collect();
        // The kit promises that it is.
        if !options.path.is_dir() {
            problems.push(format!("there is no directory `{}`", options.path.display()));
        }
        Description { capabilities, problems, ..Description::default() }
    }

    fn open(options: Options, _: Opening) -> Result<Self> {
        let is = |rule| options.broken == Some(rule);
        if is(Rule::HangsInOpen) {
            thread::sleep(Duration::from_secs(3600));
        }
        if is(Rule::LeaksThreads) {
            thread::spawn(|| thread::sleep(Duration::from_secs(3600)));
        }
        let is_locked = !is(Rule::NoLock) && !is(Rule::ClaimsShared);
        let was_used = || options.path.join("log").exists() || options.path.join("lock").exists();
        if options.away && was_used() {
            return Err(Error::configuration("the directory of a far side that is away is not new"));
        }
        let opened = Log::open(&options.path, is_locked, options.broken).map_err(Error::unavailable)?;
        let Some((log, lines)) = opened else {
            return Err(Error::configuration(format_args!("`{}` is in use", options.path.display())));
        };
        let mut states = BTreeMap::new();
        for (id, state) in lines {
            match state {
                Some(state) => drop(states.insert(id, State::from_json(&state).map_err(Error::internal)?)),
                None => drop(states.remove(&id)),
            }
        }
        if is(Rule::BlobsForgotten) {
            let _ = std::fs::remove_dir_all(blobs::directory(&options.path));
        }
        let kept = Kept {
            log,
            states,
            firsts: BTreeMap::new(),
            deleted: BTreeSet::new(),
            counted: None,
            last_listed: String::new(),
            writers: vec![thread::current().id()],
            before_last: BTreeMap::new(),
            is_flushed: true,
        };
        let kept = Arc::new(Mutex::new(kept));
        let mut last = LAST_OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = last.upgrade().filter(|_| options.broken == Some(Rule::SharedStates)).unwrap_or(kept);
        *last = Arc::downgrade(&kept);
        Ok(Self { options, kept })
    }
}

impl Broken {
    fn is(&self, rule: Rule) -> bool {
        self.options.broken == Some(rule)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, call: &Call) -> Result<()> {
        if self.options.away && self.is(Rule::AwayHangs) {
            thread::sleep(call.remaining() + Duration::from_secs(4));
        }
        match (self.options.away, self.is(Rule::AwayIsInternal)) {
            (false, _) => Ok(()),
            (true, false) => Err(Error::unavailable("the disk is gone")),
            (true, true) => Err(Error::internal("unexpected end of file")),
        }
    }

    fn key(&self, states: &BTreeMap<String, State>, id: &str) -> String {
        let is_same = |other: &&String| other.eq_ignore_ascii_case(id);
        let found = if self.is(Rule::IgnoresCase) { states.keys().find(is_same) } else { None };
        found.map_or(id, String::as_str).to_owned()
    }

    /// Joins one item; what changed goes into the log later.
    fn merge_item(&self, item: &Item<'_>, is_alone: bool, changed: &mut Vec<String>) -> Answer {
        let mut kept = self.kept();
        let id = self.key(&kept.states, item.id());
        let mut before = kept.states.get(&id).cloned();
        if self.is(Rule::LostInsert) && is_alone && before.is_none() {
            let all = kept.states.clone();
            drop(kept);
            thread::sleep(Duration::from_millis(1));
            kept = self.kept();
            before = kept.states.get(&id).cloned();
            if before.is_none() {
                kept.states = all;
            }
        }
        if self.is(Rule::LostUpdate) && before.is_some() {
            drop(kept);
            thread::sleep(Duration::from_millis(1));
            kept = self.kept();
        }
        let state = shape::merged(self.options.broken, before.as_ref(), item);
        let durability = if self.is(Rule::SaysVolatile) { Durability::Volatile } else { Durability::Durable };
        let (status, of_item) = (Record::status_of(&state), Record::status_of(&item.to_state()));
        let status = if self.is(Rule::StatusOfItem) { of_item } else { status };
        let is_same = before.as_ref().is_some_and(|before| before.digest() == state.digest());
        let is_nothing = before.is_none() && state.is_empty() && !self.is(Rule::StoresNothing);
        if is_same || is_nothing || kept.deleted.contains(&id) {
            return Answer::new(Outcome::Unchanged, status, durability);
        }
        let outcome = if before.is_some() { Outcome::Updated } else { Outcome::Created };
        if before.is_none() && self.is(Rule::StaleIndex) {
            kept.firsts.insert(id.clone(), state.clone());
        }
        kept.before_last.insert(id.clone(), before);
        kept.states.insert(id.clone(), state);
        changed.push(id);
        Answer::new(outcome, status, durability)
    }
}

impl Backend for Broken {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.reach(call)?;
        if self.is(Rule::EmptyBatch) && batch.is_empty() {
            return Err(Error::internal("nothing to merge"));
        }
        let is_bad = |item: &Item<'_>| item.id().is_empty() || item.id().len() > 64 || item.id().contains('/');
        if self.is(Rule::BadItemFailsBatch) && batch.iter().any(is_bad) {
            return Err(Error::invalid_item("impossible id"));
        }
        let were_new = self.is(Rule::CreatedTwice).then(|| {
            let kept = self.kept();
            let were_new: Vec<bool> = batch.iter().map(|item| !kept.states.contains_key(item.id())).collect();
            drop(kept);
            thread::sleep(Duration::from_millis(2));
            were_new
        });
        {
            let mut kept = self.kept();
            kept.writers.push(thread::current().id());
            kept.before_last.clear();
            kept.is_flushed = false;
        }
        let mut changed = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for (index, item) in batch.iter().enumerate() {
            let comes_again = batch[index + 1..].iter().take(16).any(|other| other.id() == item.id());
            let is_dropped = (self.is(Rule::BatchDedup) && comes_again) || (self.is(Rule::BatchCap) && index >= 4096);
            answers.push(match () {
                () if is_bad(item) => Answer::rejected(Error::invalid_item("impossible id")),
                () if is_dropped => Answer::new(Outcome::Updated, None, Durability::Durable),
                () => self.merge_item(item, batch.len() == 1, &mut changed),
            });
        }
        for (answer, was_new) in answers.iter_mut().zip(were_new.into_iter().flatten()) {
            if was_new && answer.outcome == Outcome::Updated {
                answer.outcome = Outcome::Created;
            }
        }
        let mut kept = self.kept();
        let Kept { log, states, .. } = &mut *kept;
        // A state that somebody else has changed since is the later one, which the log may have twice.
        let lines: Vec<(&str, Option<&State>)> = changed.iter().map(|id| (&**id, states.get(id))).collect();
        log.append(&lines, !self.is(Rule::NeverSyncs)).map_err(Error::unavailable)?;
        Ok(answers)
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.reach(call)?;
        let kept = self.kept();
        let mut ids: Vec<String> = ids.iter().map(|id| self.key(&kept.states, id)).collect();
        if self.is(Rule::SortedAnswers) {
            ids.sort();
        }
        let fields = if self.is(Rule::BodiesAlways) { Fields::Whole } else { fields };
        let is_behind = self.is(Rule::CachePerThread) && !kept.writers.contains(&thread::current().id());
        let state = |id: &String| match kept.before_last.get(id).filter(|_| is_behind) {
            Some(before) => before.as_ref(),
            None => kept.states.get(id),
        };
        let incomplete = self.is(Rule::AlwaysIncomplete);
        let found = |state: &State| Found { incomplete, ..found(state, fields) };
        Ok(ids.iter().map(|id| state(id).map(found)).collect())
    }

    fn list(&self, _: &Call, query: &Query) -> Result<Page> {
        let mut kept = self.kept();
        let Kept { states, firsts, last_listed, .. } = &mut *kept;
        shape::page(self.options.broken, states, firsts, last_listed, query)
    }

    fn counts(&self, _: &Call) -> Result<Counts> {
        let mut kept = self.kept();
        if self.is(Rule::CountsOnce)
            && let Some(counted) = &kept.counted
        {
            return Ok(counted.clone());
        }
        let mut counts = Counts::default();
        for state in kept.states.values() {
            let status = Record::status_of(state).map_or("unknown", Status::as_str);
            *counts.by_status.entry(status.to_owned()).or_default() += 1;
        }
        kept.counted = Some(counts.clone());
        Ok(counts)
    }

    fn delete(&self, _: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let mut kept = self.kept();
        let is_same = |kept: &Kept, item: &Delete<'_>| {
            kept.states.get(item.id).is_some_and(|state| item.digest == Some(&state.digest()))
        };
        let were_same: Vec<bool> = items.iter().map(|item| is_same(&kept, item)).collect();
        if self.is(Rule::DigestRace) && were_same.contains(&true) {
            drop(kept);
            thread::sleep(Duration::from_millis(2));
            kept = self.kept();
        }
        let Kept { log, states, firsts, deleted, .. } = &mut *kept;
        let mut answers = Vec::new();
        let mut gone = Vec::new();
        for (item, was_same) in items.iter().zip(were_same) {
            let id = self.key(states, item.id);
            let is_ignored = self.is(Rule::IgnoresDigest) && items.len() > 1 || self.is(Rule::DigestRace) && was_same;
            let digest = item.digest.filter(|_| !is_ignored);
            if digest.is_some() && items.len() > 1 && self.is(Rule::Aborts) && states.contains_key(&id) {
                std::process::abort();
            }
            answers.push(match states.get(&id) {
                None if self.is(Rule::DeletedTwice) && digest.is_none() => Deleted::Deleted,
                None => Deleted::Absent,
                Some(state) if digest.is_some_and(|digest| *digest != state.digest()) => Deleted::Differs,
                Some(_) => {
                    states.remove(&id);
                    firsts.remove(&id);
                    if self.is(Rule::Tombstones) && item.digest.is_none() {
                        deleted.insert(id.clone());
                    }
                    gone.push(id);
                    Deleted::Deleted
                }
            });
        }
        if !self.is(Rule::ForgetsDeletes) {
            let lines: Vec<(&str, Option<&State>)> = gone.iter().map(|id| (&**id, None)).collect();
            log.append(&lines, true).map_err(Error::unavailable)?;
        }
        Ok(answers)
    }

    fn health(&self) -> Health {
        if self.is(Rule::SlowHealth) {
            thread::sleep(Duration::from_millis(1500));
        }
        Health::healthy()
    }

    fn flush(&self, _: &Call) -> Result<()> {
        let was_flushed = std::mem::replace(&mut self.kept().is_flushed, true);
        match self.is(Rule::FlushFails) && !was_flushed {
            true => Err(Error::internal("cannot flush")),
            false => Ok(()),
        }
    }

    fn close(&self, _: &Call) -> Result<()> {
        self.kept().log.close().map_err(Error::unavailable)
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        if self.is(Rule::Hangs) && !prune.dry_run {
            thread::sleep(Duration::from_secs(3600));
        }
        let ended = |state: &State| match self.is(Rule::PrunesOpen) {
            true => Record::created_at_of(state),
            false => Record::completed_at_of(state),
        };
        let mut old: Vec<String> = {
            let kept = self.kept();
            let is_old = |state: &State| ended(state).is_some_and(|time| time < prune.ended_before);
            kept.states.iter().filter(|(_, state)| is_old(state)).map(|(id, _)| id.clone()).collect()
        };
        let more = old.len() > prune.limit;
        old.truncate(prune.limit);
        if !prune.dry_run {
            let items: Vec<Delete<'_>> = old.iter().map(|id| Delete { id, digest: None }).collect();
            self.delete(call, &items)?;
        }
        Ok(Pruned { removed: old.len() as u64, more })
    }

    fn put_blob(&self, _: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        blobs::put(&self.options.path, key, bytes)
    }

    fn get_blob(&self, _: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        blobs::get(&self.options.path, key)
    }

    fn scan_blobs(&self, _: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        blobs::scan(&self.options.path, after, limit, self.is(Rule::BlobsUnordered))
    }

    fn delete_blob(&self, _: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        let _one_at_a_time = self.kept();
        let untouched_since = if self.is(Rule::BlobsAnyAge) { i64::MAX } else { untouched_since };
        blobs::delete(&self.options.path, key, untouched_since)
    }
}

pub(crate) fn found(state: &State, fields: Fields) -> Found {
    let state = match fields {
        Fields::Whole => state.clone(),
        Fields::WithoutBodies => state.without_bodies(),
    };
    Found { state, incomplete: false }
}
