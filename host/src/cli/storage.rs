//! How the commands reach storage: through the worker that runs, or by opening backends themselves if none does.
//!
//! Either way a command is given a [`Backend`], and is written once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use storage_plugin_api::{Backend, Call, Capabilities};

use super::UsageError;
use crate::app;
use crate::config::Loaded;
use crate::http::BackendEntry;
use crate::http::client::{Client, ClientError};
use crate::http::remote::RemoteBackend;
use crate::storage::{Current, OpenError, Tree};
use crate::suggest::{list, suggest};
use crate::telemetry::metrics::Metrics;

/// What an attempt to open may take beyond its time until its reason is known.
const GRACE: Duration = Duration::from_secs(2);

/// What a command does with backends that it opens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing is made that was not there.
    Read,
    /// They are opened as a worker opens them.
    Write,
}

/// The backends of a command.
pub(crate) struct Storage {
    backends: Vec<Reached>,
    call_timeout: Duration,
    #[expect(dead_code, reason = "its end closes what was opened")]
    opened: Option<Opened>,
}

/// A backend, wherever it is open.
#[derive(Clone)]
pub(crate) struct Reached {
    pub(crate) name: String,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) capabilities: Capabilities,
}

/// Backends that this process has opened. They are closed when this is dropped.
struct Opened {
    tree: Tree,
    close_timeout: Duration,
}

impl Storage {
    /// The root of the tree: that of the worker, or that of the configuration.
    pub(crate) fn root(loaded: &Loaded, access: Access) -> anyhow::Result<Self> {
        let (client, entries) = of_worker(loaded)?;
        match entries.into_iter().find(|entry| entry.root) {
            Some(entry) => Ok(Self::with(loaded, vec![remote(&client, entry)], None)),
            None => Self::opened(loaded, &[&loaded.config.storage.backend], access).with_context(|| no_worker(loaded)),
        }
    }

    /// Backends by name, in the order of the names. One that the worker does not have is opened here.
    pub(crate) fn named(loaded: &Loaded, names: &[&str], access: Access) -> anyhow::Result<Self> {
        let (client, entries) = of_worker(loaded)?;
        let is_remote = |name: &str| entries.iter().any(|entry| entry.name == name);
        let missing: Vec<&str> = names.iter().copied().filter(|name| !is_remote(name)).collect();
        if missing.is_empty() {
            let entry = |name: &&str| entries.iter().find(|entry| entry.name == **name).cloned();
            let backends = names.iter().filter_map(entry).map(|entry| remote(&client, entry)).collect();
            return Ok(Self::with(loaded, backends, None));
        }
        let here = Self::opened(loaded, &missing, access).with_context(|| match entries.as_slice() {
            [] => no_worker(loaded),
            entries => {
                let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
                format!("the running worker has {} and not {}, which is opened here", list(&names), list(&missing))
            }
        })?;
        let reach = |name: &&str| match entries.iter().find(|entry| entry.name == **name) {
            Some(entry) => Some(remote(&client, entry.clone())),
            None => here.backends.iter().find(|reached| reached.name == **name).cloned(),
        };
        let backends = names.iter().filter_map(reach).collect();
        Ok(Self { backends, ..here })
    }

    /// Backends that the worker has, in the order of the names. None is opened here.
    pub(crate) fn of_worker(loaded: &Loaded, names: &[&str]) -> anyhow::Result<Self> {
        let (client, entries) = of_worker(loaded)?;
        if entries.is_empty() {
            return Err(ClientError::NothingListens(loaded.config.admin.listen).into());
        }
        let found = |name: &&str| {
            let entry = entries.iter().find(|entry| entry.name == **name).cloned();
            entry.map(|entry| remote(&client, entry)).ok_or_else(|| {
                let known = suggest(name, entries.iter().map(|entry| entry.name.as_str()), "it has");
                UsageError(format!("the running worker has no backend `{name}` in its tree; {known}"))
            })
        };
        let backends = names.iter().map(found).collect::<Result<_, _>>()?;
        Ok(Self::with(loaded, backends, None))
    }

    fn with(loaded: &Loaded, backends: Vec<Reached>, opened: Option<Opened>) -> Self {
        Self { backends, call_timeout: loaded.config.storage.call_timeout, opened }
    }

    fn opened(loaded: &Loaded, names: &[&str], access: Access) -> anyhow::Result<Self> {
        let opened = Opened::of(loaded, names, access)?;
        let reached = |name: &&str| {
            let guard = opened.tree.guard(name)?;
            let (name, capabilities) = ((*name).to_owned(), guard.capabilities().clone());
            Some(Reached { name, backend: Arc::clone(guard) as Arc<dyn Backend>, capabilities })
        };
        let backends = names.iter().filter_map(reached).collect();
        Ok(Self::with(loaded, backends, Some(opened)))
    }

    /// The backends in the order in which they were asked for.
    pub(crate) fn backends(&self) -> &[Reached] {
        &self.backends
    }

    /// The first of them.
    pub(crate) fn first(&self) -> &Reached {
        self.backends.first().expect("there is one for each name that was asked for")
    }

    /// The last of them.
    pub(crate) fn last(&self) -> &Reached {
        self.backends.last().expect("there is one for each name that was asked for")
    }

    /// What the configuration lets a call take.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// A call of that time.
    pub(crate) fn call(&self) -> Call {
        Call::with_budget(self.call_timeout)
    }
}

/// What the worker has open; nothing if none runs.
fn of_worker(loaded: &Loaded) -> anyhow::Result<(Client, Vec<BackendEntry>)> {
    let client = Client::new(loaded.config.admin.listen);
    match RemoteBackend::all(&client) {
        Ok(entries) => Ok((client, entries)),
        Err(ClientError::NothingListens(_)) => Ok((client, Vec::new())),
        Err(error) => Err(error.into()),
    }
}

fn no_worker(loaded: &Loaded) -> String {
    format!("no worker listens on `{}`, so storage is opened here", loaded.config.admin.listen)
}

fn remote(client: &Client, entry: BackendEntry) -> Reached {
    let (name, capabilities) = (entry.name.clone(), entry.capabilities.clone());
    Reached { name, backend: Arc::new(RemoteBackend::new(client.clone(), entry)), capabilities }
}

impl Opened {
    fn of(loaded: &Loaded, names: &[&str], access: Access) -> anyhow::Result<Self> {
        let metrics = Metrics::new();
        let plan = app::plan_some(loaded, &metrics, names)?;
        let plan = if access == Access::Read { plan.to_read() } else { plan };
        let config = &loaded.config.storage;
        let current = Current::opening();
        // A worker waits for its storage however long; a command gives up once every backend had its time.
        let limit = Instant::now() + config.open_timeout + GRACE;
        let opened = plan.open(&metrics, Some(&current), &|| Instant::now() >= limit);
        let tree = match (opened, current.tree()) {
            (Err(OpenError::Stopped), Err(waited_for)) => return Err(anyhow!(waited_for)),
            (opened, _) => opened?,
        };
        Ok(Self { tree, close_timeout: config.close_timeout })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        for failure in self.tree.close(self.close_timeout) {
            tracing::warn!(backend = %failure.instance, reason = failure.reason, "storage.close_failed");
        }
    }
}
