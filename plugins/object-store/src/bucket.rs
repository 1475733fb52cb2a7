//! The calls: put, get, scan and delete of blobs, each of which may have several copies; see `lib.rs` for why.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, future};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use storage_plugin_api::{BlobEntry, BlobPage, Error, Result};
use tracing::debug;

use crate::failure::Failure;
use crate::http::overhear;
use crate::name::{Hour, Names};
use crate::place::Place;

/// How often a read looks for copies that went since it looked.
const LOOKS: usize = 4;

/// Blobs below a prefix of a store.
#[derive(Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    names: Names,
    place: Place,
}

/// A blob as it was stored in some hour.
#[derive(Clone, Debug)]
struct Copy {
    hour: Hour,
    name: Path,
    touched_at: i64,
}

impl Bucket {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, place: Place) -> Self {
        Self { store, names: Names::below(place.prefix()), place }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Stores a blob under the name of this hour. Older copies of it are removed, as far as that works.
    pub(crate) async fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let hour = Hour::now();
        let name = self.names.of_hour(key, hour)?;
        let put = self.ask(self.store.put(&name, PutPayload::from(bytes.to_vec())));
        let (put, copies) = future::join(put, self.copies(key)).await;
        put.map_err(|failure| failure.into_error(|| self.no_bucket()))?;
        if let Place::Directory(path) = &self.place {
            sync_directory(path).await?;
        }
        let older = copies.unwrap_or_default().into_iter().filter(|copy| copy.hour < hour);
        for copy in older {
            if let Err(error) = self.remove(&copy).await {
                debug!(name = copy.name.as_ref(), %error, "an older copy of a blob stays; the next time it is tried again");
            }
        }
        Ok(())
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        for look in 0..LOOKS {
            let Some(newest) = self.copies(key).await?.into_iter().max_by_key(|copy| copy.hour) else {
                // A directory is not listed as it is at one moment: the one copy may have gone when another was there.
                if look == 0 && self.is_directory() {
                    continue;
                }
                return Ok(None);
            };
            let got = self.ask(async { self.store.get(&newest.name).await?.bytes().await }).await;
            match got {
                Ok(bytes) => return Ok(Some(bytes.into())),
                // Followed by another one, or deleted.
                Err(Failure::Absent) => {}
                Err(Failure::Other(error)) => return Err(error),
            }
        }
        Err(Error::unavailable(format_args!("the blob `{key}` in {} changes too fast to be read", self.place)))
    }

    /// A page of blobs, in the order of their names.
    pub(crate) async fn scan(&self, after: &str, limit: usize) -> Result<BlobPage> {
        let limit = limit.max(1);
        let behind = self.names.behind(after);
        // By what their names begin with, as buckets list them. One more than the page has says that there are more.
        let mut found: BTreeMap<String, BlobEntry> = BTreeMap::new();
        let listed = self.ask(async {
            let mut objects = self.list(behind.as_ref());
            while let Some(object) = objects.try_next().await? {
                if behind.as_ref().is_some_and(|behind| object.location <= *behind) {
                    continue;
                }
                let Some((key, _)) = self.names.parse(&object.location) else { continue };
                let place = format!("{key}/");
                if found.len() > limit && found.last_key_value().is_some_and(|(last, _)| *last < place) {
                    match self.is_directory() {
                        true => continue,
                        false => break,
                    }
                }
                let entry = BlobEntry { key: key.to_owned(), size: object.size, touched_at: touched_at(&object) };
                let kept = found.entry(place).or_insert_with(|| entry.clone());
                if kept.touched_at < entry.touched_at {
                    *kept = entry;
                }
                if found.len() > limit + 1 {
                    found.pop_last();
                }
            }
            Ok(())
        });
        listed.await.map_err(|failure| failure.into_error(|| self.no_bucket()))?;
        let more = found.len() > limit;
        Ok(BlobPage { blobs: found.into_values().take(limit).collect(), more })
    }

    /// Removes a blob of which no copy was written since a time in microseconds, nor may still be. True if it is gone.
    pub(crate) async fn delete(&self, key: &str, untouched_since: i64) -> Result<bool> {
        let copies = self.copies(key).await?;
        if copies.iter().any(|copy| copy.touched_at >= untouched_since || copy.hour.end() > untouched_since) {
            return Ok(false);
        }
        for copy in copies {
            self.remove(&copy).await?;
        }
        Ok(true)
    }

    /// Asks for anything, to see whether blobs could be listed.
    pub(crate) async fn look(&self) -> Result<()> {
        // Not all that is below it, where something may lie that is not ours to read.
        if let Place::Directory(path) = &self.place {
            let failed = |error| Error::unavailable(format_args!("cannot read `{}`: {error}", path.display()));
            return std::fs::read_dir(path).map(drop).map_err(failed);
        }
        let looked = self.ask(async { self.list(None).next().await.transpose() }).await;
        looked.map(drop).map_err(|failure| failure.into_error(|| self.no_bucket()))
    }

    async fn copies(&self, key: &str) -> Result<Vec<Copy>> {
        let of_key = self.names.of(key)?;
        let listed = self.ask(async {
            let objects = self.store.list(Some(&of_key));
            objects.try_collect::<Vec<ObjectMeta>>().await
        });
        let objects = listed.await.map_err(|failure| failure.into_error(|| self.no_bucket()))?;
        let copy = |object: ObjectMeta| {
            let (_, hour) = self.names.parse(&object.location)?;
            Some(Copy { hour, touched_at: touched_at(&object), name: object.location })
        };
        Ok(objects.into_iter().filter_map(copy).collect())
    }

    async fn remove(&self, copy: &Copy) -> Result<()> {
        match self.ask(self.store.delete(&copy.name)).await {
            Ok(()) | Err(Failure::Absent) => Ok(()),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    fn list(
        &self,
        behind: Option<&Path>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<ObjectMeta>> {
        let prefix = Some(self.names.prefix()).filter(|prefix| !prefix.as_ref().is_empty());
        match behind {
            Some(behind) => self.store.list_with_offset(prefix, behind),
            None => self.store.list(prefix),
        }
    }

    fn is_directory(&self) -> bool {
        match self.place {
            Place::Bucket { .. } => false,
            Place::Directory(_) => true,
        }
    }

    /// Whatever is not there, it is not an object that was asked for.
    fn no_bucket(&self) -> Error {
        match &self.place {
            Place::Directory(path) => Error::unavailable(format_args!("the directory `{}` is gone", path.display())),
            place @ Place::Bucket { .. } => Error::configuration(format_args!(
                "there is no bucket of {place}; make it, or name another one in `url`"
            )),
        }
    }

    async fn ask<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> Result<T, Failure> {
        let (result, overheard) = overhear(request).await;
        result.map_err(|error| Failure::of(&self.place, &error, overheard))
    }
}

/// Makes the names in a directory durable. The store does so only for directories that it made itself, and another put may
/// have made the one of this key.
async fn sync_directory(path: &std::path::Path) -> Result<()> {
    let owned = path.to_owned();
    let synced = tokio::task::spawn_blocking(move || File::open(owned)?.sync_all()).await;
    let failed =
        |cause: &dyn fmt::Display| Error::unavailable(format_args!("cannot sync `{}`: {cause}", path.display()));
    synced.map_err(|cause| failed(&cause))?.map_err(|cause| failed(&cause))
}

fn touched_at(object: &ObjectMeta) -> i64 {
    object.last_modified.timestamp_micros()
}
