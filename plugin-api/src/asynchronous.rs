//! For authors of asynchronous backends: the same interface with `async fn`, on a private runtime of the plugin.
//!
//! A plugin's tokio is not the host's: nothing of it crosses the boundary. [`Async`] blocks the calling lane thread
//! until the future is done or the call's time is up, so the future may borrow the batch.

use std::future::Future;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::backend::{Answer, Backend, Call, Delete, Deleted, Found, Item, OpenBackend, Opening};
use crate::capabilities::{ChildDescription, Description};
use crate::error::{Error, Result};
use crate::query::{BlobPage, Counts, Fields, Health, Page, Prune, Pruned, Query};

/// How long a runtime may take to end the tasks that were left in it.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(5);

/// [`Backend`] with `async fn`; each method behaves as the one of that name. Export it as `Async<T>`.
///
/// # Example
/// ```
/// use storage_plugin_api::{
///     Answer, Async, AsyncBackend, Call, ChildDescription, Delete, Deleted, Description, Error, Fields, Found, Health,
///     Item, Opening, Page, Query, Result,
/// };
///
/// struct Remote {/* A pool of connections. */}
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Options {
///     address: String,
/// }
///
/// storage_plugin_api::export_backend!("remote", Async<Remote>);
///
/// impl AsyncBackend for Remote {
///     type Options = Options;
///
///     fn check(_: &Options, _: &[ChildDescription]) -> Description {
///         Description::default()
///     }
///
///     async fn open(options: Options, _: Opening) -> Result<Self> {
///         let connected = tokio::net::TcpStream::connect(&options.address).await;
///         connected.map(|_| Self {}).map_err(|error| Error::unavailable(format_args!("cannot connect: {error}")))
///     }
///
///     async fn merge(&self, _: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
///         // The batch is borrowed, also over an `await`; the call's deadline ends the wait.
///         Err(Error::unavailable(format_args!("{} items were not sent", batch.len())))
///     }
/// #   async fn get(&self, _: &Call, _: &[&str], _: Fields) -> Result<Vec<Option<Found>>> { Ok(Vec::new()) }
/// #   async fn list(&self, _: &Call, _: &Query) -> Result<Page> { Ok(Page::default()) }
/// #   async fn delete(&self, _: &Call, _: &[Delete<'_>]) -> Result<Vec<Deleted>> { Ok(Vec::new()) }
/// #   fn health(&self) -> Health { Health::healthy() }
/// #   async fn flush(&self, _: &Call) -> Result<()> { Ok(()) }
/// #   async fn close(&self, _: &Call) -> Result<()> { Ok(()) }
///     // And `get`, `list`, `delete`, `health`, `flush`, `close`.
/// }
/// # fn main() {}
/// ```
pub trait AsyncBackend: Send + Sync + Sized + 'static {
    /// See [`OpenBackend::Options`].
    type Options: DeserializeOwned;

    /// See [`OpenBackend::check`].
    fn check(options: &Self::Options, children: &[ChildDescription]) -> Description;

    /// See [`OpenBackend::open`].
    fn open(options: Self::Options, opening: Opening) -> impl Future<Output = Result<Self>>;

    /// How many threads the runtime has.
    #[must_use]
    fn runtime_threads() -> usize {
        1
    }

    /// See [`Backend::merge`].
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> impl Future<Output = Result<Vec<Answer>>>;

    /// See [`Backend::get`].
    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> impl Future<Output = Result<Vec<Option<Found>>>>;

    /// See [`Backend::list`].
    fn list(&self, call: &Call, query: &Query) -> impl Future<Output = Result<Page>>;

    /// See [`Backend::counts`].
    fn counts(&self, call: &Call) -> impl Future<Output = Result<Counts>> {
        let _ = call;
        async { Err(Error::not_offered("counts")) }
    }

    /// See [`Backend::delete`].
    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> impl Future<Output = Result<Vec<Deleted>>>;

    /// See [`Backend::health`]. Not asynchronous: it never waits.
    fn health(&self) -> Health;

    /// See [`Backend::begin`].
    fn begin(&self, call: &Call) -> impl Future<Output = Result<()>> {
        let _ = call;
        async { Ok(()) }
    }

    /// See [`Backend::flush`].
    fn flush(&self, call: &Call) -> impl Future<Output = Result<()>>;

    /// See [`Backend::close`].
    fn close(&self, call: &Call) -> impl Future<Output = Result<()>>;

    /// See [`Backend::prune`].
    fn prune(&self, call: &Call, prune: &Prune) -> impl Future<Output = Result<Pruned>> {
        let _ = (call, prune);
        async { Err(Error::not_offered("prune")) }
    }

    /// See [`Backend::put_blob`].
    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> impl Future<Output = Result<()>> {
        let _ = (call, key, bytes);
        async { Err(Error::not_offered("put_blob")) }
    }

    /// See [`Backend::get_blob`].
    fn get_blob(&self, call: &Call, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>>> {
        let _ = (call, key);
        async { Err(Error::not_offered("get_blob")) }
    }

    /// See [`Backend::scan_blobs`].
    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> impl Future<Output = Result<BlobPage>> {
        let _ = (call, after, limit);
        async { Err(Error::not_offered("scan_blobs")) }
    }

    /// See [`Backend::delete_blob`].
    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> impl Future<Output = Result<bool>> {
        let _ = (call, key, untouched_since);
        async { Err(Error::not_offered("delete_blob")) }
    }
}

/// An [`AsyncBackend`] with the runtime it lives in.
#[derive(Debug)]
pub struct Async<T> {
    // Dropped before the runtime, so that it can still end what it started.
    inner: Option<T>,
    runtime: Option<Runtime>,
}

impl<T: AsyncBackend> Async<T> {
    fn block<R>(&self, call: &Call, future: impl Future<Output = Result<R>>) -> Result<R> {
        block_until(self.runtime(), call.remaining(), future)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is only taken when this is dropped")
    }

    fn inner(&self) -> &T {
        self.inner.as_ref().expect("the backend is only taken when this is dropped")
    }
}

fn block_until<R>(runtime: &Runtime, budget: Duration, future: impl Future<Output = Result<R>>) -> Result<R> {
    let timed_out = |_| Err(Error::unavailable(format_args!("no answer within {} ms", budget.as_millis())));
    runtime.block_on(async { tokio::time::timeout(budget, future).await.unwrap_or_else(timed_out) })
}

impl<T: AsyncBackend> OpenBackend for Async<T> {
    type Options = T::Options;

    fn check(options: &Self::Options, children: &[ChildDescription]) -> Description {
        T::check(options, children)
    }

    fn open(options: Self::Options, opening: Opening) -> Result<Self> {
        let host = opening.host.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(T::runtime_threads())
            .thread_name(&opening.instance)
            .on_thread_start(move || host.speak_on_this_thread())
            .enable_all()
            .build()
            .map_err(|error| Error::unavailable(format_args!("cannot start a runtime: {error}")))?;
        let budget = opening.deadline.saturating_duration_since(std::time::Instant::now());
        let inner = block_until(&runtime, budget, T::open(options, opening))?;
        Ok(Self { inner: Some(inner), runtime: Some(runtime) })
    }
}

impl<T: AsyncBackend> Backend for Async<T> {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.block(call, self.inner().merge(call, batch))
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.block(call, self.inner().get(call, ids, fields))
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.block(call, self.inner().list(call, query))
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.block(call, self.inner().counts(call))
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.block(call, self.inner().delete(call, items))
    }

    fn health(&self) -> Health {
        self.inner().health()
    }

    fn begin(&self, call: &Call) -> Result<()> {
        self.block(call, self.inner().begin(call))
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.block(call, self.inner().flush(call))
    }

    fn close(&self, call: &Call) -> Result<()> {
        self.block(call, self.inner().close(call))
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.block(call, self.inner().prune(call, prune))
    }

    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.block(call, self.inner().put_blob(call, key, bytes))
    }

    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.block(call, self.inner().get_blob(call, key))
    }

    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.block(call, self.inner().scan_blobs(call, after, limit))
    }

    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.block(call, self.inner().delete_blob(call, key, untouched_since))
    }
}

impl<T> Drop for Async<T> {
    fn drop(&mut self) {
        let runtime = self.runtime.take();
        {
            // A backend may need its runtime to drop what it holds.
            let _entered = runtime.as_ref().map(Runtime::enter);
            self.inner = None;
        }
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
        }
    }
}
