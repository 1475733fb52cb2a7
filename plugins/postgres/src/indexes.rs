//! The indexes that lists and pruning use, built while everybody goes on reading and writing.
//!
//! A large table takes long, so this runs beside the calls; merges do not need it. What was cut short is built anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use storage_plugin_api::Error;
use tokio_postgres::types::Type;
use tracing::{info, warn};

use crate::errors::Failure;
use crate::migrations::advisory_lock;
use crate::pool::{Pool, Session};
use crate::tables::{Query, Tables};

/// Names and definitions. Where ids compare byte by byte the primary key is the index of the last.
const INDEXES: [(&str, &str); 6] = [
    ("evaluations_newest", "ON {evaluations} (created_at, {id})"),
    ("evaluations_status_newest", "ON {evaluations} (status, created_at, {id})"),
    ("evaluations_language_newest", "ON {evaluations} (language, created_at, {id}) WHERE language IS NOT NULL"),
    ("evaluations_ended", "ON {evaluations} (completed_at, {id}) WHERE completed_at IS NOT NULL"),
    // Empty where nobody else ever wrote.
    ("evaluations_adopted", "ON {evaluations} (created_at, {id}) WHERE state IS NULL"),
    ("evaluations_id_bytes", "ON {evaluations} ({id})"),
];

/// Connections that a build needs: one holds the lock in a transaction, another one builds, which no transaction can.
pub(crate) const CONNECTIONS: usize = 2;
/// Rows that are given a time in one statement.
const AT_ONCE: i64 = 1000;
/// Pause before another try, when somebody else builds or something is in the way.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a connection may take to be had.
const PATIENCE: Duration = Duration::from_secs(10);

/// Builds what is missing, and tries until it is there. Ends when the role may not.
///
/// What takes long goes over connections of its own, so that merges find theirs.
pub(crate) async fn build(pool: Arc<Pool>, builders: Pool, tables: Tables) {
    loop {
        match build_missing(&pool, &builders, &tables).await {
            Ok(()) => return,
            Err(Failure::Other(error)) if error.kind == storage_plugin_api::ErrorKind::Configuration => {
                warn!(error = error.message, "indexes are missing and cannot be built, lists will be slow");
                return;
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn build_missing(pool: &Pool, builders: &Pool, tables: &Tables) -> Result<(), Failure> {
    if missing(&pool.session(Instant::now() + PATIENCE).await?, tables).await?.is_empty() {
        return Ok(());
    }
    let mut lock = builders.session(Instant::now() + PATIENCE).await?;
    lock.enter_transaction();
    lock.command("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    if !advisory_lock(&lock, tables).await? {
        return Err(Failure::Conflict(Error::unavailable("another process builds the indexes")));
    }
    // Ends the statement above for good: its snapshot would be waited for by the build, and so for ever.
    lock.command("SET LOCAL idle_in_transaction_session_timeout = 0").await?;
    let mut builder = builders.session(Instant::now() + PATIENCE).await?;
    // Whatever is set for the session must not outlive it.
    builder.enter_transaction();
    lift_limits(&builder).await?;
    for (name, definition) in missing(&builder, tables).await? {
        let start = Instant::now();
        info!(index = name, "building an index");
        builder.command(&format!("DROP INDEX CONCURRENTLY IF EXISTS {}", tables.qualified(name))).await?;
        let create = format!("CREATE INDEX CONCURRENTLY {{name:{name}}} {definition}");
        builder.command(&tables.fill(&create)).await?;
        info!(index = name, seconds = start.elapsed().as_secs(), "index built");
    }
    give_times(&builder, tables).await
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
         SELECT id FROM {evaluations} WHERE created_at IS NULL LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED) RETURNING 1",
        &[Type::INT8],
    );
    // Whoever is locked is being merged into, and gets a time by that.
    while !builder.query(&query, &[&AT_ONCE]).await?.is_empty() {}
    Ok(())
}

/// The indexes that are not there, or not whole.
async fn missing(session: &Session, tables: &Tables) -> Result<Vec<(&'static str, &'static str)>, Failure> {
    let query = tables.query(
        "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         WHERE i.indrelid = to_regclass($1) AND i.indisvalid",
        &[Type::TEXT],
    );
    let rows = session.query(&query, &[&tables.qualified("evaluations")]).await?;
    let found: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let is_needed = |name: &str| name != "evaluations_id_bytes" || tables.needs_id_index();
    let missing = INDEXES.iter().filter(|(name, _)| is_needed(name) && !found.contains(&&*tables.plain(name)));
    Ok(missing.copied().collect())
}
