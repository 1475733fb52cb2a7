//! A layer over one backend that is unavailable while a file is there, so that a test can take a backend away and give
//! it back. With `slow_ms` every merge takes so long, with `open_slow_ms` opening it does, so that a test finds it at work;
//! with `merge_waits_while` and `open_waits_while` as long as the test wants.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use storage_plugin_api::{
    Answer, Backend, BlobPage, Call, Child, ChildDescription, Counts, Delete, Deleted, Description, Error, Fields,
    Found, Health, Item, OpenBackend, Opening, Page, Prune, Pruned, Query, Result, Role,
};

storage_plugin_api::export_backend!("switch", Switch);

/// The options.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The backend is away while this file is there.
    away_while: PathBuf,
    /// How long each merge takes.
    #[serde(default)]
    slow_ms: u64,
    /// How long it takes to open it.
    #[serde(default)]
    open_slow_ms: u64,
    /// Opening it waits while this file is there.
    open_waits_while: Option<PathBuf>,
    /// Each merge waits while this file is there.
    merge_waits_while: Option<PathBuf>,
}

/// The layer.
#[derive(Debug)]
pub struct Switch {
    options: Options,
    inner: Child,
}

/// Waits while a file is there, whatever the deadline is, but not for ever.
fn wait_while(file: Option<&PathBuf>, call: &str) {
    let Some(file) = file.filter(|file| file.exists()) else { return };
    tracing::info!(call, "switch waits");
    let end = Instant::now() + Duration::from_secs(120);
    while file.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Switch {
    fn inner(&self) -> Result<&dyn Backend> {
        match self.options.away_while.exists() {
            true => Err(Error::unavailable(format_args!("`{}` is there", self.options.away_while.display()))),
            false => Ok(&*self.inner.backend),
        }
    }
}

impl OpenBackend for Switch {
    type Options = Options;

    fn check(_: &Options, children: &[ChildDescription]) -> Description {
        let role = Role { name: "inner".to_owned(), required: true, ..Role::default() };
        let capabilities = children.first().map(|child| child.capabilities.clone()).unwrap_or_default();
        Description { capabilities, roles: vec![role], ..Description::default() }
    }

    fn open(options: Options, mut opening: Opening) -> Result<Self> {
        std::thread::sleep(Duration::from_millis(options.open_slow_ms));
        wait_while(options.open_waits_while.as_ref(), "open");
        let inner = opening.children.pop().ok_or_else(|| Error::configuration("there is no child as `inner`"))?;
        Ok(Self { options, inner })
    }
}

impl Backend for Switch {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let inner = self.inner()?;
        std::thread::sleep(Duration::from_millis(self.options.slow_ms));
        wait_while(self.options.merge_waits_while.as_ref(), "merge");
        inner.merge(call, batch)
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.inner()?.get(call, ids, fields)
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.inner()?.list(call, query)
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.inner()?.counts(call)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.inner()?.delete(call, items)
    }

    fn health(&self) -> Health {
        match self.inner() {
            Ok(_) => Health::healthy(),
            Err(error) => Health::unhealthy(error.message),
        }
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.inner()?.flush(call)
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.inner()?.prune(call, prune)
    }

    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.inner()?.put_blob(call, key, bytes)
    }

    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.inner()?.get_blob(call, key)
    }

    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.inner()?.scan_blobs(call, after, limit)
    }

    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.inner()?.delete_blob(call, key, untouched_since)
    }
}
