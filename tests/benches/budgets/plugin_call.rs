//! What the plugin boundary costs: batches of lifecycle events through the real library of the plugin `memory`, against
//! the same calls of the same code linked into this program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use storage_backend_memory::{Memory, Options as MemoryOptions};
use storage_plugin_api::{Backend, Call, Durability, State, with_items};
use storage_worker::event::decode::{Arrival, Limits, decode};
use storage_worker::event::row::EventRows;
use storage_worker::plugin::Loader;
use storage_worker::plugin::host_api::PluginMetrics;
use storage_worker_tests::process::plugin_path;

use crate::options::Options;
use crate::report::{self, Samples};
use crate::traffic::{Kind, Traffic};

/// Events of a batch.
const BATCH: usize = 256;

/// Batches of a run.
const BATCHES: u64 = 150;

/// Measures, and prints what it finds.
pub(crate) fn measure(options: &Options) {
    report::row("plugin-call", format_args!("merge of {BATCH} lifecycle events, nanoseconds per event"));
    let batches = batches();
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let loader = Loader::new(&[], Some(cache.path()), Arc::new(NoMetrics));
    let path = plugin_path("memory");
    let library = loader.load(path.to_str().expect("the path is Unicode"), None).expect("load the plugin `memory`");
    let (mut plugin_ns, mut static_ns, mut items_ns, mut difference_ns) = (vec![], vec![], vec![], vec![]);
    for _ in 0..options.runs.max(5) {
        let size = json!({"max_bytes": "1GiB"});
        let of_plugin = library
            .open("main", &size, Vec::new(), Durability::Volatile, Duration::from_secs(5), false)
            .expect("open the plugin `memory`");
        let linked: Arc<dyn Backend> =
            Arc::new(Memory::new(MemoryOptions { max_bytes: 1 << 30, ..MemoryOptions::default() }));
        let [plugin, linked, items] = run(&batches, &*of_plugin, &*linked);
        plugin_ns.push(plugin);
        static_ns.push(linked);
        items_ns.push(items);
        difference_ns.push(plugin - linked);
    }
    let difference = Samples::new(difference_ns);
    report::figure("through the plugin boundary", Samples::new(plugin_ns).show(0));
    report::figure("linked statically", Samples::new(static_ns).show(0));
    report::figure("of both: making the items of the call", Samples::new(items_ns).show(0));
    report::figure("difference", difference.show(0));
    report::at_most("difference", difference.median(), "ns", 100.0);
}

/// Nanoseconds per event: through the boundary, static, and for the items that both are given.
///
/// The two take turns with each batch, and in who comes first.
fn run(batches: &[Vec<(String, State)>], plugin: &dyn Backend, linked: &dyn Backend) -> [f64; 3] {
    let mut times = [Duration::ZERO; 3];
    for (number, batch) in batches.iter().enumerate() {
        let states: Vec<(&str, &State)> = batch.iter().map(|(id, state)| (&**id, state)).collect();
        let mut turns = [(0, plugin), (1, linked)];
        turns.rotate_left(number % 2);
        for (place, backend) in turns {
            let call = Call::with_budget(Duration::from_secs(30));
            let start = Instant::now();
            let answers = with_items(&states, |items| backend.merge(&call, items)).expect("memory takes the batch");
            times[place] += start.elapsed();
            assert_eq!(answers.len(), batch.len());
        }
        let start = Instant::now();
        with_items(&states, |items| std::hint::black_box(items).len());
        times[2] += start.elapsed();
    }
    times.map(|time| time.as_secs_f64() * 1e9 / (batches.len() * BATCH) as f64)
}

/// Batches as the worker makes them from lifecycle events.
fn batches() -> Vec<Vec<(String, State)>> {
    let traffic = Traffic { kind: Kind::Lifecycles, first: 0 };
    let rows = EventRows::default();
    let mut payload = String::new();
    let mut read = |number| {
        let channel = traffic.write_payload(number, &mut payload);
        let row = rows.get(channel).expect("the rows of the traffic are built in");
        let arrival = Arrival { received_at: 0, entry_time: None, event_id: None };
        let event = decode(channel, row, payload.as_bytes(), arrival, &Limits::default());
        let event = event.expect("the events of the traffic are valid");
        (event.evaluation_id.to_string(), event.state)
    };
    (0..BATCHES).map(|batch| (0..BATCH as u64).map(|place| read(batch * BATCH as u64 + place)).collect()).collect()
}

#[derive(Debug)]
pub(crate) struct NoMetrics;

impl PluginMetrics for NoMetrics {
    fn count(&self, _instance: &str, _name: &str, _by: f64) {}
    fn gauge(&self, _instance: &str, _name: &str, _value: f64) {}
}
