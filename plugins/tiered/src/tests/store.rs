//! A child in memory whose calls a test can watch and fail, and whose blobs it can change.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use storage_plugin_api::{
    Answer, Backend, BlobEntry, BlobPage, Call, Capabilities, Child, ChildDescription, Counts, Delete, Deleted,
    Document, DocumentBackend, DocumentStore, Durability, Error, Fields, Found, Health, Item, Page, Put, PutAnswer,
    Query, Result, Scan, ScanPage,
};

/// Done before each call of this name.
type Before = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// The child.
pub(crate) struct Store {
    durability: Durability,
    documents: Arc<Documents>,
    states: DocumentBackend,
    /// Bytes, and when they were last stored.
    pub(crate) blobs: Mutex<BTreeMap<String, (Vec<u8>, i64)>>,
    before: Mutex<Option<Arc<Before>>>,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_micros()).expect("a clock before the year 290000")
}

impl Store {
    pub(crate) fn new(durability: Durability) -> Arc<Self> {
        let documents = Arc::<Documents>::default();
        let states = DocumentBackend::new(Arc::clone(&documents) as Arc<dyn DocumentStore>, durability);
        Arc::new(Self { durability, documents, states, blobs: Mutex::default(), before: Mutex::default() })
    }

    pub(crate) fn child(self: &Arc<Self>, role: &str) -> Child {
        let store = Capabilities {
            durable: self.durability == Durability::Durable,
            parallel_calls: 4,
            ..Capabilities::default()
        };
        let capabilities = Capabilities { blobs: true, ..DocumentBackend::capabilities(&store) };
        let description = ChildDescription { role: role.to_owned(), name: role.to_owned(), capabilities };
        Child { role: role.to_owned(), name: role.to_owned(), description, backend: Arc::new(Shared(Arc::clone(self))) }
    }

    pub(crate) fn before(&self, before: impl Fn(&str) -> Result<()> + Send + Sync + 'static) {
        *lock(&self.before) = Some(Arc::new(Box::new(before)));
    }

    pub(crate) fn go_away(&self) {
        self.before(|_| Err(Error::unavailable("the cable is cut")));
    }

    pub(crate) fn come_back(&self) {
        *lock(&self.before) = None;
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        lock(&self.blobs).keys().cloned().collect()
    }

    /// The one blob that there is.
    pub(crate) fn only_key(&self) -> String {
        let mut keys = self.keys();
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys.remove(0)
    }

    /// What the child itself has stored of an evaluation.
    pub(crate) fn stored(&self, id: &str) -> storage_plugin_api::State {
        self.states.get(&super::call(), &[id], Fields::Whole).expect("read").remove(0).expect("stored").state
    }

    /// Makes the state of an evaluation unreadable.
    pub(crate) fn damage(&self, id: &str) {
        lock(&self.documents.0).get_mut(id).expect("stored").bytes.truncate(10);
    }

    /// Makes all blobs so much older.
    pub(crate) fn age(&self, by: std::time::Duration) {
        let by = i64::try_from(by.as_micros()).expect("some days");
        lock(&self.blobs).values_mut().for_each(|(_, touched_at)| *touched_at -= by);
    }

    fn enter(&self, call: &str) -> Result<()> {
        let before = lock(&self.before).clone();
        before.map_or(Ok(()), |before| before(call))
    }
}

/// What the layer holds of a store.
struct Shared(Arc<Store>);

impl Backend for Shared {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        self.0.enter("merge")?;
        self.0.states.merge(call, batch)
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        self.0.enter("get")?;
        self.0.states.get(call, ids, fields)
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.0.enter("list")?;
        let page = self.0.states.list(call, query)?;
        // As if something were merged while the page is on its way.
        self.0.enter("listed")?;
        Ok(page)
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.0.states.counts(call)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        self.0.enter("delete")?;
        self.0.states.delete(call, items)
    }

    fn health(&self) -> Health {
        self.0.enter("health").map_or_else(|error| Health::unhealthy(error.message), |()| Health::healthy())
    }

    fn flush(&self, _: &Call) -> Result<()> {
        self.0.enter("flush")
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn put_blob(&self, _: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.0.enter("put_blob")?;
        lock(&self.0.blobs).insert(key.to_owned(), (bytes.to_vec(), now()));
        Ok(())
    }

    fn get_blob(&self, _: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.0.enter("get_blob")?;
        Ok(lock(&self.0.blobs).get(key).map(|(bytes, _)| bytes.clone()))
    }

    fn scan_blobs(&self, _: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.0.enter("scan_blobs")?;
        // Few, so that a test has several pages.
        let limit = limit.min(2);
        let blobs = lock(&self.0.blobs);
        let mut rest = blobs.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let entry = |(key, (bytes, touched_at)): (&String, &(Vec<u8>, i64))| BlobEntry {
            key: key.clone(),
            size: bytes.len() as u64,
            touched_at: *touched_at,
        };
        Ok(BlobPage { blobs: rest.by_ref().take(limit).map(entry).collect(), more: rest.next().is_some() })
    }

    fn delete_blob(&self, _: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.0.enter("delete_blob")?;
        let mut blobs = lock(&self.0.blobs);
        if blobs.get(key).is_some_and(|(_, touched_at)| *touched_at >= untouched_since) {
            return Ok(false);
        }
        blobs.remove(key);
        Ok(true)
    }
}

/// Documents in a map.
#[derive(Default)]
struct Documents(Mutex<BTreeMap<String, Document>>);

impl DocumentStore for Documents {
    fn get(&self, _: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>> {
        let documents = lock(&self.0);
        Ok(ids.iter().map(|id| documents.get(*id).cloned()).collect())
    }

    fn put(&self, _: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>> {
        let mut documents = lock(&self.0);
        let put = |put: &Put<'_>| {
            if documents.get(put.id).map_or(0, |document| document.version) != put.expected {
                return PutAnswer::Conflict;
            }
            let document = Document { version: put.expected + 1, bytes: put.bytes.to_vec() };
            documents.insert(put.id.to_owned(), document);
            PutAnswer::Done
        };
        Ok(puts.iter().map(put).collect())
    }

    fn scan(&self, _: &Call, scan: &Scan) -> Result<ScanPage> {
        let documents = lock(&self.0);
        let mut rest = documents.range::<str, _>((Bound::Excluded(&*scan.after), Bound::Unbounded));
        let page = rest.by_ref().take(scan.limit).map(|(id, document)| (id.clone(), document.clone())).collect();
        Ok(ScanPage { documents: page, more: rest.next().is_some() })
    }

    fn delete(&self, _: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>> {
        let mut documents = lock(&self.0);
        let delete = |(id, version): &(&str, u64)| {
            if documents.get(*id).is_none_or(|document| document.version != *version) {
                return PutAnswer::Conflict;
            }
            documents.remove(*id);
            PutAnswer::Done
        };
        Ok(deletes.iter().map(delete).collect())
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
