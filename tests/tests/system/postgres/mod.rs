//! The plugin `postgres` with a real server: states, outages, databases that others made, and plans of its statements.

mod adoption;
mod bodies;
mod durability;
mod indexes;
mod merging;
mod models;
mod opening;
mod outages;
mod plans;
mod pooler;
mod replaying;
mod tls;
mod unreadable;
mod upgrading;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::{Backend, Durability, ErrorKind};
use storage_worker::plugin::Loader;
use storage_worker::plugin::host_api::PluginMetrics;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::process::plugin_path;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::worker::Setup;

/// A worker that stores in a server, most likely one that does not sync.
fn setup(redis: &RedisServer, server: &PostgresServer) -> Setup {
    Setup::new(&redis.url(), "postgres")
        .set("backends.main.options.url", server.url())
        .set("backends.main.options.durability", "durable")
}

/// An instance of the plugin, called without a worker; its server most likely does not sync.
fn open(server: &PostgresServer, cache: &Path, more: &Value) -> Result<Arc<dyn Backend>, storage_plugin_api::Error> {
    let mut options = json!({"url": server.url(), "durability": "durable"});
    if let (Some(options), Some(more)) = (options.as_object_mut(), more.as_object()) {
        options.extend(more.clone());
    }
    let loader = Loader::new(&[], Some(cache), Arc::new(NoMetrics));
    let path = plugin_path("postgres");
    let library = loader.load(path.to_str().expect("the path is Unicode"), None).expect("load the plugin `postgres`");
    library.open("main", &options, Vec::new(), Durability::Durable, Duration::from_secs(20), false)
}

/// The kind of error with which an instance does not open.
fn refusal(server: &PostgresServer, cache: &Path, more: &Value) -> (ErrorKind, String) {
    match open(server, cache, more) {
        Ok(_) => panic!("it opens with {more}"),
        Err(error) => (error.kind, error.message),
    }
}

#[derive(Debug)]
struct NoMetrics;

impl PluginMetrics for NoMetrics {
    fn count(&self, _instance: &str, _name: &str, _by: f64) {}
    fn gauge(&self, _instance: &str, _name: &str, _value: f64) {}
}
