//! The index of the record files, on disk: what a list, a count and a prune need to know without reading every file.
//!
//! It follows from the files and is made anew when it is lost (`scan.rs`). A checkpoint changes it in one durable
//! transaction; what is not yet in the files is not in it either, `list.rs` lays that over.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError, WriteTransaction,
};
use storage_plugin_api::{Record, State, Status};

/// Id → row.
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// (status, created, id).
const ORDER: TableDefinition<'_, Key<'_>, ()> = TableDefinition::new("order");
/// Ids whose files of the history are behind their records.
const BEHIND: TableDefinition<'_, &str, ()> = TableDefinition::new("behind");
/// Facts about the index itself.
const FACTS: TableDefinition<'_, &str, i64> = TableDefinition::new("facts");

type Key<'a> = (u8, i64, &'a str);

/// The form of the index; another one is made anew.
const FORMAT: i64 = 1;
const FACT_FORMAT: &str = "format";
/// When a name in the directory of the evaluations last changed, and when the index was last brought up to date.
const FACT_DIRECTORY: &str = "directory_modified_ns";
const FACT_WRITTEN: &str = "written_at_ns";
const FACT_COUNT: &str = "count/";

/// The memory that the index may keep pages in.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Every code of a status, 0 for none.
pub(crate) const STATUS_CODES: std::ops::RangeInclusive<u8> = 0..=7;

/// What the index knows of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// The code of the status, 0 for none.
    pub(crate) status: u8,
    /// Microseconds; 0 where the state does not say.
    pub(crate) created: i64,
    /// Microseconds.
    pub(crate) ended: Option<i64>,
    /// Empty if unknown.
    pub(crate) language: String,
}

/// A row of an id, or none if the id is gone.
pub(crate) type Change = (Arc<str>, Option<Row>);

/// When the files were last known to be as the index says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Nanoseconds since 1970.
    pub(crate) directory_modified: i64,
    /// Nanoseconds since 1970.
    pub(crate) written: i64,
}

/// What one transaction changes.
#[derive(Debug, Default)]
pub(crate) struct Update<'a> {
    pub(crate) changes: &'a [Change],
    /// Ids whose files of the history are behind from now on.
    pub(crate) behind: &'a [Arc<str>],
    /// Ids whose files of the history are as they should be.
    pub(crate) caught_up: &'a [Arc<str>],
    /// From when the rows are; what was said last is kept if there is none.
    pub(crate) stamp: Option<Stamp>,
    /// Every file is in the index.
    pub(crate) whole: bool,
}

/// The index.
pub(crate) struct Index {
    database: Database,
}

/// A view of the index as it is at one moment.
pub(crate) struct View {
    rows: ReadOnlyTable<&'static str, &'static [u8]>,
    order: ReadOnlyTable<Key<'static>, ()>,
    facts: ReadOnlyTable<&'static str, i64>,
    behind: ReadOnlyTable<&'static str, ()>,
}

impl Row {
    pub(crate) fn of(state: &State) -> Self {
        Self {
            status: Record::status_of(state).map_or(0, Status::code),
            created: Record::created_at_of(state).unwrap_or(0),
            ended: Record::completed_at_of(state),
            language: Record::language_of(state).unwrap_or_default(),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(17 + self.language.len());
        bytes.push(self.status);
        bytes.extend(self.created.to_le_bytes());
        bytes.extend(self.ended.unwrap_or(i64::MIN).to_le_bytes());
        bytes.extend(self.language.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (status, rest) = bytes.split_first()?;
        let (created, rest) = rest.split_first_chunk()?;
        let (ended, language) = rest.split_first_chunk()?;
        Some(Self {
            status: *status,
            created: i64::from_le_bytes(*created),
            ended: Some(i64::from_le_bytes(*ended)).filter(|ended| *ended != i64::MIN),
            language: String::from_utf8_lossy(language).into_owned(),
        })
    }
}

impl Index {
    /// Opens the index of a path, or makes an empty one. True if it is whole: it was there, in the form of this version.
    pub(crate) fn open(path: &Path) -> Result<(Self, bool), redb::Error> {
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
        let index = Self { database };
        let known = match index.begin_read()?.open_table(FACTS) {
            Ok(facts) => Some(facts.get(FACT_FORMAT)?.map(|format| format.value())),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        match known {
            Some(Some(FORMAT)) => Ok((index, true)),
            // Without a format: it was begun, and never finished.
            Some(None) | None => {
                let transaction = index.begin_write()?;
                transaction.open_table(ROWS)?;
                transaction.open_table(ORDER)?;
                transaction.open_table(FACTS)?;
                transaction.open_table(BEHIND)?;
                transaction.commit()?;
                Ok((index, false))
            }
            Some(Some(other)) => {
                Err(StorageError::Corrupted(format!("the index has format {other}, not {FORMAT}")).into())
            }
        }
    }

    /// Brings the index up to date in one durable transaction.
    pub(crate) fn apply(&self, update: &Update<'_>) -> Result<(), redb::Error> {
        let transaction = self.begin_write()?;
        let counts = change_rows(&transaction, update.changes)?;
        {
            let mut behind = transaction.open_table(BEHIND)?;
            for id in update.behind {
                behind.insert(&**id, ())?;
            }
            for id in update.caught_up {
                behind.remove(&**id)?;
            }
            let mut facts = transaction.open_table(FACTS)?;
            for (code, change) in counts.iter().enumerate().filter(|(_, change)| **change != 0) {
                let key = format!("{FACT_COUNT}{code}");
                let count = facts.get(&*key)?.map_or(0, |count| count.value());
                facts.insert(&*key, count + change)?;
            }
            if let Some(stamp) = update.stamp {
                facts.insert(FACT_DIRECTORY, stamp.directory_modified)?;
                facts.insert(FACT_WRITTEN, stamp.written)?;
            }
            if update.whole {
                facts.insert(FACT_FORMAT, FORMAT)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    pub(crate) fn view(&self) -> Result<View, redb::Error> {
        let transaction = self.begin_read()?;
        Ok(View {
            rows: transaction.open_table(ROWS)?,
            order: transaction.open_table(ORDER)?,
            facts: transaction.open_table(FACTS)?,
            behind: transaction.open_table(BEHIND)?,
        })
    }

    fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(self.database.begin_read()?)
    }

    fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        // Else the first start after a crash reads all of it.
        transaction.set_quick_repair(true);
        Ok(transaction)
    }
}

/// Puts in, replaces and removes rows. Answers by how much each status has more of them.
fn change_rows(transaction: &WriteTransaction, changes: &[Change]) -> Result<[i64; 8], redb::Error> {
    let mut rows = transaction.open_table(ROWS)?;
    let mut order = transaction.open_table(ORDER)?;
    let mut counts = [0; 8];
    for (id, row) in changes {
        let before = match row {
            Some(row) => rows.insert(&**id, &*row.to_bytes())?.and_then(|row| Row::from_bytes(row.value())),
            None => rows.remove(&**id)?.and_then(|row| Row::from_bytes(row.value())),
        };
        let place = |row: &Row| (row.status, row.created);
        let (old, new) = (before.as_ref().map(place), row.as_ref().map(place));
        if old == new {
            continue;
        }
        if let Some((status, created)) = old {
            counts[usize::from(status & 7)] -= 1;
            order.remove((status, created, &**id))?;
        }
        if let Some((status, created)) = new {
            counts[usize::from(status & 7)] += 1;
            order.insert((status, created, &**id), ())?;
        }
    }
    Ok(counts)
}

impl View {
    /// Ids whose files of the history are behind, at most so many.
    pub(crate) fn behind(&self, limit: usize) -> Result<Vec<Arc<str>>, redb::Error> {
        let entries = self.behind.iter()?.take(limit);
        entries.map(|entry| Ok(Arc::from(entry?.0.value()))).collect()
    }

    pub(crate) fn row(&self, id: &str) -> Result<Option<Row>, redb::Error> {
        Ok(self.rows.get(id)?.and_then(|row| Row::from_bytes(row.value())))
    }

    pub(crate) fn stamp(&self) -> Result<Stamp, redb::Error> {
        let fact = |name: &str| Ok::<_, redb::Error>(self.facts.get(name)?.map_or(0, |fact| fact.value()));
        Ok(Stamp { directory_modified: fact(FACT_DIRECTORY)?, written: fact(FACT_WRITTEN)? })
    }

    /// How many rows have the status of a code.
    pub(crate) fn count(&self, code: u8) -> Result<u64, redb::Error> {
        let count = self.facts.get(&*format!("{FACT_COUNT}{code}"))?.map_or(0, |count| count.value());
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Rows behind an id, in id order.
    pub(crate) fn by_id(
        &self,
        after: Option<&str>,
    ) -> Result<impl Iterator<Item = Result<(String, Row), redb::Error>> + use<>, redb::Error> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let entries = self.rows.range::<&str>(range)?;
        Ok(entries.filter_map(|entry| match entry {
            Ok((id, row)) => Row::from_bytes(row.value()).map(|row| Ok((id.value().to_owned(), row))),
            Err(error) => Some(Err(error.into())),
        }))
    }

    /// (created, id) of a status between two places, the first included, the last not. Newest first from the back.
    pub(crate) fn by_created(
        &self,
        code: u8,
        from: i64,
        before: Option<(i64, &str)>,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(i64, String), redb::Error>> + use<>, redb::Error> {
        // A range must not end before it begins.
        let first = (code, from, "");
        let last = before.map_or((code + 1, i64::MIN, ""), |(created, id)| (code, created, id)).max(first);
        let entries = self.order.range::<Key<'_>>(first..last)?;
        Ok(entries.map(|entry| {
            let (key, ()) = entry.map(|(key, value)| (key, value.value()))?;
            let (_, created, id) = key.value();
            Ok((created, id.to_owned()))
        }))
    }
}
