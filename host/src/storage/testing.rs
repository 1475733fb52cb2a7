//! Backends and plugins that live in the tests' own process, and misbehave when they are asked to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use storage_plugin_api::{
    Answer, Backend, Call, Capabilities, Child, ChildDescription, Counts, Delete, Deleted, Description, Durability,
    Error, Fields, Found, Health, Item, Order, Outcome, Page, Query, Record, Result, Role, State,
};

use super::config::{BackendConfig, Backends, BreakerConfig, Children, Config};
use super::guard::Guard;
use super::lock;
use super::plugin::{About, Plugin, PluginSource};
use crate::telemetry::metrics::Metrics;

/// Does a backend's part of the next calls in place of the backend.
pub(crate) type Fault = Arc<dyn Fn(&'static str) -> Result<()> + Send + Sync>;

/// A complete backend in memory, with a place for faults.
pub(crate) struct TestBackend {
    states: Mutex<BTreeMap<String, State>>,
    fault: Mutex<Option<Fault>>,
    /// Items that fail, and how often.
    failing: Mutex<BTreeMap<String, (Error, u32)>>,
    pub(crate) calls: AtomicU64,
    pub(crate) begun: AtomicU64,
    pub(crate) events: Events,
    name: String,
}

/// What happened to the backends of a test, in order.
pub(crate) type Events = Arc<Mutex<Vec<String>>>;

impl TestBackend {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::named("test", &Events::default()))
    }

    fn named(name: &str, events: &Events) -> Self {
        Self {
            states: Mutex::default(),
            fault: Mutex::default(),
            failing: Mutex::default(),
            calls: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            events: Arc::clone(events),
            name: name.to_owned(),
        }
    }

    /// From now on every call first does this.
    pub(crate) fn set_fault(&self, fault: impl Fn(&'static str) -> Result<()> + Send + Sync + 'static) {
        *lock(&self.fault) = Some(Arc::new(fault));
    }

    pub(crate) fn mend(&self) {
        *lock(&self.fault) = None;
    }

    pub(crate) fn is_away(&self) {
        self.set_fault(|call| if call == "drop" { Ok(()) } else { Err(Error::unavailable("the disk is gone")) });
    }

    /// From now on every call hangs until what is returned is dropped. The receiver is told of each.
    pub(crate) fn hang(&self) -> (Sender<()>, Receiver<()>) {
        let (release, wait) = channel::<()>();
        let (entered, told) = channel();
        let wait = Mutex::new(wait);
        self.set_fault(move |_| {
            let _ = entered.send(());
            let _ = lock(&wait).recv();
            Ok(())
        });
        (release, told)
    }

    /// The next so many merges and deletes of this evaluation fail, and no other.
    pub(crate) fn fail_for(&self, id: &str, error: Error, times: u32) {
        lock(&self.failing).insert(id.to_owned(), (error, times));
    }

    fn failure(&self, id: &str) -> Option<Error> {
        let mut failing = lock(&self.failing);
        let (error, times) = failing.get_mut(id).filter(|(_, times)| *times > 0)?;
        *times -= 1;
        Some(error.clone())
    }

    pub(crate) fn insert(&self, id: &str, state: State) {
        lock(&self.states).insert(id.to_owned(), state);
    }

    fn enter(&self, call: &'static str) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let fault = lock(&self.fault).clone();
        fault.map_or(Ok(()), |fault| fault(call))
    }

    fn note(&self, what: &str) {
        lock(&self.events).push(format!("{what} {}", self.name));
    }
}

impl Backend for TestBackend {
    fn merge(&self, _: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.enter("merge")?;
        let mut states = lock(&self.states);
        let answer = |item: &Item<'_>| {
            if let Some(error) = self.failure(item.id()) {
                return Answer::rejected(error);
            }
            let known = states.contains_key(item.id());
            let state = states.entry(item.id().to_owned()).or_default();
            let changed = state.merge_registers(item.registers().iter().copied());
            let outcome = match (known, changed) {
                (false, _) => Outcome::Created,
                (true, true) => Outcome::Updated,
                (true, false) => Outcome::Unchanged,
            };
            Answer::new(outcome, Record::status_of(state), Durability::Volatile)
        };
        Ok(batch.iter().map(answer).collect())
    }

    fn get(&self, _: &Call, ids: &[&str], _: Fields) -> Result<Vec<Option<Found>>> {
        self.enter("get")?;
        let states = lock(&self.states);
        Ok(ids.iter().map(|id| states.get(*id).map(found)).collect())
    }

    fn list(&self, _: &Call, query: &Query) -> Result<Page> {
        self.enter("list")?;
        let states = lock(&self.states);
        let is_wanted = |state: &State| {
            let status = Record::status_of(state).map(|status| status.as_str().to_owned());
            query.status.is_none() || query.status == status
        };
        let mut wanted: Vec<_> = states.iter().filter(|(_, state)| is_wanted(state)).collect();
        if query.order == Order::NewestFirst {
            wanted.sort_by_key(|(id, state)| std::cmp::Reverse((Record::created_at_of(state), (*id).clone())));
        }
        let not_mine = || Error::configuration("this cursor is not mine");
        let start: usize = match (&query.cursor, query.order) {
            (None, _) => 0,
            (Some(cursor), Order::Id) => {
                let behind = cursor.strip_prefix("behind ").ok_or_else(not_mine)?;
                wanted.partition_point(|(id, _)| id.as_str() <= behind)
            }
            (Some(cursor), Order::NewestFirst) => cursor.parse().map_err(|_| not_mine())?,
        };
        let page = wanted.iter().skip(start).take(query.limit);
        let entries: Vec<_> = page.map(|(id, state)| ((*id).clone(), found(state))).collect();
        let end = start + entries.len();
        let cursor = match (entries.last(), query.order) {
            (Some((id, _)), Order::Id) => format!("behind {id}"),
            (_, Order::NewestFirst) | (None, _) => end.to_string(),
        };
        Ok(Page { entries, cursor: (end < wanted.len()).then_some(cursor) })
    }

    fn counts(&self, _: &Call) -> Result<Counts> {
        self.enter("counts")?;
        let mut by_status = BTreeMap::new();
        for state in lock(&self.states).values() {
            let status = Record::status_of(state).map_or("unknown", |status| status.as_str());
            *by_status.entry(status.to_owned()).or_default() += 1;
        }
        Ok(Counts { by_status, age_seconds: 0 })
    }

    fn delete(&self, _: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.enter("delete")?;
        let mut states = lock(&self.states);
        let delete = |item: &Delete<'_>| match self.failure(item.id) {
            Some(error) => Deleted::Failed(error),
            None => states.remove(item.id).map_or(Deleted::Absent, |_| Deleted::Deleted),
        };
        Ok(items.iter().map(delete).collect())
    }

    fn health(&self) -> Health {
        match self.enter("health") {
            Ok(()) => Health::healthy().with("evaluations", lock(&self.states).len()),
            Err(error) => Health::unhealthy(error.message),
        }
    }

    fn begin(&self, _: &Call) -> Result<()> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.enter("begin")
    }

    fn flush(&self, _: &Call) -> Result<()> {
        self.note("flush");
        self.enter("flush")
    }

    fn close(&self, _: &Call) -> Result<()> {
        self.note("close");
        self.enter("close")
    }
}

impl Drop for TestBackend {
    fn drop(&mut self) {
        self.note("drop");
        if let Err(error) = self.enter("drop") {
            panic!("{error}");
        }
    }
}

fn found(state: &State) -> Found {
    Found { state: state.clone(), incomplete: false }
}

/// What was counted of the backend `root`: metric, outcome or kind, and number; nothing that is zero.
pub(crate) fn counted(metrics: &Metrics) -> Vec<String> {
    let count = |line: &str| {
        let (name, rest) = line.strip_prefix("storage_worker_")?.split_once("_total{backend=\"root\",")?;
        let (label, number) = rest.split_once("\"} ")?;
        let (_, label) = label.split_once("=\"")?;
        (number != "0").then(|| format!("{name} {label} {number}"))
    };
    let mut counted: Vec<_> = metrics.encode().lines().filter_map(count).collect();
    counted.sort();
    counted
}

/// Short times, so that a test of a deadline takes no time.
pub(crate) fn quick() -> Config {
    Config {
        backend: "root".to_owned(),
        open_timeout: Duration::from_millis(500),
        open_retry_max: Duration::from_millis(5),
        call_timeout: Duration::from_secs(5),
        close_timeout: Duration::from_secs(2),
        breaker: BreakerConfig { failures: 3, open_for: Duration::from_millis(250), ..BreakerConfig::default() },
        ..Config::default()
    }
}

pub(crate) fn guarded(backend: &Arc<TestBackend>, config: &Config, metrics: &Metrics) -> Guard {
    let capabilities = Capabilities { parallel_calls: 2, ..Capabilities::default() };
    let backend = Arc::clone(backend) as Arc<dyn Backend>;
    Guard::new(&Arc::from("root"), backend, capabilities, config, metrics)
}

/// Waits for a state that another thread brings about.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < limit, "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Plugins by name; what they are is said by the options of each backend.
#[derive(Default)]
pub(crate) struct TestPlugins {
    pub(crate) events: Events,
    pub(crate) opened: Arc<Mutex<BTreeMap<String, Arc<TestBackend>>>>,
}

impl PluginSource for TestPlugins {
    fn load(&self, plugin: &str, _: Option<&str>) -> Result<Arc<dyn Plugin>, Box<dyn std::error::Error + Send + Sync>> {
        if !["store", "memory", "layer", "blobs_layer"].contains(&plugin) {
            return Err(format!("there is no plugin `{plugin}`; found `layer` and `store` in `plugins`").into());
        }
        let (events, opened) = (Arc::clone(&self.events), Arc::clone(&self.opened));
        Ok(Arc::new(TestPlugin { name: plugin.to_owned(), events, opened, attempts: AtomicU64::new(0) }))
    }
}

struct TestPlugin {
    name: String,
    events: Events,
    opened: Arc<Mutex<BTreeMap<String, Arc<TestBackend>>>>,
    attempts: AtomicU64,
}

impl Plugin for TestPlugin {
    fn about(&self) -> About {
        About { name: self.name.clone(), version: "1.2.3".to_owned(), file: None, sha256: None }
    }

    /// A store is what its options say; a layer is as good as its children.
    fn check(&self, _: &str, options: &Value, children: &[ChildDescription]) -> Result<Description> {
        let is = |key: &str| options[key] == Value::Bool(true);
        if is("panic_in_check") {
            panic!("no idea");
        }
        let role = |name: &str| Role { name: name.to_owned(), ..Role::default() };
        let roles = match &*self.name {
            "layer" => vec![
                Role { required: true, ..role("primary") },
                Role { evicting: true, ..role("cache") },
                Role { durable: true, only_copy: true, ..role("fallback") },
                Role { many: true, ..role("shadow") },
                Role { blobs: true, ..role("blobs") },
            ],
            "blobs_layer" => vec![Role { required: true, ..role("primary") }, Role { blobs: true, ..role("blobs") }],
            _ => Vec::new(),
        };
        let lasting = children.iter().filter(|child| !child.capabilities.evicting);
        let capabilities = Capabilities {
            durable: if roles.is_empty() {
                is("durable")
            } else {
                lasting.clone().all(|child| child.capabilities.durable)
            },
            evicting: is("evicting"),
            exclusive: is("exclusive"),
            list_by_id: true,
            list_by_created: true,
            counts: !is("countless"),
            blobs: is("blobs"),
            states: !is("blobs_alone"),
            parallel_calls: 4,
            ..Capabilities::default()
        };
        let problems = options["problem"].as_str().map(str::to_owned).into_iter().collect();
        let notes = options["note"].as_str().map(str::to_owned).into_iter().collect();
        Ok(Description { capabilities, roles, problems, notes })
    }

    fn open(
        &self,
        name: &str,
        options: &Value,
        children: Vec<Child>,
        _: Durability,
        _: Duration,
        _: bool,
    ) -> Result<Arc<dyn Backend>> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        match options["open"].as_str() {
            Some("configuration") => return Err(Error::configuration("the path is a file")),
            Some("panic") => panic!("out of luck"),
            Some("hang") => std::thread::sleep(Duration::from_secs(3)),
            Some("away") if attempt < 3 => return Err(Error::unavailable("connection refused")),
            Some(_) | None => {}
        }
        let below: Vec<_> = children.iter().map(|child| format!("{}={}", child.role, child.name)).collect();
        lock(&self.events).push(format!("open {name}({})", below.join(",")));
        let backend = Arc::new(TestBackend::named(name, &self.events));
        lock(&self.opened).insert(name.to_owned(), Arc::clone(&backend));
        Ok(backend)
    }
}

/// A backend of a test's configuration: name, plugin, children by role, options.
pub(crate) type Configured<'a> = (&'a str, &'a str, &'a [(&'a str, &'a [&'a str])], Value);

/// The configuration of test backends.
pub(crate) fn backends(of: &[Configured<'_>]) -> Backends {
    let backend = |(name, plugin, children, options): &Configured<'_>| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let children = children.iter().map(|(role, names)| ((*role).to_owned(), owned(names))).collect();
        let config = BackendConfig { children: Children(children), ..BackendConfig::new(*plugin, options.clone()) };
        ((*name).to_owned(), config)
    };
    of.iter().map(backend).collect()
}
