//! A great many evaluations through a small cache: the real `cached-composite` over the real `memory`, over the real
//! boundary, before a primary that has every evaluation there is. A process of its own, whose memory is looked at.
//!
//! `EVALUATIONS=1000000` makes it the long variant, with a cache of 64 MiB instead of 8.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use storage_plugin_api::{
    Answer, Backend, Call, Capabilities, Child, ChildDescription, Delete, Deleted, Durability, Error, EventStamp,
    Fields, Found, Health, Item, Outcome, Page, Query, Record, Result, State, Status, with_items,
};
use storage_worker::plugin::Loader;
use storage_worker::plugin::host_api::PluginMetrics;
use storage_worker_tests::process::plugin_path;

/// Evaluations of a call.
const BATCH: usize = 256;
/// About so many bytes of code has each.
const CODE: usize = 700;
/// After so many calls a few evaluations are also merged to: refused, or taken.
const MERGED: usize = 25;
const OPEN_BUDGET: Duration = Duration::from_secs(10);

/// A primary that has a state of every id, made up when it is asked for, joined with what it took.
#[derive(Default)]
struct Boundless {
    taken: Mutex<BTreeMap<String, State>>,
    read: AtomicU64,
}

impl Boundless {
    fn state(&self, id: &str) -> State {
        let mut state = queued(id);
        if let Some(taken) = self.taken.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            state.merge(taken);
        }
        state
    }
}

fn queued(id: &str) -> State {
    let stamp = EventStamp::new(1, format!("queued-{id}"));
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_open(&stamp, Status::Queued);
    state.set_text(&stamp, "code", id.repeat(CODE / id.len()));
    state
}

fn completed(id: &str) -> State {
    let mut state = State::new();
    state.set_end(&EventStamp::new(2, format!("completed-{id}")), Status::Completed);
    state
}

impl Backend for Boundless {
    /// Refuses what is to be refused.
    fn merge(&self, _: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let take = |item: &Item<'_>| {
            if item.id().ends_with("-refused") {
                return Answer::rejected(Error::invalid_item("it is not wanted"));
            }
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.entry(item.id().to_owned()).or_default().merge_registers(item.registers().iter().copied());
            Answer::new(Outcome::Updated, None, Durability::Durable)
        };
        Ok(batch.iter().map(take).collect())
    }

    fn get(&self, _: &Call, ids: &[&str], _: Fields) -> Result<Vec<Option<Found>>> {
        self.read.fetch_add(ids.len() as u64, Ordering::Relaxed);
        Ok(ids.iter().map(|id| Some(Found { state: self.state(id), incomplete: false })).collect())
    }

    fn list(&self, _: &Call, _: &Query) -> Result<Page> {
        Ok(Page::default())
    }

    fn delete(&self, _: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        Ok(items.iter().map(|_| Deleted::Absent).collect())
    }

    fn health(&self) -> Health {
        Health::healthy()
    }

    fn flush(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct NoMetrics;

impl PluginMetrics for NoMetrics {
    fn count(&self, _: &str, _: &str, _: f64) {}
    fn gauge(&self, _: &str, _: &str, _: f64) {}
}

/// A composite over that primary and a cache of this size; and the cache.
fn composite(primary: &Arc<Boundless>, cache_bytes: u64) -> [Arc<dyn Backend>; 2] {
    let copies = tempfile::tempdir().expect("make a temporary directory");
    let loader = Loader::new(&[], Some(copies.path()), Arc::new(NoMetrics));
    let open = |plugin: &str, options: Value, children, durability| {
        let path = plugin_path(plugin);
        let library = loader.load(path.to_str().expect("the path is Unicode"), None).expect("load a plugin");
        let opened = library.open(plugin, &options, children, durability, OPEN_BUDGET, false).expect("open a backend");
        // Nobody is in a tree before this one, so there is nothing to wait for.
        opened.begin(&Call::with_budget(Duration::ZERO)).expect("it begins");
        opened
    };
    let child = |role: &str, capabilities: Capabilities, backend: Arc<dyn Backend>| {
        let (role, name) = (role.to_owned(), format!("the {role}"));
        let description = ChildDescription { role: role.clone(), name: name.clone(), capabilities };
        Child { role, name, description, backend }
    };
    let parallel = Capabilities { parallel_calls: 4, ..Capabilities::default() };
    let cache = open("memory", json!({"max_bytes": cache_bytes, "evict": true}), Vec::new(), Durability::Volatile);
    let children = vec![
        child("cache", Capabilities { evicting: true, ..parallel.clone() }, Arc::clone(&cache)),
        child("primary", Capabilities { durable: true, ..parallel }, Arc::clone(primary) as Arc<dyn Backend>),
    ];
    [open("cached-composite", json!({"ttl": "1h"}), children, Durability::Durable), cache]
}

fn call() -> Call {
    Call::with_budget(Duration::from_secs(30))
}

fn number(backend: &dyn Backend, name: &str) -> u64 {
    backend.health().details[name].as_u64().expect("a number")
}

/// The memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says how much memory it has");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

/// Read, merged to and read again: what the primary refused is never seen, what it took is.
fn assert_shows_only_what_was_taken(composite: &dyn Backend, primary: &Boundless, id: &str) {
    let before = read(composite, &[id]).remove(0);
    assert_eq!(Record::status_of(&before), Some(Status::Queued));

    let state = completed(id);
    let answer = with_items(&[(id, &state)], |items| composite.merge(&call(), items)).expect("answered").remove(0);

    let is_refused = matches!(answer.outcome, Outcome::Rejected(_));
    assert_eq!(is_refused, id.ends_with("-refused"));
    let expected = if is_refused { Status::Queued } else { Status::Completed };
    for _ in 0..2 {
        let found = read(composite, &[id]).remove(0);
        assert_eq!(Record::status_of(&found), Some(expected), "{id}");
        assert_eq!(found.to_canonical_json(), primary.state(id).to_canonical_json());
    }
}

fn read(composite: &dyn Backend, ids: &[&str]) -> Vec<State> {
    let found = composite.get(&call(), ids, Fields::Whole).expect("it can be read");
    found.into_iter().map(|found| found.expect("every id has a state").state).collect()
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
#[test]
fn a_great_many_evaluations_stay_within_the_cache_and_what_the_primary_refused_is_never_in_it() {
    let asked: Option<usize> = std::env::var("EVALUATIONS").ok().and_then(|count| count.parse().ok());
    let (evaluations, cache_bytes) = (asked.unwrap_or(40_000), if asked.is_some() { 64 << 20 } else { 8 << 20 });
    let primary = Arc::new(Boundless::default());
    let [composite, cache] = composite(&primary, cache_bytes);
    let (began, at_start) = (Instant::now(), resident_bytes());
    let (mut most_bytes, mut resident) = (0, Vec::new());

    for first in (0..evaluations).step_by(BATCH) {
        let ids: Vec<String> =
            (first..evaluations.min(first + BATCH)).map(|number| format!("evaluation-{number}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        for (id, state) in ids.iter().zip(read(&*composite, &ids)) {
            assert_eq!(state.registers().len(), queued(id).registers().len(), "{id}");
        }
        if (first / BATCH).is_multiple_of(MERGED) {
            for way in ["refused", "taken"] {
                assert_shows_only_what_was_taken(&*composite, &primary, &format!("merged-{first}-{way}"));
            }
        }
        let bytes = number(&*cache, "bytes");
        assert!(bytes <= cache_bytes, "{bytes} of {cache_bytes} bytes after {first} evaluations");
        most_bytes = most_bytes.max(bytes);
        resident.push(resident_bytes());
    }

    let grown = |at: usize| resident[at].saturating_sub(at_start) >> 20;
    let (middle, last) = (grown(resident.len() / 2), grown(resident.len() - 1));
    let (cache_mib, hits) = (cache_bytes >> 20, number(&*composite, "cache_hits"));
    println!(
        "{evaluations} evaluations in {:.1?} through {cache_mib} MiB: it says at most {most_bytes} bytes; the process grew by {middle} MiB at half of them, by {last} at the end",
        began.elapsed()
    );
    assert!(most_bytes > cache_bytes / 10 * 9, "it was full: {most_bytes} bytes");
    assert!(last <= cache_mib * 2 + 16, "the process took {last} MiB for a cache of {cache_mib}");
    assert!(last <= middle + 8 + cache_mib / 8, "it grew from {middle} to {last} MiB after it was full");
    assert!(primary.read.load(Ordering::Relaxed) >= evaluations as u64, "every evaluation was read once");
    assert!(hits > 0, "what was read twice was read from the cache");
    composite.close(&call()).expect("it closes");
}
