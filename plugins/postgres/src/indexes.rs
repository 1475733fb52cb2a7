//! The indexes that lists and pruning use, built while everybody goes on reading and writing.
//!
//! A large table takes long, so this runs beside the calls; merges do not need it. What was cut short is built anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::{Call, ErrorKind};
use tokio_postgres::types::Type;
use tracing::{debug, info, warn};

use crate::errors::Failure;
use crate::migrations::advisory_lock;
use crate::pool::{Pool, Session};
use crate::tables::{Query, Tables, quoted};

/// An index of a table, both by their names without the prefix.
#[derive(Clone, Copy)]
pub(crate) struct Index {
    pub(crate) table: &'static str,
    name: &'static str,
    /// The columns, and the condition if there is one.
    of: &'static str,
    /// False if it is made with its table or not at all: it is for readers of other programs.
    is_needed: bool,
}

/// Those that the tables have always had. They are made with a table that is new.
pub(crate) const OF_READERS: [Index; 5] = [
    index("evaluations", "ix_evaluations_status", "(status)"),
    index("evaluation_events", "idx_events_eval_time", "(evaluation_id, timestamp)"),
    Index { is_needed: false, ..index("evaluation_events", "idx_events_type", "(event_type)") },
    Index { is_needed: false, ..index("evaluation_metrics", "idx_metrics_name_time", "(metric_name, timestamp)") },
    index("evaluation_metrics", "idx_metrics_eval", "(evaluation_id)"),
];
/// Those of lists and pruning. Where ids compare byte by byte the primary key is the index of the last.
const OURS: [Index; 6] = [
    index("evaluations", "evaluations_newest", "(created_at, {id})"),
    index("evaluations", "evaluations_status_newest", "(status, created_at, {id})"),
    index("evaluations", "evaluations_language_newest", "(language, created_at, {id}) WHERE language IS NOT NULL"),
    index("evaluations", "evaluations_ended", "(completed_at, {id}) WHERE completed_at IS NOT NULL"),
    // Empty where nobody else ever wrote.
    index("evaluations", "evaluations_adopted", "(created_at, {id}) WHERE state IS NULL"),
    index("evaluations", BYTES_OF_IDS, "({id})"),
];
const BYTES_OF_IDS: &str = "evaluations_id_bytes";

const fn index(table: &'static str, name: &'static str, of: &'static str) -> Index {
    Index { table, name, of, is_needed: true }
}

impl Index {
    /// The statement that creates it; `what` is `INDEX` with a word or two more.
    pub(crate) fn creation(&self, tables: &Tables, what: &str) -> String {
        let (name, table) = (quoted(&tables.plain(self.name)), tables.qualified(self.table));
        format!("CREATE {what} {name} ON {table} {}", tables.fill(self.of))
    }
}

/// Connections that a build needs: one holds the lock in a transaction, another one builds, which no transaction can.
pub(crate) const CONNECTIONS: usize = 2;
/// Rows that are given a time in one statement.
const AT_ONCE: i64 = 1000;
/// Pauses before another try, when somebody else builds or something is in the way: each twice as long as the last.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long a connection may take to be had.
const PATIENCE: Duration = Duration::from_secs(10);

/// Builds what is missing, and tries until it is there. Ends when the role may not.
///
/// What takes long goes over connections of its own, so that merges find theirs.
pub(crate) async fn build(pool: Arc<Pool>, builders: Pool, tables: Tables) {
    let mut pause = FIRST_PAUSE;
    loop {
        match build_missing(&pool, &builders, &tables).await.map_err(Failure::into_error) {
            Ok(Built::All) => return,
            Ok(Built::ByAnother) => debug!("another process builds the indexes"),
            Err(error) if error.kind == ErrorKind::Configuration => {
                warn!(error = error.message, "indexes are missing and cannot be built, lists will be slow");
                return;
            }
            Err(error) => {
                let seconds = pause.as_secs();
                warn!(error = error.message, again_in_seconds = seconds, "indexes could not be built, lists are slow");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Says which indexes are missing where nobody builds them. Works with them or without.
pub(crate) async fn tell_of_missing(pool: &Pool, tables: &Tables, deadline: Instant) {
    let look = async { missing(&pool.session(deadline).await?, tables).await };
    match look.await.map_err(Failure::into_error) {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => {
            let indexes = missing.iter().map(|index| tables.plain(index.name)).collect::<Vec<_>>().join(", ");
            warn!(indexes, "indexes are missing, lists will be slow; a worker with `migrate = \"auto\"` builds them");
        }
        Err(error) => debug!(error = error.message, "whether indexes are missing is not known"),
    }
}

enum Built {
    All,
    ByAnother,
}

async fn build_missing(pool: &Pool, builders: &Pool, tables: &Tables) -> Result<Built, Failure> {
    let is_missing = !missing(&pool.session(Instant::now() + PATIENCE).await?, tables).await?.is_empty();
    if !is_missing && !lacks_times(pool, tables).await? {
        return Ok(Built::All);
    }
    let mut lock = builders.session(Instant::now() + PATIENCE).await?;
    lock.enter_transaction();
    lock.command("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    if !advisory_lock(&lock, tables).await? {
        return Ok(Built::ByAnother);
    }
    // Ends the statement above for good: its snapshot would be waited for by the build, and so for ever.
    lock.command("SET LOCAL idle_in_transaction_session_timeout = 0").await?;
    let mut builder = builders.session(Instant::now() + PATIENCE).await?;
    // Whatever is set for the session must not outlive it.
    builder.enter_transaction();
    lift_limits(&builder).await?;
    for index in missing(&builder, tables).await? {
        let (start, name) = (Instant::now(), index.name);
        info!(index = name, "building an index");
        builder.command(&format!("DROP INDEX CONCURRENTLY IF EXISTS {}", tables.qualified(name))).await?;
        builder.command(&index.creation(tables, "INDEX CONCURRENTLY")).await?;
        info!(index = name, seconds = start.elapsed().as_secs(), "index built");
    }
    give_times(&builder, tables).await?;
    Ok(Built::All)
}

/// A build takes as long as it takes. Where that is so already nothing is set: a pooler would hand that on to others.
async fn lift_limits(builder: &Session) -> Result<(), Failure> {
    let sql =
        "SELECT name::text FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout') AND setting <> '0'";
    for row in builder.query(&Query { sql: sql.to_owned(), types: Vec::new() }, &[]).await? {
        builder.command(&format!("SET {} = 0", row.get::<_, &str>(0))).await?;
    }
    Ok(())
}

/// Gives rows without a time one, as lists need a place for everybody. They are found by an index that is there by now.
async fn give_times(builder: &Session, tables: &Tables) -> Result<(), Failure> {
    let query = tables.query(
        "UPDATE {evaluations} SET created_at = 'epoch' WHERE id IN (\
         SELECT id FROM {evaluations} WHERE created_at IS NULL ORDER BY created_at DESC, {id} DESC LIMIT $1 \
         FOR NO KEY UPDATE SKIP LOCKED) RETURNING 1",
        &[Type::INT8],
    );
    // Whoever is locked is being merged into, and gets a time by that.
    while !builder.query(&query, &[&AT_ONCE]).await?.is_empty() {}
    Ok(())
}

/// True if rows have no time. They come before all others in this order, in which an index has them.
async fn lacks_times(pool: &Pool, tables: &Tables) -> Result<bool, Failure> {
    let query =
        tables.query("SELECT created_at IS NULL FROM {evaluations} ORDER BY created_at DESC, {id} DESC LIMIT 1", &[]);
    let rows = pool.read(&Call::with_budget(PATIENCE), &query, &[]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// The indexes that are not there, or not whole.
async fn missing(session: &Session, tables: &Tables) -> Result<Vec<Index>, Failure> {
    let query = tables.query(
        "SELECT place FROM unnest($1, $2) WITH ORDINALITY AS n (index_table, name, place) \
         WHERE to_regclass(index_table) IS NOT NULL AND NOT EXISTS (\
         SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         WHERE i.indrelid = to_regclass(index_table) AND c.relname = name AND i.indisvalid) ORDER BY place",
        &[Type::TEXT_ARRAY, Type::TEXT_ARRAY],
    );
    let is_needed = |index: &&Index| index.is_needed && (index.name != BYTES_OF_IDS || tables.needs_id_index());
    let needed: Vec<&Index> = OF_READERS.iter().chain(&OURS).filter(is_needed).collect();
    let in_tables: Vec<String> = needed.iter().map(|index| tables.qualified(index.table)).collect();
    let names: Vec<String> = needed.iter().map(|index| tables.plain(index.name)).collect();
    let rows = session.query(&query, &[&in_tables, &names]).await?;
    let place = |row: &tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0)).ok()?.checked_sub(1);
    Ok(rows.iter().filter_map(|row| needed.get(place(row)?).map(|index| **index)).collect())
}
