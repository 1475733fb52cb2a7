//! How the commands reach storage: through the worker that runs, or by opening it themselves if none does.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde::Serialize;
use serde_json::Value;
use storage_plugin_api::{Call, HistoryEntry};

use crate::app;
use crate::config::Loaded;
use crate::http::client::{Client, ClientError, escape};
use crate::storage::read::{self, PageRequest};
use crate::storage::{Current, OpenError, Tree};
use crate::telemetry::metrics::Metrics;

/// What an attempt to open may take beyond its time until its reason is known.
const GRACE: Duration = Duration::from_secs(2);

/// Reads what is stored.
pub(crate) enum Reader {
    /// A worker runs and is asked.
    Worker(Client),
    /// None does: this process has opened the tree.
    Direct(Direct),
}

/// A tree that this process has opened, to read.
pub(crate) struct Direct {
    tree: Tree,
    close_timeout: Duration,
    call_timeout: Duration,
}

/// A page of records as JSON.
pub(crate) struct Page {
    pub(crate) evaluations: Vec<Value>,
    pub(crate) next_cursor: Option<String>,
}

impl Reader {
    /// Finds the worker of a configuration, or opens its storage.
    pub(crate) fn of(loaded: &Loaded) -> anyhow::Result<Self> {
        let client = Client::new(loaded.config.admin.listen);
        match client.get("/livez") {
            Ok(_) => Ok(Self::Worker(client)),
            Err(ClientError::NothingListens(_)) => Direct::open(loaded).map(Self::Direct),
            Err(error) => Err(error.into()),
        }
    }

    /// The record of an evaluation and its history; none if nothing is stored under the id.
    pub(crate) fn evaluation(&self, id: &str) -> anyhow::Result<Option<(Value, Value)>> {
        match self {
            Self::Worker(client) => {
                let path = format!("/evaluations/{}", escape(id));
                let Some(record) = client.get(&path)? else { return Ok(None) };
                let events = client.get(&format!("{path}/events"))?;
                Ok(Some((record, events.unwrap_or_default())))
            }
            Self::Direct(direct) => {
                let Some(evaluation) = read::evaluation(&**direct.tree.root(), &direct.call(), id)? else {
                    return Ok(None);
                };
                let history: &Vec<HistoryEntry> = &evaluation.record.history;
                Ok(Some((json(&evaluation)?, json(history)?)))
            }
        }
    }

    /// A page of records, as `GET /evaluations` answers.
    pub(crate) fn page(&self, request: PageRequest) -> anyhow::Result<Page> {
        let page = match self {
            Self::Worker(client) => client.get(&page_path(&request))?.context("the worker answers no lists")?,
            Self::Direct(direct) => {
                let tree = &direct.tree;
                json(&read::page(&**tree.root(), tree.capabilities(), &direct.call(), request)?)?
            }
        };
        let Value::Object(mut page) = page else { anyhow::bail!("a page of evaluations is no JSON object") };
        let Some(Value::Array(evaluations)) = page.remove("evaluations") else {
            anyhow::bail!("a page of evaluations has none")
        };
        let next_cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        Ok(Page { evaluations, next_cursor })
    }
}

impl Direct {
    fn open(loaded: &Loaded) -> anyhow::Result<Self> {
        let metrics = Metrics::new();
        let plan = app::plan(loaded, &metrics)?.to_read();
        let config = &loaded.config.storage;
        let current = Current::opening();
        // A worker waits for its storage however long; a command gives up once every backend had its time.
        let limit = Instant::now() + config.open_timeout + GRACE;
        let opened = plan.open(&metrics, Some(&current), &|| Instant::now() >= limit);
        let context = || format!("no worker listens on `{}`, so storage is opened here", loaded.config.admin.listen);
        let tree = match (opened, current.tree()) {
            (Err(OpenError::Stopped), Err(waited_for)) => return Err(anyhow!(waited_for).context(context())),
            (opened, _) => opened.with_context(context)?,
        };
        Ok(Self { tree, close_timeout: config.close_timeout, call_timeout: config.call_timeout })
    }

    fn call(&self) -> Call {
        Call::with_budget(self.call_timeout)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        for failure in self.tree.close(self.close_timeout) {
            tracing::warn!(backend = %failure.instance, reason = failure.reason, "storage.close_failed");
        }
    }
}

fn page_path(request: &PageRequest) -> String {
    let mut path = format!("/evaluations?limit={}", request.limit);
    let mut add = |name: &str, value: &str| path.push_str(&format!("&{name}={}", escape(value)));
    if let Some(status) = request.status {
        add("status", status.as_str());
    }
    if let Some(language) = &request.language {
        add("language", language);
    }
    if let Some(since) = request.since {
        add("since", &storage_plugin_api::format_time(since));
    }
    if let Some(cursor) = &request.cursor {
        add("cursor", cursor);
    }
    path
}

/// The value as a worker's answer would be read: numbers keep their digits.
fn json(value: &impl Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&serde_json::to_vec(value)?)?)
}
