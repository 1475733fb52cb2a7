//! The backend: opens a bucket, and bounds each call by its time.

use std::sync::Arc;
use std::time::Duration;

use storage_plugin_api::{
    Answer, AsyncBackend, BlobPage, Call, ChildDescription, Delete, Deleted, Description, Error, Fields, Found, Health,
    Item, Opening, Page, Query, Result,
};
use tokio::task::JoinHandle;
use tracing::info;

use crate::bucket::Bucket;
use crate::options::Options;
use crate::place::Place;
use crate::store;
use crate::watch::{Tried, Watch, watch};

/// What is left of a call's time when we give up, so that the answer still arrives.
const MARGIN: Duration = Duration::from_millis(50);

/// Blobs in a bucket or a directory.
#[derive(Debug)]
pub struct ObjectStore {
    bucket: Arc<Bucket>,
    watch: Arc<Watch>,
    watching: JoinHandle<()>,
}

impl AsyncBackend for ObjectStore {
    type Options = Options;

    fn check(options: &Options, _children: &[ChildDescription]) -> Description {
        options.describe()
    }

    async fn open(options: Options, opening: Opening) -> Result<Self> {
        if let Some(problem) = options.describe().problems.into_iter().next() {
            return Err(Error::configuration(problem));
        }
        let place = Place::parse(&options.url).map_err(Error::configuration)?;
        let store = store::open(&options, &place, opening.read_only)?;
        let bucket = Arc::new(Bucket::new(store, place));
        let call = Call { deadline: opening.deadline, attempt: 0 };
        within(&call, &bucket, bucket.look()).await?;
        info!(place = bucket.place().to_string(), "opened");

        let watched = Arc::new(Watch::new());
        let watching = tokio::spawn(watch(Arc::clone(&watched), Arc::clone(&bucket)));
        Ok(Self { bucket, watch: watched, watching })
    }

    fn runtime_threads() -> usize {
        2
    }

    async fn merge(&self, _call: &Call, _batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        Err(Error::not_offered("merge"))
    }

    async fn get(&self, _call: &Call, _ids: &[&str], _fields: Fields) -> Result<Vec<Option<Found>>> {
        Err(Error::not_offered("get"))
    }

    async fn list(&self, _call: &Call, _query: &Query) -> Result<Page> {
        Err(Error::not_offered("list"))
    }

    async fn delete(&self, _call: &Call, _items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        Err(Error::not_offered("delete"))
    }

    fn health(&self) -> Health {
        self.watch.health()
    }

    async fn flush(&self, _call: &Call) -> Result<()> {
        // What was answered was stored.
        Ok(())
    }

    async fn close(&self, _call: &Call) -> Result<()> {
        self.watching.abort();
        Ok(())
    }

    async fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.call(call, Tried::Writing, self.bucket.put(key, bytes)).await
    }

    async fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.call(call, Tried::Reading, self.bucket.get(key)).await
    }

    async fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.call(call, Tried::Reading, self.bucket.scan(after, limit)).await
    }

    async fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.call(call, Tried::Writing, self.bucket.delete(key, untouched_since)).await
    }
}

impl ObjectStore {
    async fn call<T>(&self, call: &Call, tried: Tried, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let result = within(call, &self.bucket, answer).await;
        self.watch.learn(tried, &result);
        result
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn within<T>(call: &Call, bucket: &Bucket, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let left = call.remaining();
    let budget = left.saturating_sub(MARGIN.min(left / 4));
    let timed_out =
        |_| Err(Error::unavailable(format_args!("{} did not answer within {} ms", bucket.place(), budget.as_millis())));
    tokio::time::timeout(budget, answer).await.unwrap_or_else(timed_out)
}
